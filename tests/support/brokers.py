"""Publishers on the real broker, and what can be seen there."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from devstack import Direction, Proxy
from devstack.waiting import wait_until
from processor.engine.batch import Committed, OutboxEntry, Partition, Record, Source
from processor.engine.clients import KafkaClients
from processor.engine.cluster import Cluster
from processor.engine.outbox import seal
from processor.engine.publisher import Publisher
from processor.settings import Kafka as KafkaSettings
from tests.support.engine import free_steps

END_TXN = 26
TXN_OFFSET_COMMIT = 28
TRANSACTION_SECONDS = 10.0
READ_SECONDS = 60.0
NOW = int(time.time() * 1_000)
"""Of the outputs: the broker deletes at once what is older than its topic keeps it."""

_numbers = itertools.count(1)


class RecordingProducer:
    """The real producer; which of its calls returned without an error is written down."""

    def __init__(self, producer: Any, succeeded: list[str]) -> None:
        self._producer = producer
        self._succeeded = succeeded

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._producer, name)
        if not name.endswith("_transaction"):
            return method

        def call(*arguments: Any) -> Any:
            result = method(*arguments)
            self._succeeded.append(name)
            return result

        return call


class RecordingClients(KafkaClients):
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


class Member:
    """A member of the group; ``snapshot`` is the metadata of its last assignment."""

    def __init__(self, servers: str, group: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "enable.auto.commit": False,
                "session.timeout.ms": 45_000,
            }
        )
        self.assignments = 0
        self.snapshot: Any = None
        self._topic = topic
        self.join()

    def join(self) -> None:
        """Join (again): a new generation."""
        self._consumer.unsubscribe()
        before = self.assignments
        self._consumer.subscribe([self._topic], on_assign=self._assigned)
        wait_until(lambda: self._poll() and self.assignments > before, 30, "an assignment")

    def leave(self) -> None:
        self._consumer.close()

    def _poll(self) -> bool:
        self._consumer.poll(0.05)
        return True

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        consumer.pause(partitions)
        self.assignments += 1
        self.snapshot = consumer.consumer_group_metadata()


class KafkaWorld:
    """Publishers of one group, and a reader of what is committed."""

    def __init__(
        self, servers: str, admin: AdminClient, group: str, topic: str, member: Member
    ) -> None:
        self.servers = servers
        self.group = group
        self.topic = topic
        self.member = member
        self.cluster = Cluster(lambda _: admin, group, free_steps())
        self._admin = admin
        self._partitions = itertools.count()
        self.name = f"{group}:{os.getpid()}:{next(_numbers)}"

    def publisher(
        self, servers: str | None = None, transactional_id: str | None = None
    ) -> tuple[Publisher, RecordingClients]:
        clients = RecordingClients(servers or self.servers, self.group, self.name)
        name = transactional_id or self.name
        names = [f"{name}:0", f"{name}:1"]
        return Publisher(clients, names, TRANSACTION_SECONDS, free_steps()), clients

    def ready(self, servers: str | None = None, transactional_id: str | None = None) -> Publisher:
        publisher, _ = self.publisher(servers, transactional_id)
        publisher.prepare()
        return publisher

    def partition(self) -> Partition:
        """One that no other test uses."""
        return Partition(self.topic, next(self._partitions))

    def k(self, partition: Partition) -> Committed:
        """K and M, read stable, as soon as nothing is pending."""
        found: list[Any] = []

        def stable() -> bool:
            found[:] = [self.cluster.committed([partition])[partition]]
            return isinstance(found[0], Committed)

        wait_until(stable, READ_SECONDS, "a stable offset")
        return found[0]

    def visible(self, topic: str) -> list[Message]:
        """What can be read at this moment, whatever is still open."""
        return read_to_end(self.servers, topic)

    def settled(self, topic: str) -> list[Message]:
        """What can be read once no transaction is open any more."""
        wait_settled(self._admin, topic)
        return read_to_end(self.servers, topic)


def outputs_of(topic: str, *values: bytes | None, first: int = 0) -> OutboxEntry:
    """One entry with these outputs."""
    source = Source("topic-id", 0, "lineage", first, first + max(1, len(values)))
    records = [
        Record(topic, b"k", value, (("h", b"\xff"),), NOW, None, first + at)
        for at, value in enumerate(values)
    ]
    return seal(1, source, records)


def wait_settled(admin: AdminClient, topic: str) -> None:
    """Until every transaction on the topic has its markers: they follow EndTxn a little later."""
    numbers = admin.list_topics(topic, READ_SECONDS).topics[topic].partitions

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
    numbers = list(consumer.list_topics(topic, READ_SECONDS).topics[topic].partitions)
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

    def __init__(self, proxy: Proxy, api_key: int, then: Callable[[Trap], None]) -> None:
        self.proxy = proxy
        self.sprung = 0
        self.swallowing = False
        self._api_key = api_key
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


def requests_in(data: bytes) -> Sequence[int]:
    """The API keys of the requests that begin in a chunk."""
    found, at = [], 0
    while at + 6 <= len(data):
        found.append(int.from_bytes(data[at + 4 : at + 6]))
        at += 4 + int.from_bytes(data[at : at + 4])
    return found
