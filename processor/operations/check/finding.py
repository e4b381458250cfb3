"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from processor.errors import ProcessorError


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, but the promise then rests on more than it should."""
    ERROR = "error"
    """It will not work, or the promise cannot be kept."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    area: str
    what: str
    remedy: str = ""


class Area:
    """Makes the findings of one area."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, what: str) -> Finding:
        return Finding(Level.OK, self.name, what)

    def warning(self, what: str, remedy: str) -> Finding:
        return Finding(Level.WARNING, self.name, what, remedy)

    def failed(self, error: ProcessorError) -> Finding:
        """An error of this package: what went wrong, then after a semicolon the cure."""
        what, _, remedy = str(error).partition("; ")
        return self.error(what, remedy.removeprefix("run: "))

    def error(self, what: str, remedy: str) -> Finding:
        return Finding(Level.ERROR, self.name, what, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest level among the findings."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
