"""One Kafka broker: what its requests do, and what an operator can do to it.

Everything here happens at once and at the present moment of :class:`Time`; clients reach it through
the network (``connection.py``), tests and operators directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

from confluent_kafka import KafkaError, Message

from processor.testing.kafka.errors import Refused, failure
from processor.testing.kafka.groups import Group
from processor.testing.kafka.log import (
    NO_PRODUCER,
    Draft,
    Headers,
    PartitionLog,
    Topic,
    TopicNumber,
)
from processor.testing.kafka.members import Phase
from processor.testing.kafka.offsets import Offset
from processor.testing.kafka.transactions import Coordinator, Pace
from processor.testing.scheduler import Time

SERVER = "kafka"
"""The broker's name in the network."""
EVERYTHING = 1 << 60
FETCH_CHUNKS = 1, 3, 10, 100, 1_000


def by_checksum(key: bytes, count: int) -> int:
    """Some stable choice of a partition, cheaper than Kafka's own."""
    return crc32(key) % count


class Broker:
    """The only broker of its cluster: leader of all partitions, coordinator of everything."""

    def __init__(self, time: Time, pace: Pace | None = None) -> None:
        self.time = time
        self.pace = pace or Pace()
        self.cluster_id = f"{time.random.getrandbits(128):032x}"
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, Group] = {}
        self.transactions = Coordinator(time, self, self.pace)
        self.up = True
        self.partition_of: Callable[[bytes, int], int] = by_checksum
        """How producers choose a partition by key; without a key it is any."""
        self.fetch_chunks: Sequence[int] = FETCH_CHUNKS
        """Offsets that one fetch of a partition brings, one of these by chance."""
        self.changes = 0
        """Grows with everything that a waiting fetch could see."""
        self.restarts = 0
        self.hang_chance = 0.0
        """Of a send_offsets_to_transaction that met a restart never to return."""
        self.failures: list[Exception] = []
        """Bugs of the fakes themselves, in tasks whose result nobody takes."""
        self._outside_producers = 0

    # What requests need

    def group(self, name: str) -> Group:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(self.time, name)
        return found

    def log(self, topic: str, number: int) -> PartitionLog:
        """:raises Refused: UNKNOWN_TOPIC_OR_PART."""
        found = self.topics.get(topic)
        if found is None or not 0 <= number < len(found.partitions):
            raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return found.partitions[number]

    def produce(
        self,
        producer_id: int,
        epoch: int,
        batches: Mapping[TopicNumber, tuple[int, Sequence[Draft]]],
    ) -> dict[TopicNumber, int]:
        """Produce of a transaction: first sequence number and records of each partition.

        :return: the error code of each partition that refused its batch.
        """
        refused: dict[TopicNumber, int] = {}
        for partition, (sequence, drafts) in batches.items():
            try:
                log = self.log(*partition)
                limit = self.topics[partition[0]].max_message_bytes
                if any(draft.size > limit for draft in drafts):
                    raise Refused(KafkaError.MSG_SIZE_TOO_LARGE)
                self.transactions.verify_partition(producer_id, epoch, partition)
                log.produce(drafts, producer_id, epoch, sequence)
            except Refused as refusal:
                refused[partition] = refusal.code
        self.changes += 1
        return refused

    def commit_offsets(
        self,
        group: str,
        member: tuple[str, int, str | None],
        producer_id: int,
        epoch: int,
        offsets: Mapping[TopicNumber, Offset],
    ) -> None:
        """TxnOffsetCommit.

        :param member: member id, generation and instance id.
        """
        found = self.group(group)
        found.check_commit(*member)
        self.transactions.verify_group(producer_id, epoch, group)
        for topic, number in offsets:
            self.log(topic, number)
        found.offsets.add(producer_id, offsets)

    def mark_partition(self, partition: TopicNumber, producer_id: int, commit: bool) -> None:
        topic = self.topics.get(partition[0])
        if topic is not None and partition[1] < len(topic.partitions):
            topic.partitions[partition[1]].mark(producer_id, commit)
            self.changes += 1

    def mark_group(self, group: str, producer_id: int, commit: bool) -> None:
        self.group(group).offsets.mark(producer_id, commit)

    # What an operator does

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """The topic's id, another one each time."""
        topic_id = f"{self.time.random.getrandbits(128):032x}"
        logs = [PartitionLog(name, number) for number in range(partitions)]
        self.topics[name] = Topic(name, topic_id, logs, dict(config or {}))
        self.changes += 1
        return topic_id

    def delete_topic(self, name: str, keep_offsets: bool = False) -> None:
        """:param keep_offsets: whether groups keep theirs, as in a recreation that is quick."""
        del self.topics[name]
        self.changes += 1
        if not keep_offsets:
            for group in self.groups.values():
                group.offsets.forget_topic(name)

    def recreate_topic(self, name: str, keep_offsets: bool = False, more: int = 0) -> str:
        """Delete and create at once; the new id.

        :param more: how many partitions it has more than before.
        """
        old = self.topics[name]
        self.delete_topic(name, keep_offsets)
        return self.create_topic(name, len(old.partitions) + more, old.config)

    def add_partitions(self, name: str, partitions: int) -> None:
        """:param partitions: how many the topic is to have."""
        self.topics[name].grow(partitions)
        self.changes += 1

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: int | None = None,
    ) -> int:
        """Input by a producer without transactions; its offset."""
        self.changes += 1
        log = self.log(topic, partition)
        return log.append([self.draft(key, value, headers, timestamp)])

    def draft(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp: int | None = None,
    ) -> Draft:
        """A record that is stamped with the time unless one is given."""
        return Draft(key, value, headers, self._stamp(timestamp))

    def append_transaction(
        self,
        topic: str,
        partition: int,
        drafts: Sequence[Draft],
        commit: bool | None = True,
    ) -> int:
        """Input by a transaction of its own, with its control record.

        :param commit: None leaves it open; :meth:`end_transaction` ends it.
        :return: the producer id.
        """
        self._outside_producers -= 1
        producer_id = NO_PRODUCER + self._outside_producers
        self.log(topic, partition).append(drafts, producer_id)
        self.changes += 1
        if commit is not None:
            self.end_transaction(topic, partition, producer_id, commit)
        return producer_id

    def end_transaction(self, topic: str, partition: int, producer_id: int, commit: bool) -> None:
        """Write the control record of :meth:`append_transaction`."""
        self.mark_partition((topic, partition), producer_id, commit)

    def trim(self, topic: str, partition: int, start: int) -> None:
        """Delete records below an offset (retention)."""
        self.log(topic, partition).trim(start)
        self.changes += 1

    def truncate(self, topic: str, partition: int, end: int) -> None:
        """Lose records from an offset on: an unclean leader election, with a new leader epoch."""
        self.log(topic, partition).truncate(end)
        self.changes += 1

    def expire_offsets(self, group: str, topic: str | None = None) -> None:
        """The group's offsets (of one topic) are gone."""
        self.group(group).offsets.expire(topic)

    def reset_offsets(
        self, group: str, offsets: Mapping[TopicNumber, int], metadata: str = ""
    ) -> None:
        """As Kafka's own tool.

        :raises KafkaException: UNKNOWN_MEMBER_ID while the group has members.
        """
        found = self.group(group)
        if found.phase is not Phase.EMPTY:
            raise failure(KafkaError.UNKNOWN_MEMBER_ID)
        for partition, offset in offsets.items():
            found.offsets.committed[partition] = Offset(offset, metadata)

    def remove_member(self, group: str, instance: str) -> None:
        """``kafka-consumer-groups --delete-member``: the instance's partitions go to others."""
        found = self.group(group)
        for member in list(found.members.values()):
            if member.request.instance == instance:
                found.leave(member.member_id, instance)

    def stop(self) -> None:
        """The broker dies: nobody is answered; markers and sessions wait for its return."""
        self.up = False
        self.restarts += 1
        for group in self.groups.values():
            group.away = True

    def start(self) -> None:
        """It is back with all it knew; the connections of its clients are broken."""
        self.up = True
        self.changes += 1
        for group in self.groups.values():
            group.reloaded()

    def restart(self, seconds: float = 3.0, then: Callable[[], None] | None = None) -> None:
        """Away for so long; returns at once."""
        self.stop()

        def back() -> None:
            self.start()
            if then is not None:
                then()

        self.time.later(seconds, back)

    # What a checker reads

    def visible(self, topic: str, partition: int | None = None) -> list[Message]:
        """What a read_committed consumer would read now, partition by partition."""
        logs = self.topics[topic].partitions
        chosen = logs if partition is None else [logs[partition]]
        return [m for log in chosen for m in log.read(log.start, EVERYTHING, True).messages]

    def committed(self, group: str, topic: str, partition: int) -> tuple[Offset | None, bool]:
        """K with its metadata, and whether a transaction that moves it is pending."""
        offsets = self.group(group).offsets
        at = topic, partition
        return offsets.committed.get(at), offsets.pending(at)

    def settled(self) -> bool:
        """Whether no transaction is open, nor waits for its markers."""
        return not self.transactions.any_open()

    def _stamp(self, timestamp: int | None) -> int:
        """Milliseconds; the simulated clock's unless given."""
        return round(self.time.now() * 1_000) if timestamp is None else timestamp
