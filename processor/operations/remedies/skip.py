"""``offsets skip``: what the log lost, or a message that nobody can handle, is left out."""

from __future__ import annotations

from processor.engine.halts import Halt
from processor.engine.recovery import HaltAt, Republish, Resume
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

ACTION = "skip"


def plan_skip(facts: Facts, to: str | None = None) -> Plan:
    """:param to: the first offset that is handled again; where the log tells it, unless given."""
    decision, row, partition = facts.decision, facts.row, facts.reading.partition
    halt = decision.reason if isinstance(decision, HaltAt) else None
    fits = halt in (Halt.INPUT_LOST, Halt.LOG_TRUNCATED)
    if row is None or not (fits or isinstance(decision, Resume | Republish)):
        raise Refused(f"{partition}: {ACTION} is not for this: {told(facts)}")
    truncated = Halt.LOG_TRUNCATED in (halt, facts.reason)
    target = _default(facts, halt, truncated) if to is None else position(facts, to)
    h = row.next_offset
    without_outputs(facts, start_of_unknown(facts), discard=False)
    if target < h and not truncated:
        raise Refused(
            f"{partition}: H is {h}, so nothing before it is left to skip;"
            " processor offsets reset replays"
        )
    if target == h and not truncated:
        raise Refused(f"{partition}: H is {h} already")
    detail: dict[str, object] = {"k": facts.k, "skipped_to": target, **gap(h, target)}
    says = f"[{h}, {target}) is not handled, a recorded gap; H and K become {target}"
    if truncated:
        # The same offsets come again with other messages, so their outputs need another name.
        detail |= {"truncated_from": h, "old_lineage": row.lineage}
        says = (
            f"the messages that were handled up to {h} stay handled; H and K become {target},"
            " and what the log holds from there on is handled, with a new lineage"
        )
    change = Change(target, target, replacing(facts, target, ACTION), new_lineage=truncated)
    return Plan(ACTION, change, (says,), detail)


def _default(facts: Facts, halt: Halt | None, truncated: bool) -> int:
    if halt is Halt.INPUT_LOST:
        return facts.log.start
    if halt is Halt.LOG_TRUNCATED:
        return facts.log.high_watermark
    why = (
        "the log goes on beyond H, so it does not show where it was cut"
        if truncated
        else ("nothing is lost there")
    )
    raise Refused(f"{facts.reading.partition}: {why}; say where to go on: --to OFFSET")
