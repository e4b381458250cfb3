"""What a worker in memory tells of its partitions."""

from __future__ import annotations

from collections.abc import Collection

from processor.engine.batch import Partition
from processor.engine.observer import NullObserver
from processor.engine.register import Report

WAITS = frozenset({"database-refused", "output-refused"})
"""Why a partition asks again and again: nothing in a test's world changes meanwhile."""


class Observed(NullObserver):
    """Keeps the last that each partition has told of itself."""

    def __init__(self) -> None:
        self._reports: dict[Partition, Report] = {}

    def entered(self, report: Report) -> None:
        self._reports[report.partition] = report

    def assigned(self, partitions: Collection[Partition]) -> None:
        """All of them will be told of anew."""
        self.forget(partitions)

    def forget(self, partitions: Collection[tuple[str, int]]) -> None:
        for each in partitions:
            self._reports.pop(Partition(*each), None)

    def standing(self) -> list[Report]:
        """Of the partitions that go no further by themselves."""
        return [
            each
            for _, each in sorted(self._reports.items())
            if each.state == "halted" or each.reason in WAITS
        ]

    @property
    def tries_again(self) -> bool:
        """Whether a partition waits for its time."""
        return any(each.state == "backing-off" for each in self._reports.values())
