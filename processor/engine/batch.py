"""The values that a message becomes on its way. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from processor.message import Headers

if TYPE_CHECKING:
    from processor.engine.intake import Arrived


class Partition(NamedTuple):
    """A topic and a partition number."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Position(NamedTuple):
    """Where a partition's next message is expected."""

    offset: int
    epoch: int | None = None
    """Leader epoch of the message before it, as far as known."""


@dataclass(slots=True)
class Slice:
    """One partition's share of what was consumed, in offset order.

    ``first`` is the position that it was fetched from; offsets may have gaps. Messages are the
    client's (``confluent_kafka.Message``).
    """

    partition: Partition
    first: int
    messages: list[Any]


class Record(NamedTuple):
    """One sealed output: the exact bytes that will be produced.

    ``source_offset`` is the offset of the message that it came from, None after a batch handler.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    partition: int | None
    source_offset: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is set aside, and why."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None
    handler: str | None
    error: str
    reason: str
    trace: str | None
    attempts: int
    fingerprint: str = ""
    """The same for errors of one kind."""
    failing_seconds: float = 0.0
    """How long before this it failed first."""
    holds_key: bool = False
    """Later messages of its key are parked behind it."""
    is_parked: bool = False
    """It has not failed: an earlier message of its key has."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A dead letter that was handled again and has failed again."""

    letter_id: int
    queue: int
    """The letter that its key waits for: itself, or the one that it was parked behind."""
    attempts: int
    handler: str | None
    error: str
    reason: str
    trace: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a partition went no further than it did.

    ``retry_after_seconds`` None halts it until somebody resumes it.
    """

    reason: str
    detail: str
    retry_after_seconds: float | None
    tried: Tried | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A message that is to be tried again: how often it was, and since when it fails."""

    offset: int
    attempts: int
    failing_seconds: float


@dataclass(slots=True)
class Handled:
    """What handling one slice came to: [first, next) and everything that it causes."""

    partition: Partition
    first: int
    next: int
    records: list[Record] = field(default_factory=list)
    output_bytes: int = 0
    dead_letters: list[DeadLetter] = field(default_factory=list)
    handled: int = 0
    skipped: int = 0
    duplicates: int = 0
    """Of those that were skipped."""
    leader_epoch: int | None = None
    stop: Stop | None = None
    rest: list[Any] = field(default_factory=list)
    """Messages of the slice beyond ``next``: a batch was cut for size or time."""
    seconds: float = 0.0
    """What its handlers have taken."""
    letters_at: Sequence[int] | None = None
    """Which of the last messages were set aside, once that was asked for (triage)."""
    replayed: list[int] = field(default_factory=list)
    """Dead letters whose handler has done its work by now."""
    returned: list[Returned] = field(default_factory=list)
    """Dead letters that have failed again."""
    released: list[int] = field(default_factory=list)
    """Queues with nothing left in them: their keys flow again."""
    new_keys: list[bytes] = field(default_factory=list)
    """Keys whose later messages are parked from now on."""
    arrived: Arrived | None = None
    """What was asked before the handlers, of a topic that asks."""

    @property
    def messages(self) -> int:
        """How many are done, in one way or another."""
        return self.handled + self.skipped + len(self.dead_letters)

    def mark(self) -> Mark:
        """Where it stands, for :meth:`back_to`."""
        return Mark(
            self.next,
            len(self.records),
            self.output_bytes,
            len(self.dead_letters),
            self.handled,
            self.skipped,
            self.leader_epoch,
            self.letters_at,
            len(self.replayed),
            len(self.returned),
            len(self.released),
            len(self.new_keys),
            self.duplicates,
            0 if self.arrived is None else self.arrived.mark(),
        )

    def back_to(self, mark: Mark) -> None:
        """Forget what was done since; nothing had stopped it then."""
        del self.records[mark.records :]
        del self.dead_letters[mark.dead_letters :]
        del self.replayed[mark.replayed :]
        del self.returned[mark.returned :]
        del self.released[mark.released :]
        del self.new_keys[mark.new_keys :]
        self.next, self.output_bytes = mark.next, mark.output_bytes
        self.handled, self.skipped = mark.handled, mark.skipped
        self.leader_epoch, self.letters_at = mark.leader_epoch, mark.letters_at
        self.duplicates = mark.duplicates
        if self.arrived is not None:
            self.arrived.back_to(mark.keys)
        self.stop = None


class Mark(NamedTuple):
    """A moment of a :class:`Handled`."""

    next: int
    records: int
    output_bytes: int
    dead_letters: int
    handled: int
    skipped: int
    leader_epoch: int | None
    letters_at: Sequence[int] | None
    replayed: int
    returned: int
    released: int
    new_keys: int
    duplicates: int
    keys: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where an outbox entry's outputs come from; part of each output's provenance header."""

    topic_id: str
    partition: int
    lineage: str
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """The outputs of [first, next) of one partition, sealed."""

    progress_id: int
    source: Source
    records: Sequence[Record]
    payload: bytes
    checksum: int

    @property
    def first(self) -> int:
        return self.source.first

    @property
    def next(self) -> int:
        return self.source.next


@dataclass(frozen=True, slots=True)
class Committed:
    """K and M: the group's committed offset and its metadata; None where there is none."""

    offset: int | None
    metadata: str | None


@dataclass(frozen=True, slots=True)
class LogRange:
    """S and E: the log's first offset and its high watermark."""

    start: int
    high_watermark: int
