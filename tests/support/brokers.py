"""Publishers and members on the real broker, and what can be seen there."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from devstack import Direction, Kafka, Proxy
from devstack.waiting import wait_until
from processor.engine.clients import KafkaClients
from processor.engine.cluster import Cluster
from processor.settings import Kafka as KafkaSettings
from tests.support.engine import free_steps
from tests.support.worlds import READ_SECONDS, Member, RecordingProducer, World, unique

API_KEYS = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
}
SEVER_AFTER_SECONDS = 0.2
NO_SUCH_EPOCH = 99
HELD_ANSWER_SECONDS = 10.0

_numbers = itertools.count(1)


class RecordingKafkaClients(KafkaClients):
    """The real clients; ``succeeded`` names the transactional calls that said success."""

    def __init__(self, servers: str, group: str, slot: str) -> None:
        super().__init__(KafkaSettings(bootstrap_servers=servers), group, slot)
        self.succeeded: list[str] = []

    def producer(
        self,
        transactional_id: str,
        transaction_timeout_seconds: float,
        logger: logging.Logger,
        on_delivery: Callable[[Any, Any], None],
        on_error: Callable[[Any], None],
    ) -> Any:
        real = super().producer(
            transactional_id, transaction_timeout_seconds, logger, on_delivery, on_error
        )
        return RecordingProducer(real, self.succeeded)


class KafkaWorld(World):
    """The real broker; breakable clients reach it through its proxy."""

    def __init__(self, kafka: Kafka, admin: AdminClient, group: str, topic: str = "") -> None:
        self._kafka = kafka
        self._admin = admin
        super().__init__(group, topic or self.new_topic("publishing", 64))
        self.cluster = Cluster(lambda _: admin, group, free_steps())
        self.member = Member(self, group)
        self.member.join()

    def sibling(self) -> KafkaWorld:
        return KafkaWorld(self._kafka, self._admin, unique(self.group), self.topic)

    def clients(self, breakable: bool) -> RecordingKafkaClients:
        return RecordingKafkaClients(self._servers(breakable), self.group, self.name)

    def consumer(self, config: Mapping[str, Any], breakable: bool = False) -> Consumer:
        return Consumer({"bootstrap.servers": self._servers(breakable), "log_level": 0, **config})

    def producer(self, config: Mapping[str, Any], breakable: bool = False) -> Producer:
        return Producer({"bootstrap.servers": self._servers(breakable), "log_level": 0, **config})

    def new_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        topic = NewTopic(unique(name), partitions, config=dict(config or {}))
        self._admin.create_topics([topic])[topic.topic].result(30)
        self._kafka.wait_ready()
        return str(topic.topic)

    def append(self, topic: str, values: Sequence[bytes]) -> None:
        producer = self.producer({"linger.ms": 0, "enable.idempotence": True})
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(READ_SECONDS) == 0

    def append_transaction(
        self, topic: str, values: Sequence[bytes], commit: bool | None
    ) -> Callable[[], None]:
        producer = self.producer({"transactional.id": unique("appending"), "linger.ms": 0})
        producer.init_transactions(READ_SECONDS)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(READ_SECONDS) == 0
        if commit:
            producer.commit_transaction(READ_SECONDS)
        elif commit is False:
            producer.abort_transaction(READ_SECONDS)
        if commit is not None:
            wait_settled(self._admin, topic)
        return lambda: producer.abort_transaction(READ_SECONDS)

    def visible(self, topic: str) -> list[Message]:
        return read_to_end(self._servers(False), topic)

    def settled(self, topic: str) -> list[Message]:
        wait_settled(self._admin, topic)
        return read_to_end(self._servers(False), topic)

    def refill(self, topic: str, keep: int, values: Sequence[bytes]) -> int:
        """One node loses nothing; but an epoch that its log has never had ends where it begins."""
        return NO_SUCH_EPOCH

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        wait_until(condition, seconds, what)

    @contextmanager
    def losing_answer(self, request: str) -> Iterator[Trap]:
        def lose_the_answer(trap: Trap) -> None:
            trap.swallowing = True
            threading.Timer(SEVER_AFTER_SECONDS, sever, [trap]).start()

        def sever(trap: Trap) -> None:
            trap.proxy.sever()
            trap.swallowing = False

        with Trap(self._proxy, request, lose_the_answer) as trap:
            yield trap

    @contextmanager
    def answering_late(self, request: str, seconds: float) -> Iterator[Trap]:
        def stall(trap: Trap) -> None:
            trap.swallowing = True
            threading.Timer(seconds, go_on, [trap]).start()

        def go_on(trap: Trap) -> None:
            trap.swallowing = False

        with Trap(self._proxy, request, stall) as trap:
            yield trap

    @contextmanager
    def answering_slowly(self, request: str, seconds: float) -> Iterator[Trap]:
        def hold_up(trap: Trap) -> None:
            trap.proxy.stall(Direction.TO_CLIENT)
            threading.Timer(seconds, trap.proxy.restore).start()

        with Trap(self._proxy, request, hold_up) as trap:
            yield trap

    @contextmanager
    def stalled_from(self, request: str) -> Iterator[Trap]:
        with Trap(self._proxy, request, lambda trap: trap.proxy.stall()) as trap:
            yield trap

    @contextmanager
    def holding(self, request: str) -> Iterator[HeldRequest]:
        held = HeldRequest(self._proxy, request, self._kafka.nodes[0].ports.client)
        try:
            yield held
        finally:
            self._proxy.on_data = None

    @contextmanager
    def away(self) -> Iterator[None]:
        self._proxy.cut()
        try:
            yield
        finally:
            self._proxy.restore()

    @property
    def _proxy(self) -> Proxy:
        [proxy] = self._kafka.proxies
        return proxy

    def _servers(self, breakable: bool) -> str:
        kafka = self._kafka
        return kafka.proxied_bootstrap_servers if breakable else kafka.bootstrap_servers


def partition_numbers(client: Any, topic: str) -> list[int]:
    """A broker that has just heard of a topic may know no partition of it yet."""
    found: list[int] = []

    def known() -> bool:
        found[:] = client.list_topics(topic, READ_SECONDS).topics[topic].partitions
        return bool(found)

    wait_until(known, READ_SECONDS, f"partitions of {topic}")
    return found


def wait_settled(admin: AdminClient, topic: str) -> None:
    """Until every transaction on the topic has its markers: they follow EndTxn a little later."""
    numbers = partition_numbers(admin, topic)

    def ends(isolation: IsolationLevel) -> list[int]:
        request = {TopicPartition(topic, number): OffsetSpec.latest() for number in numbers}
        futures = admin.list_offsets(request, isolation_level=isolation)
        return [future.result(READ_SECONDS).offset for future in futures.values()]

    def settled() -> bool:
        return ends(IsolationLevel.READ_COMMITTED) == ends(IsolationLevel.READ_UNCOMMITTED)

    wait_until(settled, READ_SECONDS, f"the end of the transactions on {topic}")


def read_to_end(servers: str, topic: str, isolation: str = "read_committed") -> list[Message]:
    """All messages of a topic, partition by partition, up to its end at this moment."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-{os.getpid()}-{next(_numbers)}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )
    numbers = partition_numbers(consumer, topic)
    found: dict[int, list[Message]] = {number: [] for number in numbers}
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    open_ends = set(numbers)

    def read() -> bool:
        for message in consumer.consume(1_000, 0.05):
            error = message.error()
            if error is None:
                found[message.partition()].append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_ends.discard(message.partition())
            else:
                raise AssertionError(error)
        return not open_ends

    try:
        wait_until(read, READ_SECONDS, f"the end of {topic}")
    finally:
        consumer.close()
    return [message for number in numbers for message in found[number]]


