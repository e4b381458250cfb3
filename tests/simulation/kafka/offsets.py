"""A group's committed offsets, and those that wait for the end of a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.simulation.kafka.log import TopicNumber


class Offset(NamedTuple):
    """K with its metadata."""

    offset: int
    metadata: str | None


class Offsets:
    """What OffsetFetch and TxnOffsetCommit of one group see."""

    def __init__(self) -> None:
        self.committed: dict[TopicNumber, Offset] = {}
        self._pending: dict[int, dict[TopicNumber, Offset]] = {}

    def pending(self, partition: TopicNumber) -> bool:
        """Whether a transaction that moves it has no marker yet: K is unstable."""
        return any(partition in offsets for offsets in self._pending.values())

    def add(self, producer_id: int, offsets: Mapping[TopicNumber, Offset]) -> None:
        """TxnOffsetCommit."""
        self._pending.setdefault(producer_id, {}).update(offsets)

    def mark(self, producer_id: int, commit: bool) -> None:
        """The end of a producer's transaction."""
        offsets = self._pending.pop(producer_id, {})
        if commit:
            self.committed.update(offsets)

    def forget_topic(self, topic: str) -> None:
        """The topic was deleted."""
        for offsets in (self.committed, *self._pending.values()):
            for partition in [each for each in offsets if each[0] == topic]:
                del offsets[partition]
