"""What is told of a campaign."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.poison.campaign import Result
from tests.faults.poison.checker import figures
from tests.faults.poison.pipeline import BAD
from tests.support.checker import summary


def sentence(result: Result) -> str:
    """The figures, in a line."""
    plan = result.plan
    found = figures([*result.set_aside.violations, *result.redriven.violations])
    return (
        f"{plan.messages:,} messages · {len(plan.kinds()):,} poison of {len(BAD)} kinds"
        f" · {result.kills} kills · dead letters {result.set_aside.letters:,}"
        f" · replayed {result.states.get('replayed', 0):,}"
        f" · duplicated {found['duplicated']} · lost {found['lost']}"
        f" · disordered {found['disordered']}"
    )


def remarks(result: Result) -> Iterator[str]:
    """What else was done."""
    plan = result.plan
    keys = len({key for key, _ in plan.bad_steps()})
    yield (
        f"in the order of their keys: {3 * plan.keys * plan.steps:,} messages of {plan.keys} keys,"
        f" {keys} of which were parked · {result.redriven.parked:,} messages waited,"
        f" and followed in order"
    )
    yield f"{result.commands} redrives, {result.broken_off} of them broken off"


def complaints(result: Result) -> Iterator[str]:
    """What is wrong, and which messages it is about."""
    yield from result.problems
    for when, verdict in (("set aside", result.set_aside), ("replayed", result.redriven)):
        for each in (*verdict.problems, *summary(verdict.violations)):
            yield f"when all was {when}: {each}"
