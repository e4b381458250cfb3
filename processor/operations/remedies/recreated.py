"""``offsets accept-recreated``: the topic of that name is another one, and is read from now on."""

from __future__ import annotations

from processor.engine.halts import Halt
from processor.operations.remedies.values import (
    Change,
    Facts,
    Plan,
    halted,
    position,
    replacing,
    without_outputs,
)

ACTION = "accept-recreated"


def plan_recreated(facts: Facts, at: str = "earliest", discard: bool = False) -> Plan:
    """:param at: where to begin in the new topic."""
    halted(facts, ACTION, Halt.TOPIC_RECREATED)
    older = facts.reading.older
    assert older is not None, "the halt is of an older row"
    given_up = without_outputs(facts, older.published_offset, discard)
    target = position(facts, at)
    change = Change(
        target,
        target,
        replacing(facts, target, ACTION),
        insert=True,
        supersedes=(older.id,),
    )
    says = [f"the group begins at {target} of the new topic"]
    v, h = older.verified_offset or 0, older.next_offset
    if v < h and target < h:
        says.append(
            f"offsets [{v}, {h}) were handled when the topic's id was not checked any more: if"
            " they were of the new topic already they are handled again; --at says otherwise"
        )
    if given_up:
        says.append("outputs of the outbox are given up; the audit row names them")
    detail = {
        "old_topic_id": older.topic_id,
        "topic_id": facts.reading.topic_id,
        "handled": h,
        "begins": target,
        "old_lineage": older.lineage,
        **given_up,
    }
    return Plan(ACTION, change, tuple(says), detail)
