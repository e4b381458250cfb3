"""Engine rooms over the broker in memory, on one seed after the other: ``python -m`` this module.

Two slots consume, publish what they consumed, and one of them is killed on the way.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import partial
from time import perf_counter

from processor.engine.batch import Partition, Record, Source
from processor.engine.cluster import Cluster
from processor.engine.consumer import Consumer
from processor.engine.failures import Doubt
from processor.engine.outbox import seal
from processor.engine.publisher import Publisher
from processor.settings import Kafka
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.clients import SimulatedClients
from processor.testing.network import Network
from processor.testing.scheduler import Clock, Process, Scheduler
from tests.support.engine import free_steps, in_hand

MESSAGES = 200


class Copier:
    """Consumes, and publishes each message once more with K behind it; forgets on any doubt."""

    def __init__(self, broker: Broker, network: Network, slot: str) -> None:
        clients = SimulatedClients(broker, network, Kafka(), "copiers", slot)
        self.publisher = Publisher(clients, [f"{slot}:0", f"{slot}:1"], 12.0, free_steps())
        self.cluster = Cluster(clients.admin, "copiers", free_steps())
        clock = Clock(network.time)
        self.consumer = Consumer(
            clients, ["input"], self, in_hand(50, 1_000_000, clock), free_steps(), clock
        )
        self.recovering: set[Partition] = set()
        self.time = network.time

    def assigned(self, partitions: Collection[Partition]) -> None:
        self.publisher.retire()
        self.recovering = set(partitions)

    def revoked(self, partitions: Collection[Partition]) -> None:
        self.publisher.retire()
        self.recovering -= set(partitions)

    lost = revoked

    def run(self) -> None:
        self.consumer.subscribe()
        while True:
            fetched = self.consumer.fetch(0.1)
            try:
                for each in fetched.slices:
                    if each.partition not in self.recovering:
                        self.copy(each.partition, each.first, each.messages)
                self.recover()
            except Doubt:
                self.publisher.retire()
                self.recovering = set(self.consumer.owned)
                self.consumer.hold(self.recovering)

    def recover(self) -> None:
        if not self.recovering:
            return
        self.publisher.prepare()
        found = self.cluster.committed(self.recovering)
        ready = {p: k for p, k in found.items() if not isinstance(k, str)}
        self.recovering -= set(ready)
        self.consumer.start({p: (k.offset or 0, None) for p, k in ready.items()})

    def copy(self, partition: Partition, first: int, messages: list[object]) -> None:
        end = messages[-1].offset() + 1  # type: ignore[attr-defined]
        records = [Record("output", m.key(), m.value(), (), 1, None, None) for m in messages]  # type: ignore[attr-defined]
        entry = seal(1, Source("id", partition.number, "l", first, end), records)
        self.publisher.send([entry], [(partition, end, "m")], self.consumer.snapshot)
        self.publisher.commit()


def run(seed: int) -> tuple[float, int]:
    """One seed; virtual seconds and switches."""
    time = Scheduler(seed)
    network = Network(time)
    broker = Broker(time)
    broker.create_topic("input", 4)
    broker.create_topic("output", 2)

    def arrive(number: int) -> None:
        broker.append("input", number % 4, b"%d" % number, key=b"%d" % (number % 7))

    for number in range(MESSAGES):
        time.later(number * 0.02, partial(arrive, number))

    def start(slot: str) -> Process:
        process = Process(slot)
        time.spawn(process, lambda: Copier(broker, network, slot).run())
        return process

    first, _ = start("slot-0"), start("slot-1")
    time.later(time.random.uniform(0.5, 3), lambda: (first.kill(), start("slot-0")))  # type: ignore[arg-type, return-value]

    def done() -> bool:
        return sum(o.offset for o in broker.group("copiers").offsets.committed.values()) == MESSAGES

    assert time.run(done, 60.0), f"seed {seed}: not done"
    time.run(broker.settled, time.now() + 60)
    values = sorted(int(m.value()) for m in broker.visible("output"))
    assert values == list(range(MESSAGES)), f"seed {seed}: {len(values)} outputs"
    return time.now(), time.switches


if __name__ == "__main__":
    began = perf_counter()
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    for seed in seeds:
        seconds, switches = run(seed)
        print(f"seed {seed}: {seconds:.2f} s simulated, {switches} switches")
    print(f"{len(seeds) / (perf_counter() - began):.1f} seeds/s")
