"""``offsets restore``: K was rewound by accident, and goes back to H."""

from __future__ import annotations

from processor.engine.halts import Halt
from processor.engine.recovery import tiles
from processor.errors import Refused
from processor.operations.remedies.values import (
    Change,
    Facts,
    Plan,
    halted,
    named,
    replacing,
    unpublished,
)

ACTION = "restore"


def plan_restore(facts: Facts) -> Plan:
    halted(facts, ACTION, Halt.OFFSETS_REWOUND)
    row = facts.row
    assert row is not None, "the halt is of a row"
    h, p = row.next_offset, row.published_offset
    left = unpublished(facts.reading.outbox, p)
    damage = tiles(facts.reading.outbox, p, h)
    if left or damage:
        what = f"the outbox holds {named(left)}" if left else str(damage)
        raise Refused(
            f"{facts.reading.partition}: K was {p} or more, and {what}: whether Kafka has these"
            " outputs is not known; processor offsets resolve finds out"
        )
    change = Change(h, h, replacing(facts, h, ACTION))
    says = (f"K becomes {h} again instead of {facts.k}: nothing is handled twice",)
    return Plan(ACTION, change, says, {"k": facts.k, "restored": h})