class Trap:
    """Waits for a kind of request, lets it reach the broker, and then does something."""

    def __init__(self, proxy: Proxy, request: str, then: Callable[[Trap], None]) -> None:
        self.proxy = proxy
        self.sprung = 0
        self.swallowing = False
        self._api_key = API_KEYS[request]
        self._then = then

    def __enter__(self) -> Trap:
        self.proxy.on_data = self._passing
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.on_data = None
        self.proxy.restore()

    def _passing(self, direction: Direction, data: bytes) -> bytes | None:
        if direction is Direction.TO_CLIENT:
            return None if self.swallowing else data
        if not self.sprung and self._api_key in requests_in(data):
            self.sprung += 1
            self._then(self)
        return data


class HeldRequest:
    """Takes a request off the wire and breaks its connection; it arrives later by another."""

    def __init__(self, proxy: Proxy, request: str, port: int) -> None:
        self.sprung = 0
        self._data = b""
        self._proxy = proxy
        self._api_key = API_KEYS[request]
        self._port = port
        proxy.on_data = self._passing

    def _passing(self, direction: Direction, data: bytes) -> bytes | None:
        if direction is Direction.TO_SERVER and not self.sprung:
            if self._api_key not in requests_in(data):
                return data
            self.sprung += 1
            self._data = data
            threading.Timer(0.0, self._proxy.sever).start()
            return None
        return data

    def release(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), HELD_ANSWER_SECONDS) as wire:
            wire.sendall(self._data)
            with contextlib.suppress(TimeoutError):
                wire.recv(1_024)


def requests_in(data: bytes) -> Sequence[int]:
    """The API keys of the requests that begin in a chunk."""
    found, at = [], 0
    while at + 6 <= len(data):
        found.append(int.from_bytes(data[at + 4 : at + 6]))
        at += 4 + int.from_bytes(data[at : at + 4])
    return found
