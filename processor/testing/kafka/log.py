"""Topics and the logs of their partitions.

Offsets of a log count data and control records alike. The *last stable offset* (LSO) is the first
offset of the earliest transaction that is still open; read_committed sees what is below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError, Message

from processor.testing.kafka.errors import Refused

TopicNumber = tuple[str, int]
"""A topic's name and a partition's number."""
Headers = Sequence[tuple[str, bytes | None]]
NO_PRODUCER = -1
CREATE_TIME = 1
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
RECORD_OVERHEAD_BYTES = 70


class Draft(NamedTuple):
    """A record before it has an offset; ``timestamp`` in milliseconds."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    @property
    def size(self) -> int:
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return RECORD_OVERHEAD_BYTES + len(self.key or b"") + len(self.value or b"") + headers


class Chunk(NamedTuple):
    """What one fetch of a partition brings."""

    messages: list[Message]
    next: int
    """Where the next fetch begins: past control records and aborted data too."""
    end: int
    """LSO or high watermark, by the isolation level."""


class PartitionLog:
    """One partition's records, and the transactions that are open on it."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.start = 0
        self.epochs = [(0, 0)]
        """Each leader epoch with its first offset."""
        self._first = 0
        self._records: list[Message | None] = []
        self._open: dict[int, list[int]] = {}
        """Offsets of each open transaction by producer id; in the order of their first ones."""
        self._aborted: set[int] = set()
        self._sequences: dict[int, tuple[int, int]] = {}
        """By producer id: its epoch and the next sequence number."""

    @property
    def end(self) -> int:
        """The high watermark; every replica is in sync."""
        return self._first + len(self._records)

    @property
    def stable(self) -> int:
        """The LSO."""
        return next(iter(self._open.values()))[0] if self._open else self.end

    def end_for(self, committed: bool) -> int:
        return self.stable if committed else self.end

    def append(self, drafts: Sequence[Draft], producer_id: int = NO_PRODUCER) -> int:
        """Append records, those of a producer id to its open transaction; the first offset."""
        first, epoch = self.end, self.epochs[-1][0]
        if producer_id != NO_PRODUCER:
            offsets = self._open.setdefault(producer_id, [])
            offsets.extend(range(first, first + len(drafts)))
        for offset, draft in enumerate(drafts, first):
            self._records.append(
                Message(
                    topic=self.topic,
                    partition=self.number,
                    offset=offset,
                    key=draft.key,
                    value=draft.value,
                    headers=list(draft.headers) or None,
                    timestamp=(CREATE_TIME, draft.timestamp),
                    leader_epoch=epoch,
                )
            )
        return first

    def produce(self, drafts: Sequence[Draft], producer_id: int, epoch: int, sequence: int) -> None:
        """An idempotent producer's batch.

        :raises Refused: when a batch before it is missing; one that is there already is not
            appended again.
        """
        known, expected = self._sequences.get(producer_id, (epoch, 0))
        if known < epoch:
            expected = 0
        if sequence < expected:
            return
        if sequence > expected:
            raise Refused(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        self._sequences[producer_id] = epoch, sequence + len(drafts)
        self.append(drafts, producer_id)

    def mark(self, producer_id: int, commit: bool) -> None:
        """Write the control record that ends a producer's transaction."""
        offsets = self._open.pop(producer_id, [])
        if not commit:
            self._aborted.update(offsets)
        self._records.append(None)

    def read(self, position: int, count: int, committed: bool) -> Chunk:
        """Up to ``count`` offsets from a position.

        :raises Refused: when the log does not have the position.
        """
        if position < self.start or position > self.end:
            raise Refused(KafkaError.OFFSET_OUT_OF_RANGE)
        end = self.stable if committed else self.end
        if position >= end:
            return Chunk([], position, end)
        upto = min(end, position + count)
        records = self._records[position - self._first : upto - self._first]
        hidden = self._aborted if committed else ()
        found = [r for r in records if r is not None and (not hidden or r.offset() not in hidden)]
        return Chunk(found, upto, end)

    def trim(self, start: int) -> None:
        """Delete what is below an offset: retention, or an operator."""
        start = min(max(start, self.start), self.end)
        del self._records[: start - self._first]
        self._first = self.start = start

    def truncate(self, end: int) -> None:
        """Lose the tail, as an unclean leader election does; a new leader epoch begins."""
        del self._records[max(0, end - self._first) :]
        self._open = {
            producer: kept
            for producer, offsets in self._open.items()
            if (kept := [offset for offset in offsets if offset < end])
        }
        self._sequences.clear()
        self.epochs.append((self.epochs[-1][0] + 1, self.end))

    def end_of_epoch(self, epoch: int) -> int:
        """Where the leader epoch ended: OffsetForLeaderEpoch."""
        return next((first for later, first in self.epochs if later > epoch), self.end)

    def offset_at(self, milliseconds: int) -> int:
        """Of the first record that is not older, or -1."""
        for record in self._records:
            if record is not None and record.timestamp()[1] >= milliseconds:
                return int(record.offset())
        return -1


@dataclass(slots=True)
class Topic:
    """A topic; one that is created again under the same name has another id."""

    name: str
    topic_id: str
    partitions: list[PartitionLog]
    config: dict[str, str] = field(default_factory=dict)

    @property
    def max_message_bytes(self) -> int:
        return int(self.config.get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))

    def grow(self, partitions: int) -> None:
        for number in range(len(self.partitions), partitions):
            self.partitions.append(PartitionLog(self.name, number))
