"""A producer's outgoing messages: batched, sent in order, sent again, their failures reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaError, Message

from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import Draft, TopicNumber
from processor.testing.network import RequestLost, RequestTimedOut

T = TypeVar("T")
MISSING_TOPIC_SECONDS = 4.0
"""``topic.metadata.propagation.max.ms``"""
LINGER_SECONDS = 0.001
CONCURRENT_RETRY_SECONDS = 0.02
"""librdkafka's own before it adds partitions again."""
LIMITS = 1, 7, 1_000, 1_000, 1_000
"""Messages of one request, one of these by chance."""
UNASSIGNED = -1

Report = tuple[KafkaError, Message]
FENCED = KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED
GONE_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART


class Identity(NamedTuple):
    """What InitProducerId gave."""

    transactional_id: str
    producer_id: int
    epoch: int


class Outgoing(NamedTuple):
    topic: str
    partition: int
    draft: Draft


class Sender:
    """Runs as a task of the process while there is something to send, one request at a time."""

    def __init__(
        self, connection: Connection, identity: Identity, fatal: Callable[[int, str], None]
    ) -> None:
        self._connection = connection
        self._time = connection.time
        self._identity = identity
        self._fatal = fatal
        self._queue: deque[Outgoing] = deque()
        self._counts: dict[str, int] = {}
        self._sequences: dict[TopicNumber, int] = {}
        self._working = False
        self._waiting = 0
        """Messages whose topic does not exist, until their time is over."""
        self._stopped = False
        self.added: dict[TopicNumber, None] = {}
        """Partitions of the open transaction."""
        self.failed = 0
        """Messages of the open transaction that were not delivered."""
        self.reports: list[Report] = []

    @property
    def idle(self) -> bool:
        return not (self._queue or self._working or self._waiting)

    def begin(self) -> None:
        self.added = {}
        self.failed = 0

    def put(self, topic: str, partition: int, draft: Draft) -> None:
        self._queue.append(Outgoing(topic, partition, draft))
        if not self._working:
            self._working = True
            self._connection.spawn(self._work, LINGER_SECONDS)

    def purge(self) -> None:
        """Drop what was not sent."""
        self._queue.clear()

    def stop(self) -> None:
        """After a fatal error nothing is sent."""
        self._stopped = True
        while self._queue:
            self._fail(self._queue.popleft(), KafkaError._PURGE_QUEUE)

    def _work(self) -> None:
        try:
            while self._queue and not self._stopped:
                self._send(self._batches())
        finally:
            self._working = False

    def _batches(self) -> dict[TopicNumber, list[Draft]]:
        """By partition, as many as one request takes."""
        batches: dict[TopicNumber, list[Draft]] = {}
        for _ in range(min(len(self._queue), self._time.random.choice(LIMITS))):
            if not self._queue:
                break  # purged while the topic was asked for
            out = self._queue.popleft()
            try:
                count = self._count(out.topic)
            except Refused as refusal:
                self._fail(out, refusal.code)
                break
            if not count:
                self._fail_later(out)
            elif out.partition >= count:
                self._fail(out, KafkaError._UNKNOWN_PARTITION)
            else:
                number = out.partition if out.partition >= 0 else self._partition(out, count)
                batches.setdefault((out.topic, number), []).append(out.draft)
        return batches

    def _count(self, topic: str) -> int:
        """The topic's partitions, asked for once; 0 where it does not exist."""
        known = self._counts.get(topic)
        if known is None:
            topics = self._connection.broker.topics

            def metadata() -> int:
                return len(topics[topic].partitions) if topic in topics else 0

            known = self._again("Metadata", metadata)
            if known:
                self._counts[topic] = known
        return known

    def _partition(self, out: Outgoing, count: int) -> int:
        """Some stable choice by key; any partition without one."""
        if out.draft.key is None:
            return self._time.random.randrange(count)
        return self._connection.broker.partition_of(out.draft.key, count)

    def _send(self, batches: dict[TopicNumber, list[Draft]]) -> None:
        if not batches:
            return
        broker, me = self._connection.broker, self._identity
        request = {p: (self._sequences.get(p, 0), drafts) for p, drafts in batches.items()}
        try:
            new = [partition for partition in batches if partition not in self.added]
            if new:
                coordinator = broker.transactions
                self._again("AddPartitionsToTxn", lambda: coordinator.add_partitions(*me, new))
                self.added.update(dict.fromkeys(new))
            refused = self._again(
                "Produce", lambda: broker.produce(me.producer_id, me.epoch, request)
            )
        except Refused as refusal:
            refused = dict.fromkeys(batches, refusal.code)
        for partition, drafts in batches.items():
            code = refused.get(partition)
            if code is None:
                self._sequences[partition] = self._sequences.get(partition, 0) + len(drafts)
            else:
                self._refused(code, partition, drafts)

    def _refused(self, code: int, partition: TopicNumber, drafts: Sequence[Draft]) -> None:
        if code in FENCED:
            self._fatal(KafkaError._FENCED, "the producer was fenced by a newer one")
        for draft in drafts:
            out = Outgoing(*partition, draft)
            if code == GONE_TOPIC:
                self._fail_later(out)
            else:
                self._fail(out, code)

    def _again(self, name: str, serve: Callable[[], T]) -> T:
        """A request, sent until it is answered."""
        while not self._stopped:
            try:
                return self._connection.call(name, serve, float("inf"))
            except RequestLost:
                self._connection.reconnect()
            except RequestTimedOut:
                continue
            except Refused as refusal:
                if refusal.code != KafkaError.CONCURRENT_TRANSACTIONS:
                    raise
                self._time.pause(CONCURRENT_RETRY_SECONDS)
        raise Refused(KafkaError._PURGE_QUEUE)

    def _fail_later(self, out: Outgoing) -> None:
        self._waiting += 1
        self._time.later(MISSING_TOPIC_SECONDS, lambda: self._given_up(out))

    def _given_up(self, out: Outgoing) -> None:
        self._waiting -= 1
        self._fail(out, KafkaError._UNKNOWN_TOPIC)

    def _fail(self, out: Outgoing, code: int) -> None:
        self.failed += 1
        message = Message(topic=out.topic, partition=max(out.partition, UNASSIGNED))
        self.reports.append((KafkaError(code), message))
