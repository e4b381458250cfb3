"""A campaign: events flow, workers are killed and stopped at random, both stores are audited.

``python -m tests.faults.campaign --events 200000 --workers 3 --kills 60 --stops 20`` prints the
verdict and ends with 1 unless it is fine, K = H = P and the outbox is empty.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from devstack import Service, Stack
from pipelines.user_events import UserEventProducer
from pipelines.user_events.audit import Verdict, audit

REFERENCE = "pipelines.user_events:pipeline"
GROUP = "user-events"
PARTITIONS = 12
CATCH_UP_SECONDS = 120.0
LONGEST_STOP_SECONDS = 9.0


@dataclass
class Plan:
    events: int
    workers: int
    kills: int
    stops: int
    seed: int = field(default_factory=lambda: random.randrange(1_000_000))
    longest_stop_seconds: float = LONGEST_STOP_SECONDS
    pause_seconds: tuple[float, float] = (0.2, 1.5)
    environment: dict[str, str] = field(default_factory=dict)
    """Settings of the processor, as variables."""


@dataclass
class Outcome:
    verdict: Verdict
    kills: int
    stops: int
    exit_code: int
    offsets: dict[int, tuple[int, int, int]]
    """H, K and P of each partition, at the end."""
    outbox_rows: int

    @property
    def fine(self) -> bool:
        level = all(h == k == p for h, k, p in self.offsets.values())
        complete = len(self.offsets) == PARTITIONS
        return self.verdict.fine and level and complete and not self.outbox_rows

    def sentence(self) -> str:
        return f"{self.verdict.sentence()} · {self.kills} kills · {self.stops} stops"


def prepare(stack: Stack, environment: dict[str, str]) -> None:
    """Schemas and topics."""
    for command in (
        ["processor", "migrate"],
        ["alembic", "-n", "user_events", "upgrade", "head"],
        ["processor", "topics", "create", REFERENCE, "--partitions", str(PARTITIONS)],
    ):
        subprocess.run(
            [sys.executable, "-m", *command],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
    stack.kafka.wait_ready()


def run(stack: Stack, plan: Plan, log: Path, tell: Callable[[str], None] = print) -> Outcome:
    """The whole campaign on an empty stack."""
    environment = {**stack.environment, "PROCESSOR_INSTANCE": "campaign", **plan.environment}
    prepare(stack, environment)
    rng = random.Random(plan.seed)
    tell(f"seed {plan.seed}")
    with Service(REFERENCE, workers=plan.workers, log=log, environment=environment) as service:
        wait_until(lambda: owned(stack) == PARTITIONS, 30, "all partitions run")
        producer = threading.Thread(target=_produce, args=(stack, plan), name="producer")
        producer.start()
        kills, stops = _break(service, plan, rng, tell)
        producer.join()
        wait_until(lambda: caught_up(stack), CATCH_UP_SECONDS, "everything is handled")
        exit_code = service.drain()
    verdict = audit(stack.kafka.bootstrap_servers, stack.postgres.url)
    return Outcome(verdict, kills, stops, exit_code, offsets(stack), outbox_rows(stack))


def _break(
    service: Service, plan: Plan, rng: random.Random, tell: Callable[[str], None]
) -> tuple[int, int]:
    """Kill and stop workers until the plan is used up."""
    todo = ["kill"] * plan.kills + ["stop"] * plan.stops
    rng.shuffle(todo)
    done = {"kill": 0, "stop": 0}
    timers: list[threading.Timer] = []
    while todo:
        time.sleep(rng.uniform(*plan.pause_seconds))
        kind = todo[-1]
        pid = service.kill_worker() if kind == "kill" else service.stop_worker()
        if pid is None:
            continue
        todo.pop()
        done[kind] += 1
        if kind == "stop":
            seconds = rng.uniform(0.5, plan.longest_stop_seconds)
            timers.append(threading.Timer(seconds, service.continue_worker, [pid]))
            timers[-1].start()
        if (plan.kills + plan.stops - len(todo)) % 10 == 0:
            tell(f"{done['kill']} kills, {done['stop']} stops")
    for timer in timers:
        timer.join()
    return done["kill"], done["stop"]


def _produce(stack: Stack, plan: Plan) -> None:
    """Spread the events over the time that the breaking takes."""
    rng = random.Random(plan.seed + 1)
    expected_seconds = (plan.kills + plan.stops) * sum(plan.pause_seconds) / 2
    started = time.monotonic()
    payloads = {
        "page_view": {"page": "/x", "duration": 2.5},
        "purchase": {"product": "x", "amount": "9.99"},
        "sign_up": {},
    }
    with UserEventProducer(stack.kafka.bootstrap_servers) as producer:
        for number in range(plan.events):
            kind = rng.choice(list(payloads))
            producer.send_user_event(rng.randrange(1_000), kind, payloads[kind])
            if number % 500 == 499:
                ahead = number / plan.events * expected_seconds - (time.monotonic() - started)
                time.sleep(max(0.0, ahead))


def wait_until(condition: Callable[[], bool], limit_seconds: float, what: str) -> float:
    """Poll; how long it took in seconds. AssertionError after the limit."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < limit_seconds, f"not within {limit_seconds:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - started


def owned(stack: Stack) -> int:
    """How many partitions run."""
    with psycopg.connect(stack.postgres.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM processor.partition_states WHERE state = 'running'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def heads(stack: Stack) -> dict[int, tuple[int, int]]:
    """H and P of each partition."""
    with psycopg.connect(stack.postgres.url) as connection:
        rows = connection.execute(
            "SELECT partition, next_offset, published_offset FROM processor.progress"
            " WHERE group_id = %s",
            (GROUP,),
        ).fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


def ends(stack: Stack) -> dict[int, int]:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import OffsetSpec

    admin = AdminClient({"bootstrap.servers": stack.kafka.bootstrap_servers})
    wanted = {TopicPartition(GROUP, n): OffsetSpec.latest() for n in range(PARTITIONS)}
    return {tp.partition: f.result(10).offset for tp, f in admin.list_offsets(wanted).items()}


def offsets(stack: Stack) -> dict[int, tuple[int, int, int]]:
    """H, K and P of each partition."""
    admin = AdminClient({"bootstrap.servers": stack.kafka.bootstrap_servers})
    request = [ConsumerGroupTopicPartitions(GROUP)]
    answer = admin.list_consumer_group_offsets(request, require_stable=True)[GROUP].result(10)
    committed = {tp.partition: tp.offset for tp in answer.topic_partitions}
    return {n: (h, committed.get(n, -1), p) for n, (h, p) in heads(stack).items()}


def outbox_rows(stack: Stack) -> int:
    with psycopg.connect(stack.postgres.url) as connection:
        row = connection.execute("SELECT count(*) FROM processor.outbox").fetchone()
    assert row is not None
    return int(row[0])


def caught_up(stack: Stack) -> bool:
    """H = K = P = end everywhere."""
    log = ends(stack)
    found = offsets(stack)
    return len(found) == PARTITIONS and all(
        h == k == p == log[number] for number, (h, k, p) in found.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--set", action="append", default=[], metavar="PROCESSOR_NAME=VALUE")
    chosen = parser.parse_args()
    plan = Plan(chosen.events, chosen.workers, chosen.kills, chosen.stops, chosen.seed)
    plan.environment = dict(each.split("=", 1) for each in chosen.set)
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        log = Path(folder) / "processor.log"
        outcome = run(stack, plan, log)
        print(outcome.sentence())
        print(f"K = H = P: {all(h == k == p for h, k, p in outcome.offsets.values())}", end=" · ")
        print(f"outbox rows: {outcome.outbox_rows} · exit code of the drain: {outcome.exit_code}")
        for example in outcome.verdict.examples:
            print(example)
        if not outcome.fine:
            kept = Path(tempfile.gettempdir()) / f"campaign-{plan.seed}.log"
            kept.write_bytes(log.read_bytes())
            print(f"the processor's log: {kept}")
    return 0 if outcome.fine else 1


if __name__ == "__main__":
    sys.exit(main())
