"""Faults of processes: kills, stops, services that come and go, clocks that jump."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from random import Random

from confluent_kafka import Consumer, KafkaException, TopicPartition

from devstack import Service
from devstack.waiting import wait_until
from tests.faults.chaos.nemesis import Heal, Nemesis, nothing
from tests.faults.chaos.pipeline import GROUP, NUMBERS
from tests.faults.chaos.stage import CLOCKED, GUEST, MAIN, SESSION_SECONDS, Stage

JUMPS = ("+3600", "-3600", "+86400", "-600", "+30", "-30")
START_SECONDS = 90.0
MEMBER_SECONDS = (0.2, 0.8)


def kill(stage: Stage, rng: Random) -> Heal | None:
    found = stage.worker_pids()
    if not found:
        return None
    service, pid = rng.choice(found)
    return nothing if service.kill_worker(pid) else None


def stop(stage: Stage, rng: Random) -> Heal | None:
    found = stage.worker_pids()
    if not found:
        return None
    service, pid = rng.choice(found)
    return partial(service.continue_worker, pid) if service.stop_worker(pid) else None


def kill_service(stage: Stage, rng: Random) -> Heal | None:
    """The supervisor and all its workers at once, as a machine would go; then it comes back."""
    name = rng.choice([MAIN, CLOCKED])
    with stage.lock:
        service = stage.services.pop(name)
        service.close()

    def back() -> None:
        with stage.lock:
            service = stage.start(name)
        wait_until(lambda: bool(service.workers()), START_SECONDS, f"the workers of {name}")

    return back


def scale(stage: Stage, rng: Random) -> Heal | None:
    """A service of one or two workers joins, works for a while, and drains or is killed."""
    with stage.lock:
        guest = stage.start(GUEST, rng.choice([1, 2]))
    drains = rng.random() < 0.7
    return partial(_leave, stage, guest, drains)


def _leave(stage: Stage, guest: Service, drains: bool) -> None:
    with stage.lock:
        stage.services.pop(GUEST, None)
    if drains:
        guest.drain()
    guest.close()


def storm(stage: Stage, rng: Random) -> Heal | None:
    """Members that do nothing join the group and leave it, one rebalance after the other."""
    over = threading.Event()
    seconds = [rng.uniform(*MEMBER_SECONDS) for _ in range(8)]
    threads = [
        threading.Thread(target=_join_and_leave, args=(stage, over, each), daemon=True)
        for each in (seconds[::2], seconds[1::2])
    ]
    for thread in threads:
        thread.start()

    def end() -> None:
        over.set()
        for thread in threads:
            thread.join()

    return end


def _join_and_leave(stage: Stage, over: threading.Event, seconds: list[float]) -> None:
    while not over.is_set():
        for each in seconds:
            with suppress(KafkaException):
                _be_a_member(stage, over, each)


def _be_a_member(stage: Stage, over: threading.Event, seconds: float) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": stage.stack.kafka.bootstrap_servers,
            "group.id": GROUP,
            "session.timeout.ms": SESSION_SECONDS * 1_000,
            "partition.assignment.strategy": "roundrobin",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )

    def idle(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        consumer.pause(partitions)

    try:
        consumer.subscribe([NUMBERS], on_assign=idle)
        while seconds > 0 and not over.is_set():
            consumer.poll(0.05)
            seconds -= 0.05
    finally:
        consumer.close()


def jump(stage: Stage, rng: Random) -> Heal | None:
    """The wall clock of one service is set to another time, and back again.

    Not while it starts: librdkafka waits by the wall clock, and when that is set back meanwhile it
    waits for so much longer. A worker's watchdog ends that; a start has none.
    """
    clock = stage.clock
    if clock is None:
        return None
    clock.write_text(rng.choice(JUMPS))

    def set_right() -> None:
        clock.write_text("+0")

    return set_right


KINDS = [
    Nemesis("worker killed", kill, weight=9),
    Nemesis("worker stopped", stop, seconds=(0.5, 14.0), weight=4),
    Nemesis("service killed", kill_service, seconds=(0.1, 3.0), weight=1, touches="service"),
    Nemesis("scaled up and down", scale, seconds=(6.0, 18.0), weight=1.5, touches="guest"),
    Nemesis("rebalance storm", storm, seconds=(3.0, 7.0), weight=1.5, touches="group"),
    Nemesis("clock jumped", jump, seconds=(4.0, 10.0), weight=2, touches="service"),
]
