"""What happened in a simulation, line by line; kept only when somebody will read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from processor.engine.batch import Partition
from processor.engine.register import Report
from processor.engine.steps import Step
from processor.testing.scheduler import Time


@dataclass(frozen=True, slots=True)
class Line:
    at: float
    """Virtual seconds."""
    who: str
    what: str


class Timeline:
    """Collects lines while it is ``on``."""

    def __init__(self, time: Time, on: bool) -> None:
        self._time = time
        self.on = on
        self.lines: list[Line] = []

    def add(self, who: str, what: str) -> None:
        if self.on:
            self.lines.append(Line(self._time.now(), who, what))

    def __str__(self) -> str:
        return "\n".join(f"{e.at:9.4f}  {e.who:<10}  {e.what}" for e in self.lines)


class Told:
    """Implements ``Observer``: a worker's own words."""

    def __init__(self, timeline: Timeline, who: str) -> None:
        self._timeline = timeline
        self._who = who

    def step_took(self, step: Step, seconds: float) -> None: ...

    def committed(
        self,
        partitions: int,
        handled: int,
        outputs: int,
        dead_letters: int,
        duplicates: int,
        seconds: float,
    ) -> None:
        self._say("batch: {} handled, {} outputs, {} dead letters", handled, outputs, dead_letters)

    def doubted(self, reason: str, partitions: Collection[Partition]) -> None:
        self._say("doubt of {}: {}", _Names(partitions), reason)

    def decided(self, partition: Partition, decision: object) -> None:
        self._say("{}: {}", partition, decision)

    def entered(self, report: Report) -> None:
        more = " ({}: {})" if report.reason else ""
        self._say("{} is {}" + more, report.partition, report.state, report.reason, report.detail)

    def assigned(self, partitions: Collection[Partition]) -> None:
        self._say("assigned {}", _Names(partitions))

    def noted(self, event: str, **fields: object) -> None:
        self._say("{} {}", event, fields)

    def _say(self, what: str, *values: object) -> None:
        """Formatted only if somebody will read it."""
        if self._timeline.on:
            self._timeline.add(self._who, what.format(*values))


class _Names:
    def __init__(self, partitions: Collection[Partition]) -> None:
        self._partitions = partitions

    def __str__(self) -> str:
        return ", ".join(str(each) for each in sorted(self._partitions)) or "nothing"
