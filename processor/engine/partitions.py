"""The partitions that this worker owns, each with its state; the legal moves are a table.

::

    assigned -> RECOVERING -> RUNNING <-> BACKING_OFF
                  ^   |         |
                  |   v         v
                WAITING      RECOVERING (any doubt)
                HALTED   -> RECOVERING (re-decided every few seconds, or resumed)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from processor.engine.batch import Partition
from processor.engine.recovery import HaltAt, Row
from processor.engine.register import Report


class State(StrEnum):
    RECOVERING = "recovering"
    """What was committed is being read back."""
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    """The message at H is tried again later; the partition is paused, its polling goes on."""
    WAITING = "waiting"
    """Recovery could not read all it needs for a while; it goes on asking."""
    HALTED = "halted"
    """Stopped until somebody decides; re-decided every few seconds."""


MOVES: dict[State, frozenset[State]] = {
    State.RECOVERING: frozenset(
        {State.RUNNING, State.WAITING, State.HALTED, State.RECOVERING, State.BACKING_OFF}
    ),
    State.RUNNING: frozenset({State.RECOVERING, State.BACKING_OFF, State.HALTED}),
    State.BACKING_OFF: frozenset({State.RUNNING, State.RECOVERING, State.HALTED}),
    State.WAITING: frozenset({State.RECOVERING, State.RUNNING, State.HALTED}),
    State.HALTED: frozenset({State.RECOVERING}),
}


@dataclass(slots=True)
class Owned:
    """One owned partition. Offsets are beliefs until recovery has read them back."""

    partition: Partition
    state: State = State.RECOVERING
    reason: str | None = None
    detail: str | None = None
    remedy: str | None = None
    row: Row | None = None
    next_offset: int = 0
    """H."""
    leader_epoch: int | None = None
    """Of the last message before H; None where H has moved past it without one."""
    sent_offset: int = 0
    """The last K that was sent and not doubted."""
    published_offset: int = 0
    """P."""
    token_sent: str | None = None
    """The token that was sent with K last; None while that was another worker."""
    token_in_k: str | None = None
    """The token that was read back with K last."""
    empty_from: int | None = None
    """First offset of the last outbox row, if it has no outputs and was not sent as K."""
    due: float = 0.0
    """When recovery or the next try is due (monotonic seconds)."""
    doubts: int = 0
    """Doubts since the last batch that succeeded; recovery backs off by it."""
    expired: int = 0
    """How often in a row Postgres ended the session in the middle of a batch of it."""
    waiting_since: float = 0.0
    """Since when recovery has been asking in vain (monotonic seconds)."""
    suspected: HaltAt | None = None
    """A halt that was decided once; it stands when decided again from the same readings."""
    truncated: bool = False
    parked: set[bytes] = field(default_factory=set)
    """Keys whose messages are parked, or were: others release them."""
    refused: bool = False
    """An output topic refuses the outputs; published alone, with back-off, until it takes them."""

    def move(
        self,
        state: State,
        reason: str | None = None,
        detail: str | None = None,
        remedy: str | None = None,
    ) -> bool:
        """Enter a state; True when state or reason is new.

        :raises AssertionError: for a move that the table does not have.
        """
        assert state in MOVES[self.state] or state is self.state, f"{self.state} -> {state}"
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason, self.detail, self.remedy = state, reason, detail, remedy
        return changed

    def report(self) -> Report:
        return Report(self.partition, self.state.value, self.reason, self.detail, self.remedy)


@dataclass(slots=True)
class Partitions:
    """All owned partitions of a worker."""

    owned: dict[Partition, Owned] = field(default_factory=dict)
    changed: set[Partition] = field(default_factory=set)
    """Whose state is still to be reported."""

    def __getitem__(self, partition: Partition) -> Owned:
        return self.owned[partition]

    def __iter__(self) -> Iterator[Owned]:
        return iter(self.owned.values())

    def __len__(self) -> int:
        return len(self.owned)

    def replace(self, partitions: Collection[Partition]) -> None:
        """An assignment: everything owned is recovered, whatever was believed of it."""
        self.owned = {partition: Owned(partition) for partition in sorted(partitions)}
        self.changed |= set(self.owned)

    def remove(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self.changed.discard(partition)

    def move(
        self,
        each: Owned,
        state: State,
        reason: str | None = None,
        detail: str | None = None,
        remedy: str | None = None,
    ) -> bool:
        changed = each.move(state, reason, detail, remedy)
        if changed:
            self.changed.add(each.partition)
        return changed

    def running(self) -> list[Owned]:
        return [each for each in self if each.state is State.RUNNING]

    def due(self, now: float, *states: State) -> list[Owned]:
        return [each for each in self if each.state in states and each.due <= now]

    def take_reports(self) -> list[Report]:
        reports = [self.owned[partition].report() for partition in sorted(self.changed)]
        self.changed.clear()
        return reports
