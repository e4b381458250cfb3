"""What the contracts of Kafka need of a world: the real broker's, and the simulated one's."""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from confluent_kafka import KafkaError, Message, TopicPartition

from processor.engine.batch import Committed, OutboxEntry, Partition, Record, Source
from processor.engine.clients import Clients
from processor.engine.cluster import Cluster
from processor.engine.outbox import seal
from processor.engine.publisher import Publisher
from tests.support.engine import free_steps

TRANSACTION_SECONDS = 10.0
READ_SECONDS = 60.0
NOW = int(time.time() * 1_000)
"""Of the outputs: the broker deletes at once what is older than its topic keeps it."""

FENCED = KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID

_numbers = itertools.count(1)


def unique(word: str) -> str:
    return f"{word}-w{os.getpid()}-{next(_numbers)}"


class Sprung(Protocol):
    """How often a trap has sprung."""

    sprung: int


class Held(Protocol):
    """A request that is on its way for a long time."""

    sprung: int

    def release(self) -> None:
        """Let it arrive at the broker, and be served."""


class RecordingProducer:
    """A producer; which of its calls returned without an error is written down."""

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


class RecordingClients(Clients, Protocol):
    """``succeeded`` names the transactional calls that said success."""

    succeeded: list[str]


class World(ABC):
    """One group with one member, publishers, a reader of what is committed, and faults."""

    member: Member
    cluster: Cluster

    def __init__(self, group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self._partitions = itertools.count()
        self.name = unique(group)

    # Clients

    @abstractmethod
    def clients(self, breakable: bool) -> RecordingClients:
        """:param breakable: whether the faults below can reach them."""

    @abstractmethod
    def consumer(self, config: Mapping[str, Any], breakable: bool = False) -> Any:
        """A plain consumer."""

    @abstractmethod
    def producer(self, config: Mapping[str, Any], breakable: bool = False) -> Any:
        """A plain transactional producer."""

    @abstractmethod
    def sibling(self) -> World:
        """The same broker; a group and a member of its own."""

    def publisher(
        self, breakable: bool = False, transactional_id: str | None = None
    ) -> tuple[Publisher, RecordingClients]:
        clients = self.clients(breakable)
        name = transactional_id or self.name
        names = [f"{name}:0", f"{name}:1"]
        return Publisher(clients, names, TRANSACTION_SECONDS, free_steps()), clients

    def ready(self, breakable: bool = False, transactional_id: str | None = None) -> Publisher:
        publisher, _ = self.publisher(breakable, transactional_id)
        publisher.prepare()
        return publisher

    # Topics and what is in them

    @abstractmethod
    def new_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """A topic; its name begins so."""

    @abstractmethod
    def append(self, topic: str, values: Sequence[bytes]) -> None:
        """Records without a transaction, into partition 0."""

    @abstractmethod
    def append_transaction(
        self, topic: str, values: Sequence[bytes], commit: bool | None
    ) -> Callable[[], None]:
        """Records of a transaction, into partition 0.

        :param commit: None leaves it open.
        :return: aborts it.
        """

    @abstractmethod
    def visible(self, topic: str) -> list[Message]:
        """What can be read at this moment, whatever is still open."""

    @abstractmethod
    def settled(self, topic: str) -> list[Message]:
        """What can be read once no transaction is open any more."""

    def partition(self) -> Partition:
        """One that no other test uses."""
        return Partition(self.topic, next(self._partitions))

    def k(self, partition: Partition) -> Committed:
        """K and M, read stable, as soon as nothing is pending."""
        found: list[Any] = []

        def stable() -> bool:
            found[:] = [self.cluster.committed([partition])[partition]]
            return isinstance(found[0], Committed)

        self.wait_until(stable, READ_SECONDS, "a stable offset")
        committed: Committed = found[0]
        return committed

    @abstractmethod
    def refill(self, topic: str, keep: int, values: Sequence[bytes]) -> int:
        """Partition 0 loses what is behind its first records, and gets others; returns a leader
        epoch of which the log has nothing there any more.
        """

    # Time

    @abstractmethod
    def now(self) -> float:
        """Seconds."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Let them pass; a world is the engine's ``Clock`` too."""

    @abstractmethod
    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """:raises Exception: once the time is over."""

    # Faults of breakable clients; requests by their name in Kafka's protocol

    @abstractmethod
    def losing_answer(self, request: str) -> AbstractContextManager[Sprung]:
        """The first such request is served, and the connection breaks before its answer."""

    @abstractmethod
    def answering_late(self, request: str, seconds: float) -> AbstractContextManager[Sprung]:
        """From the first such request on nothing is answered for so long."""

    @abstractmethod
    def answering_slowly(self, request: str, seconds: float) -> AbstractContextManager[Sprung]:
        """The first such request is answered so much later than others."""

    @abstractmethod
    def stalled_from(self, request: str) -> AbstractContextManager[Sprung]:
        """From the first such request on nothing is answered, until the end of the block."""

    @abstractmethod
    def holding(self, request: str) -> AbstractContextManager[Held]:
        """The first such request is under way until it is released; its connection breaks."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """The broker cannot be reached."""


class Member:
    """A member of the group; ``snapshot`` is the metadata of its last assignment."""

    def __init__(self, world: World, group: str, **config: Any) -> None:
        self._world = world
        self.client = world.consumer(
            {
                "group.id": group,
                "enable.auto.commit": False,
                "session.timeout.ms": 45_000,
                "partition.assignment.strategy": "roundrobin",
                **config,
            }
        )
        self.assignments = 0
        self.snapshot: Any = None
        self.owned: set[int] = set()
        self.told: list[str] = []
        """Callbacks and the event of a fence, in their order."""
        self.fenced = False
        """Told by an event without a topic, as a member is whose instance id another has taken."""

    def join(self) -> None:
        """Join (again): a new generation, unless it comes back under its instance id."""
        self.client.unsubscribe()
        before = self.assignments
        self.subscribe()
        self._world.wait_until(
            lambda: self.poll() and self.assignments > before, 30, "an assignment"
        )

    def subscribe(self) -> None:
        self.client.subscribe(
            [self._world.topic],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def poll(self) -> bool:
        message = self.client.poll(0.02)
        error = None if message is None or message.topic() is not None else message.error()
        if error is not None and error.code() in FENCED:
            self.fenced = True
            self.told.append("fenced")
        return True

    def leave(self) -> None:
        self.client.close()

    def _assigned(self, client: Any, partitions: list[TopicPartition]) -> None:
        client.assign(partitions)
        client.pause(partitions)
        self.assignments += 1
        self.told.append("assigned")
        self.owned = {each.partition for each in partitions}
        self.snapshot = client.consumer_group_metadata()

    def _revoked(self, client: Any, partitions: list[TopicPartition]) -> None:
        self.owned = set()
        self.told.append("revoked")

    def _lost(self, client: Any, partitions: list[TopicPartition]) -> None:
        self.owned = set()
        self.told.append("lost")


def outputs_of(topic: str, *values: bytes | None, first: int = 0) -> OutboxEntry:
    """One entry with these outputs."""
    source = Source("topic-id", 0, "lineage", first, first + max(1, len(values)))
    records = [
        Record(topic, b"k", value, (("h", b"\xff"),), NOW, None, first + at)
        for at, value in enumerate(values)
    ]
    return seal(1, source, records)
