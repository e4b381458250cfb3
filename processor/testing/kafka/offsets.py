"""A group's committed offsets, and those that wait for the end of a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from processor.testing.kafka.log import TopicNumber


class Offset(NamedTuple):
    """K with its metadata."""

    offset: int
    metadata: str | None


class Offsets:
    """What OffsetFetch and TxnOffsetCommit of one group see."""

    def __init__(self) -> None:
        self.committed: dict[TopicNumber, Offset] = {}
        self._pending: dict[int, dict[TopicNumber, Offset]] = {}
        self._appended: dict[TopicNumber, int] = {}
        """Which record of ``__consumer_offsets`` the committed offset stands in."""
        self._records: dict[int, int] = {}
        self._end = 0

    def pending(self, partition: TopicNumber) -> bool:
        """Whether a transaction that moves it has no marker yet: K is unstable."""
        return any(partition in offsets for offsets in self._pending.values())

    def add(self, producer_id: int, offsets: Mapping[TopicNumber, Offset]) -> None:
        """TxnOffsetCommit."""
        self._end += 1
        self._records[producer_id] = self._end
        self._pending.setdefault(producer_id, {}).update(offsets)

    def mark(self, producer_id: int, commit: bool) -> None:
        """The end of a producer's transaction.

        The offset that was appended later stands, whichever marker comes first.
        """
        offsets = self._pending.pop(producer_id, {})
        record = self._records.pop(producer_id, 0)
        if not commit:
            return
        for partition, offset in offsets.items():
            if self._appended.get(partition, 0) < record:
                self._appended[partition] = record
                self.committed[partition] = offset

    def forget_topic(self, topic: str) -> None:
        """The topic was deleted."""
        for offsets in (self.committed, *self._pending.values()):
            _drop(offsets, topic)

    def expire(self, topic: str | None = None) -> None:
        """Committed offsets (of one topic) are gone; those of open transactions are not."""
        _drop(self.committed, topic)


def _drop(offsets: dict[TopicNumber, Offset], topic: str | None) -> None:
    for partition in [each for each in offsets if topic in (None, each[0])]:
        del offsets[partition]
