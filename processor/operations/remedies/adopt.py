"""``offsets adopt``: somebody else's K, another server or another cluster is taken as ours.

H is never lowered. What another took on itself below its K is a recorded gap.
"""

from __future__ import annotations

from processor.engine.halts import Halt
from processor.engine.recovery import Mark, Row, mark
from processor.errors import Refused
from processor.operations.remedies.values import (
    Change,
    Facts,
    Plan,
    gap,
    halted,
    position,
    replacing,
    unpublished,
    without_outputs,
)

ACTION = "adopt"


def plan_adopt(facts: Facts, at: str | None = None, discard: bool = False) -> Plan:
    """:param at: where to begin in another cluster that holds no K of the group."""
    halt = halted(facts, ACTION, Halt.FOREIGN_OFFSETS, Halt.FOREIGN_LINEAGE, Halt.CLUSTER_CHANGED)
    row = facts.row
    if halt.reason is Halt.CLUSTER_CHANGED:
        return _cluster(facts, at, discard)
    if at is not None:
        raise Refused("--at is for a changed cluster; processor offsets reset sets a position")
    if row is None:
        return _first(facts)
    found = mark(row, facts.reading.committed.metadata)
    if halt.reason is Halt.FOREIGN_LINEAGE and found is not Mark.FOREIGN:
        return _server(facts, row)
    return _offset(facts, row, found, halt.reason is Halt.FOREIGN_LINEAGE, discard)


def _offset(facts: Facts, row: Row, found: Mark, take_server: bool, discard: bool) -> Plan:
    """K is not ours: outputs from P on may be missing, and only resolve can tell."""
    k, h = facts.k, row.next_offset
    given_up = without_outputs(facts, row.published_offset, discard)
    if k is not None and k > facts.log.high_watermark:
        raise Refused(
            f"{facts.reading.partition}: K is {k}, the log ends at {facts.log.high_watermark};"
            " processor offsets reset --to sets a position"
        )
    to = h if k is None else max(h, k)
    says = [f"K becomes {to} instead of {k}, and H stays {h}"]
    if to > h:
        says = [f"H becomes {to}, as K is: [{h}, {to}) is not handled, a recorded gap"]
    elif k is not None and k < h:
        says.append(f"[{k}, {h}) is not handled again: H is never lowered")
    new_lineage = found is Mark.FOREIGN
    if new_lineage:
        says.append("the row gets a new lineage: who commits with the other one halts")
    detail: dict[str, object] = {"k": k, **gap(h, to), **given_up}
    if new_lineage:
        detail["old_lineage"] = row.lineage
    change = Change(
        to,
        to,
        replacing(facts, to, ACTION),
        new_lineage=new_lineage,
        take_server=take_server,
    )
    return Plan(ACTION, change, (*says, *_lost(given_up)), detail)


def _server(facts: Facts, row: Row) -> Plan:
    """After a dump and restore K tells the truth: what it lacks is in the outbox."""
    detail: dict[str, object] = {
        "old_system_identifier": str(row.system_identifier),
        "system_identifier": str(facts.reading.system_identifier),
    }
    change = Change(
        row.next_offset, row.published_offset, row.intent, take_server=True, keep_outbox=True
    )
    waiting = unpublished(facts.reading.outbox, facts.k or 0)
    says = [f"this database server is the row's from now on; H stays {row.next_offset}"]
    if waiting:
        says.append(f"{len(waiting)} outbox rows from K = {facts.k} on are published then")
    return Plan(ACTION, change, tuple(says), detail)


def _first(facts: Facts) -> Plan:
    k = facts.k
    assert k is not None, "no row and no K is a start"
    change = Change(k, k, replacing(facts, k, ACTION), insert=True)
    return Plan(ACTION, change, (f"the group begins at {k}, where K was set",), {"k": k})


def _cluster(facts: Facts, at: str | None, discard: bool) -> Plan:
    """Offsets of two clusters are not of the same log: the operator says where to begin."""
    other = facts.elsewhere
    given_up = without_outputs(facts, other.published_offset, discard) if other else {}
    if at is None and facts.k is None:
        raise Refused(
            f"{facts.reading.partition}: this cluster holds no K of the group; say where to begin:"
            " --at OFFSET, earliest or latest"
        )
    to = facts.k if at is None else position(facts, at)
    assert to is not None
    supersedes = (other.id,) if other else ()
    change = Change(to, to, replacing(facts, to, ACTION), insert=True, supersedes=supersedes)
    begins = f"the group begins at {to} of this cluster; "
    detail: dict[str, object] = {"k": facts.k, "begins": to}
    if other is None:
        return Plan(ACTION, change, (begins + "the other one had no such partition",), detail)
    detail |= {"reached_elsewhere": other.next_offset, "old_lineage": other.lineage, **given_up}
    says = (begins + f"in the other one it had reached {other.next_offset}", *_lost(given_up))
    return Plan(ACTION, change, says, detail)


def _lost(given_up: dict[str, object]) -> tuple[str, ...]:
    return ("outputs of the outbox are given up; the audit row names them",) if given_up else ()
