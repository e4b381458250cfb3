"""``offsets resolve``: which outputs of the outbox does Kafka have?

Kafka transactions are atomic and in order, so an output that is there says that all before it are,
too: the published batches are those up to the last one that is found. That another one is *not*
found says that it was not published, but only where the topic still holds everything: compaction
and retention take outputs away. Then it needs the operator's word.
"""

from __future__ import annotations

from dataclasses import dataclass

from processor.engine.halts import Halt
from processor.engine.recovery import Row, tiles
from processor.errors import Refused
from processor.operations.remedies.values import (
    Change,
    Facts,
    Plan,
    halted,
    replacing,
    start_of_unknown,
)

ACTION = "resolve"
FOR = (
    Halt.UNKNOWN_PUBLICATION,
    Halt.OUTBOX_DAMAGED,
    Halt.FOREIGN_OFFSETS,
    Halt.OFFSETS_REWOUND,
    Halt.FOREIGN_LINEAGE,
)


@dataclass(frozen=True, slots=True)
class Published:
    """What the output topics show of a partition's batches."""

    up_to: int | None = None
    """The end of the last batch of which an output was found."""
    outputs: int = 0
    """So many of batches from P on."""
    doubtful: tuple[str, ...] = ()
    """Output partitions where an output could have been and be gone, and why."""


def plan_resolve(
    facts: Facts, published: Published | None = None, published_to: int | None = None
) -> Plan:
    """:param published_to: the operator's word, instead of what was found."""
    halt = halted(facts, ACTION, *FOR)
    row = facts.row
    if row is None:
        raise Refused(f"{facts.reading.partition} has no row: processor offsets adopt")
    q = _word(facts, row, published_to) if published_to is not None else _found(facts, published)
    h = row.next_offset
    _tiled(facts, q, h)
    change = Change(
        h,
        row.published_offset,
        replacing(facts, q, ACTION),
        take_server=halt.reason is Halt.FOREIGN_LINEAGE,
        keep_outbox=True,
    )
    waiting = sum(m.output_count for m in facts.reading.outbox if m.first >= q)
    says = [f"published up to {q}; K becomes {q} instead of {facts.k}"]
    if q < h:
        says.append(f"the {waiting} outputs of [{q}, {h}) are published then")
    if facts.k is not None and facts.k > h:
        says.append(f"[{h}, {facts.k}) is handled here, though K had been set beyond it")
    how = "word" if published_to is not None else "provenance"
    detail = {"k": facts.k, "published_to": q, "by": how, "outputs_to_publish": waiting}
    return Plan(ACTION, change, tuple(says), detail)


def _word(facts: Facts, row: Row, offset: int) -> int:
    p, h = row.published_offset, row.next_offset
    if not p <= offset <= h:
        raise Refused(
            f"{facts.reading.partition}: --published-to {offset} is not within [{p}, {h}]"
        )
    return offset


def _found(facts: Facts, published: Published | None) -> int:
    """The end of what is published, where the topics prove it."""
    row, partition = facts.row, facts.reading.partition
    assert row is not None, "asked of a partition that has a row"
    if published is None:
        raise Refused(f"{partition}: the output topics were not read; --published-to OFFSET")
    h, floor = row.next_offset, start_of_unknown(facts)
    q = max(floor, published.up_to or 0)
    if q > h:
        raise Refused(
            f"{partition}: outputs of this lineage reach {q}, beyond H {h}: the database is"
            " older than Kafka; restore the right one, or: processor offsets replay-effects"
        )
    needed = any(m.output_count or m.damage for m in facts.reading.outbox if m.next > q)
    if facts.k_is_ours and facts.k == q:
        return q  # K itself says so
    if needed and published.doubtful:
        raise Refused(
            f"{partition}: found outputs up to {q}; that those of [{q}, {h}) were not found proves"
            f" nothing: {'; '.join(published.doubtful[:3])}. Say it: --published-to OFFSET"
        )
    return q


def _tiled(facts: Facts, q: int, h: int) -> None:
    """Whatever is still to be published has to be there."""
    damage = tiles(facts.reading.outbox, q, h) if q < h else None
    if damage is not None:
        raise Refused(
            f"{facts.reading.partition}: published up to {q}, and {damage}: these outputs cannot"
            " be had again; --published-to OFFSET if Kafka has them, or give them up by name:"
            " processor outbox discard"
        )
