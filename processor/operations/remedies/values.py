"""What a remedy is planned from, and what a plan is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from processor.engine.batch import LogRange
from processor.engine.halts import Halt
from processor.engine.recovery import (
    Decision,
    HaltAt,
    Intent,
    Manifest,
    Mark,
    Reading,
    Row,
    Wait,
    decide,
    mark,
)
from processor.errors import Refused

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of one partition, read under its row lock."""

    reading: Reading
    partitions: int
    """How many the topic has."""
    elsewhere: Row | None = None
    """The partition's row under another cluster."""
    state: str | None = None
    """As the partition's last owner has reported it."""
    reason: str | None = None

    @property
    def decision(self) -> Decision:
        """What recovery makes of the same reading."""
        return decide(self.reading)

    @property
    def row(self) -> Row | None:
        return self.reading.row

    @property
    def k(self) -> int | None:
        return self.reading.committed.offset

    @property
    def log(self) -> LogRange:
        """:raises Refused: when it could not be read."""
        if self.reading.log is None:
            raise Refused(f"the log of {self.reading.partition} could not be read; try again")
        return self.reading.log

    @property
    def k_is_ours(self) -> bool:
        """K was committed by this history of the database, and nothing is to replace it."""
        row = self.row
        if row is None or self.k is None or row.intent is not None:
            return False
        return mark(row, self.reading.committed.metadata) is Mark.KNOWN


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a partition's row."""

    next_offset: int
    published_offset: int
    intent: Intent | None = None
    insert: bool = False
    """As a new row, with a lineage of its own; ``supersedes`` are the ids of older ones."""
    supersedes: tuple[int, ...] = ()
    new_lineage: bool = False
    take_server: bool = False
    """The database server of this moment is the row's from now on."""
    keep_outbox: bool = False
    emptied: tuple[Range, ...] = ()
    """Ranges whose outbox rows are replaced by one without outputs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a remedy would do, in words and as a change; ``detail`` goes into the audit row.

    ``from`` and ``to`` in it are a gap of the input, which ``verify`` reports.
    """

    action: str
    change: Change
    says: tuple[str, ...]
    detail: Mapping[str, object] = field(default_factory=dict)


Planner = Callable[[Facts], Plan]
"""Pure; :raises Refused: when the remedy does not fit the facts."""


def halted(facts: Facts, action: str, *reasons: Halt) -> HaltAt:
    """The halt that the facts amount to.

    :raises Refused: when it is none of those that the remedy is for.
    """
    decision = facts.decision
    if isinstance(decision, HaltAt) and decision.reason in reasons:
        return decision
    raise Refused(f"{facts.reading.partition}: {action} is not for this: {told(facts)}")


def unchanged(before: Facts, now: Facts) -> None:
    """What was prepared is of the same row and the same K.

    :raises Refused: when it is not.
    """
    if (before.row, before.reading.committed) != (now.row, now.reading.committed):
        raise Refused(
            f"{now.reading.partition} has moved meanwhile: somebody is at work on it; try again"
        )


def told(facts: Facts) -> str:
    """What recovery would do, in a few words."""
    decision, row = facts.decision, facts.row
    if row is not None and row.intent is not None and not isinstance(decision, HaltAt):
        return (
            f"K = {row.intent.offset} is to be set already ({row.intent.why});"
            " the partition's owner carries it out"
        )
    if isinstance(decision, HaltAt):
        return f"it halts as {decision.reason}: {decision.detail}"
    if isinstance(decision, Wait):
        return f"it cannot be decided now: {decision.why}"
    return f"nothing is wrong with its offsets ({type(decision).__name__.lower()})"


def unpublished(outbox: Sequence[Manifest], start: int) -> list[Manifest]:
    """Rows from ``start`` on that hold outputs, or may have."""
    return [m for m in outbox if m.next > start and (m.output_count or m.damage)]


def named(outbox: Sequence[Manifest], limit: int = 5) -> str:
    """
    >>> named([Manifest(4, 7, 2), Manifest(7, 9, 1)])
    '[4, 7) with 2 outputs, [7, 9) with 1 output'
    """
    words = [
        f"[{m.first}, {m.next}) with {m.output_count} output{'' if m.output_count == 1 else 's'}"
        for m in outbox[:limit]
    ]
    more = len(outbox) - limit
    return ", ".join([*words, f"{more} more"] if more > 0 else words)


def start_of_unknown(facts: Facts) -> int:
    """From where on it is not certain what Kafka has: K if it is ours, else P."""
    row = facts.row
    assert row is not None, "asked of a partition that has a row"
    return facts.k if facts.k_is_ours and facts.k is not None else row.published_offset


def without_outputs(facts: Facts, start: int, discard: bool) -> dict[str, object]:
    """Refuse while the outbox holds outputs from ``start`` on, unless they are to be given up.

    :returns: for the audit row, what is given up.
    :raises Refused: naming them.
    """
    left = unpublished(facts.reading.outbox, start)
    if not left:
        return {}
    if not discard:
        raise Refused(
            f"{facts.reading.partition}: the outbox holds {named(left)} that Kafka may lack;"
            " processor offsets resolve finds out, --discard-outputs gives them up"
        )
    return {"discarded_outputs": [[m.first, m.next, m.output_count] for m in left]}


def replacing(facts: Facts, offset: int, why: str) -> Intent:
    """The intent to set this K in place of what is committed now."""
    committed = facts.reading.committed
    return Intent(offset, committed.offset, committed.metadata, why)


def position(facts: Facts, text: str) -> int:
    """``earliest``, ``latest`` (the log's end) or an offset of the log.

    :raises Refused: for an offset that the log does not have.
    """
    log = facts.log
    if text in ("earliest", "latest"):
        return log.start if text == "earliest" else log.high_watermark
    offset = int(text)
    if not log.start <= offset <= log.high_watermark:
        raise Refused(
            f"{facts.reading.partition}: the log has [{log.start}, {log.high_watermark}),"
            f" {offset} is outside"
        )
    return offset


def gap(start: int, end: int) -> dict[str, object]:
    """What the audit row says of a range of the input that is left out."""
    return {"from": start, "to": end} if start < end else {}
