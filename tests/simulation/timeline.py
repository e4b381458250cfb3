"""What happened in a simulation, line by line; kept only when somebody will read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from processor.engine.batch import Partition
from processor.engine.register import Report
from processor.engine.steps import Step
from tests.simulation.scheduler import Time


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
        self, partitions: int, handled: int, outputs: int, dead_letters: int, seconds: float
    ) -> None:
        self._say(f"batch: {handled} handled, {outputs} outputs, {dead_letters} dead letters")

    def doubted(self, reason: str, partitions: Collection[Partition]) -> None:
        self._say(f"doubt of {_names(partitions)}: {reason}")

    def decided(self, partition: Partition, decision: object) -> None:
        self._say(f"{partition}: {decision}")

    def entered(self, report: Report) -> None:
        more = f" ({report.reason}: {report.detail})" if report.reason else ""
        self._say(f"{report.partition} is {report.state}{more}")

    def assigned(self, partitions: Collection[Partition]) -> None:
        self._say(f"assigned {_names(partitions)}")

    def noted(self, event: str, **fields: object) -> None:
        self._say(f"{event} {fields}")

    def _say(self, what: str) -> None:
        self._timeline.add(self._who, what)


def _names(partitions: Collection[Partition]) -> str:
    return ", ".join(str(each) for each in sorted(partitions)) or "nothing"
