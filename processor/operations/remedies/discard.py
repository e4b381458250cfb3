"""``outbox discard``: outputs that cannot be had, or cannot be published, are given up by name."""

from __future__ import annotations

from processor.engine.recovery import Manifest
from processor.errors import Refused
from processor.operations.remedies.values import Change, Facts, Plan, start_of_unknown

ACTION = "discard"


def plan_discard(facts: Facts, first: int, end: int | None = None) -> Plan:
    """:param end: the first offset after the range; that of the row at ``first`` unless given."""
    partition, row = facts.reading.partition, facts.row
    if row is None:
        raise Refused(f"{partition} has no row, so nothing waits in its outbox")
    if row.intent is not None:
        raise Refused(f"{partition}: K = {row.intent.offset} is to be set first")
    outbox = facts.reading.outbox
    end = _end(facts, first) if end is None else end
    floor = start_of_unknown(facts)
    if not floor <= first < end <= row.next_offset:
        raise Refused(
            f"{partition}: [{first}, {end}) is not within [{floor}, {row.next_offset}),"
            " what Kafka may lack"
        )
    within = [m for m in outbox if m.first < end and m.next > first]
    cut = [m for m in within if m.first < first or m.next > end]
    if cut:
        raise Refused(
            f"{partition}: the outbox row [{cut[0].first}, {cut[0].next}) is only partly in"
            f" [{first}, {end}); give up rows whole"
        )
    change = Change(
        row.next_offset, row.published_offset, keep_outbox=True, emptied=((first, end),)
    )
    outputs = sum(m.output_count for m in within)
    says = (
        f"{outputs} outputs of [{first}, {end}) are given up{_missing(within, first, end)}: no"
        " output topic will ever have them; the effects in Postgres stay",
    )
    detail = {"first": first, "next": end, "outputs": outputs, "k": facts.k}
    return Plan(ACTION, change, says, detail)


def _end(facts: Facts, first: int) -> int:
    for manifest in facts.reading.outbox:
        if manifest.first == first:
            return manifest.next
    raise Refused(
        f"{facts.reading.partition}: the outbox has no row that begins at {first};"
        " --to gives up a range that it lacks"
    )


def _missing(within: list[Manifest], first: int, end: int) -> str:
    """
    >>> _missing([Manifest(4, 6, 1)], 4, 9)
    ', and how many the 3 offsets without a row had is not known'
    """
    left = end - first - sum(m.next - m.first for m in within)
    return f", and how many the {left} offsets without a row had is not known" if left else ""
