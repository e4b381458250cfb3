"""Members of a group, as its coordinator knows them: values, and answers that take time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import TopicNumber
from processor.testing.scheduler import Timer


class Phase(Enum):
    EMPTY = auto()
    PREPARING = auto()
    COMPLETING = auto()
    STABLE = auto()


class Ticket:
    """An answer that a member waits for."""

    __slots__ = ("answer", "error")

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    def refuse(self, code: int) -> None:
        self.error = Refused(code)

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.answer


class Joined(NamedTuple):
    """JoinGroup's answer; ``members`` (id, instance, topics) for the leader that is to assign."""

    member_id: str
    generation: int
    members: Sequence[tuple[str, str | None, tuple[str, ...]]] | None


class Joining(NamedTuple):
    """JoinGroup's request."""

    member_id: str
    instance: str | None
    topics: tuple[str, ...]
    session_seconds: float
    rebalance_seconds: float


@dataclass(slots=True)
class Member:
    member_id: str
    request: Joining
    deadline: float = 0.0
    """When its session ends."""
    timer: Timer | None = None
    join: Ticket | None = None
    sync: Ticket | None = None
    assignment: list[TopicNumber] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whoever waits for an answer needs no heartbeat."""
        return self.join is not None or self.sync is not None
