"""``offsets reset``: a deliberate replay, or a leap, with a new lineage."""

from __future__ import annotations

from processor.engine.halts import Halt
from processor.engine.recovery import HaltAt, Wait
from processor.errors import Refused
from processor.operations.remedies.values import (
    Change,
    Facts,
    Plan,
    gap,
    position,
    replacing,
    start_of_unknown,
    told,
    without_outputs,
)

ACTION = "reset"
OTHERS = (Halt.CLUSTER_CHANGED, Halt.TOPIC_RECREATED)
"""Halts in which the row is not of this log."""


def plan_reset(facts: Facts, to: str, discard: bool = False) -> Plan:
    """:param to: ``earliest``, ``latest`` or an offset."""
    decision, row, partition = facts.decision, facts.row, facts.reading.partition
    if isinstance(decision, Wait) or (isinstance(decision, HaltAt) and decision.reason in OTHERS):
        raise Refused(f"{partition}: {ACTION} is not for this: {told(facts)}")
    target = position(facts, to)
    intent = replacing(facts, target, ACTION)
    if row is None:
        begins = (f"the group begins at {target}",)
        return Plan(ACTION, Change(target, target, intent, insert=True), begins, {"begins": target})
    h = row.next_offset
    given_up = without_outputs(facts, start_of_unknown(facts), discard)
    says = _says(h, target)
    if given_up:
        says += ("outputs of the outbox are given up; the audit row names them",)
    detail: dict[str, object] = {
        "k": facts.k,
        "reset_from": h,
        "reset_to": target,
        "old_lineage": row.lineage,
        **gap(h, target),
        **given_up,
    }
    return Plan(ACTION, Change(target, target, intent, new_lineage=True), says, detail)


def _says(h: int, target: int) -> tuple[str, ...]:
    if target < h:
        return (
            f"H and K become {target} instead of {h}",
            f"[{target}, {h}) is handled once more: its effects are added to those of the first"
            " time, and its outputs are published again, with a new lineage",
        )
    if target > h:
        return (f"H and K become {target}: [{h}, {target}) is not handled, a recorded gap",)
    return (f"H and K stay {h}, with a new lineage",)
