"""The simulated broker as a world for the contracts: virtual time, driven from outside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Message

from processor.engine.cluster import Cluster
from processor.settings import Kafka as KafkaSettings
from processor.testing.kafka.broker import SERVER, Broker
from processor.testing.kafka.clients import SimulatedClients
from processor.testing.kafka.consumer import Consumer
from processor.testing.kafka.producer import Producer
from processor.testing.network import Fate, Network, Request
from processor.testing.scheduler import OUTSIDE, Scheduler
from tests.support.engine import free_steps
from tests.support.worlds import READ_SECONDS, Member, RecordingProducer, World, unique

TURN_SECONDS = 0.005
HELD_SECONDS = 5.0


class RecordingSimulatedClients(SimulatedClients):
    """``succeeded`` names the transactional calls that said success."""

    def __init__(self, broker: Broker, network: Network, group: str, slot: str) -> None:
        super().__init__(broker, network, KafkaSettings(), group, slot)
        self.succeeded: list[str] = []

    def producer(
        self,
        transactional_id: str,
        transaction_timeout_seconds: float,
        logger: logging.Logger,
        on_delivery: Callable[[Any, Any], None],
        on_error: Callable[[Any], None],
    ) -> Any:
        made = super().producer(
            transactional_id, transaction_timeout_seconds, logger, on_delivery, on_error
        )
        return RecordingProducer(made, self.succeeded)


class Fault:
    """Gives requests their fate, from the first of a name on."""

    def __init__(self, request: str, fate: Fate, times: int) -> None:
        self.sprung = 0
        self._request = request
        self._fate = fate
        self._left = times
        self._seen = False

    def __call__(self, request: Request) -> Fate:
        if request.name == self._request and not self._seen:
            self._seen = True
            self.sprung += 1
        if not self._seen or self._left == 0:
            return Fate.ARRIVES
        self._left -= 1
        return self._fate


class SimulatedHeld:
    """A request that is late."""

    def __init__(self, fault: Fault, scheduler: Scheduler) -> None:
        self._fault = fault
        self._scheduler = scheduler

    @property
    def sprung(self) -> int:
        return self._fault.sprung

    def release(self) -> None:
        self._scheduler.pause(HELD_SECONDS + 1)


class SimulatedWorld(World):
    """All clients are breakable: what breaks is aimed by the request's name."""

    def __init__(
        self,
        group: str,
        broker: Broker | None = None,
        network: Network | None = None,
        topic: str = "",
    ) -> None:
        self._scheduler = Scheduler(seed=1) if network is None else network.time
        self._network = network or Network(self._scheduler)
        self.broker = broker or Broker(self._scheduler)
        super().__init__(group, topic or self.new_topic("publishing", 64))
        clients = SimulatedClients(self.broker, self._network, KafkaSettings(), group, self.name)
        self.cluster = Cluster(clients.admin, group, free_steps())
        self.member = Member(self, group)
        self.member.join()

    def sibling(self) -> SimulatedWorld:
        return SimulatedWorld(unique(self.group), self.broker, self._network, self.topic)

    def clients(self, breakable: bool) -> RecordingSimulatedClients:
        return RecordingSimulatedClients(self.broker, self._network, self.group, self.name)

    def consumer(self, config: Mapping[str, Any], breakable: bool = False) -> Consumer:
        return Consumer(config, self.broker, self._network)

    def producer(self, config: Mapping[str, Any], breakable: bool = False) -> Producer:
        return Producer(config, self.broker, self._network)

    def new_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        topic = unique(name)
        self.broker.create_topic(topic, partitions, config)
        return topic

    def append(self, topic: str, values: Sequence[bytes]) -> None:
        for value in values:
            self.broker.append(topic, 0, value)

    def append_transaction(
        self, topic: str, values: Sequence[bytes], commit: bool | None
    ) -> Callable[[], None]:
        drafts = [self.broker.draft(None, value) for value in values]
        producer_id = self.broker.append_transaction(topic, 0, drafts, commit)
        return lambda: self.broker.end_transaction(topic, 0, producer_id, commit=False)

    def visible(self, topic: str) -> list[Message]:
        return self.broker.visible(topic)

    def settled(self, topic: str) -> list[Message]:
        self.wait_until(self.broker.settled, READ_SECONDS, "the end of all transactions")
        return self.broker.visible(topic)

    def refill(self, topic: str, keep: int, values: Sequence[bytes]) -> int:
        self.broker.truncate(topic, 0, keep)
        self.append(topic, values)
        return 0

    def now(self) -> float:
        return self._scheduler.now()

    def sleep(self, seconds: float) -> None:
        self._scheduler.pause(seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = self.now() + seconds
        while not condition():
            assert self.now() <= deadline, f"{what}: not within {seconds:g} s"
            self._scheduler.pause(TURN_SECONDS)

    @contextmanager
    def losing_answer(self, request: str) -> Iterator[Fault]:
        with self._fated(Fault(request, Fate.REPLY_LOST, 1)) as fault:
            yield fault

    @contextmanager
    def answering_late(self, request: str, seconds: float) -> Iterator[Fault]:
        with self._fated(Fault(request, Fate.LATE, 1), late_seconds=seconds) as fault:
            yield fault

    @contextmanager
    def answering_slowly(self, request: str, seconds: float) -> Iterator[Fault]:
        self._network.slow_seconds = seconds
        with self._fated(Fault(request, Fate.SLOW, 1)) as fault:
            yield fault

    @contextmanager
    def stalled_from(self, request: str) -> Iterator[Fault]:
        with self._fated(Fault(request, Fate.LATE, -1)) as fault:
            yield fault

    @contextmanager
    def holding(self, request: str) -> Iterator[SimulatedHeld]:
        with self._fated(Fault(request, Fate.LATE, 1), late_seconds=HELD_SECONDS) as fault:
            yield SimulatedHeld(fault, self._scheduler)

    @contextmanager
    def away(self) -> Iterator[None]:
        self._network.cut.add((OUTSIDE.name, SERVER))
        try:
            yield
        finally:
            self._network.cut.discard((OUTSIDE.name, SERVER))

    @contextmanager
    def _fated(self, fault: Fault, late_seconds: float = 1.0) -> Iterator[Fault]:
        self._network.fates, self._network.late = fault, lambda _: late_seconds
        try:
            yield fault
        finally:
            self._network.fates = lambda _: Fate.ARRIVES
