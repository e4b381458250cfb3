"""Both stores, read whole into what the checker judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from processor.engine.dead_letter_topic import PREFIX
from tests.faults.chaos.audit import UnauditableError, read_topic
from tests.faults.poison.checker import (
    Seen,
    check_redriven,
    check_set_aside,
    check_steps,
    check_waiting,
)
from tests.faults.poison.pipeline import (
    DEAD,
    NUMBERS,
    STEPPED,
    STEPS,
    TOLD,
    Kind,
    Step,
    Stepped,
    Told,
    bucket_of,
)
from tests.faults.poison.plan import Plan, key_name, number_sent
from tests.faults.poison.stage import Stage
from tests.support.checker import Violation
from tests.support.history import Effect, History, Input, Letter, Output

_told = msgspec.json.Decoder(Told).decode
_step = msgspec.json.Decoder(Step).decode
_stepped = msgspec.json.Decoder(Stepped).decode


@dataclass(slots=True)
class Verdict:
    """What was found."""

    messages: int
    letters: int
    """Of numbers."""
    parked: int
    """Steps that are, or were, set aside or parked."""
    violations: list[Violation]
    problems: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not (self.violations or self.problems)


def audit_set_aside(stage: Stage, plan: Plan) -> Verdict:
    """Everything of the first wave is handled, nothing is repaired."""
    history, records = _numbers(stage, plan)
    ends = {key_name(key): plan.steps for key in range(plan.keys)}
    firsts: dict[str, int] = {}
    for (key, seq), _ in sorted(plan.bad_steps().items()):
        firsts.setdefault(key, seq)
    waiting = _waiting(stage)
    violations = [
        *check_set_aside(history, records),
        *_steps(stage, ends | firsts),
        *check_waiting(firsts, plan.steps, waiting),
    ]
    problems = _miscounted(stage, [each for each in history.inputs if each.good])
    return Verdict(plan.messages, len(history.letters), len(waiting), violations, problems)


def audit_redriven(stage: Stage, plan: Plan) -> Verdict:
    """All three waves are handled, and every letter is replayed."""
    history, records = _numbers(stage, plan)
    ends = {key_name(key): 3 * plan.steps for key in range(plan.keys)}
    waiting = _waiting(stage)
    violations = [*check_redriven(history, records), *_steps(stage, ends)]
    problems = _miscounted(stage, history.inputs)
    problems += [
        f"letter {number}: {state}, edited {edited}, replaced {replaced}"
        for number, state, edited, replaced in stage.rows(
            "SELECT id, state, edited_at IS NOT NULL, replacement IS NOT NULL"
            " FROM processor.dead_letters WHERE state <> 'replayed'"
        )
    ]
    return Verdict(plan.messages, len(history.letters), len(waiting), violations, problems)


def _numbers(stage: Stage, plan: Plan) -> tuple[History, list[Letter]]:
    """Inputs, effects, outputs and letters of the numbers; and their records on the topic.

    :raises UnauditableError: when the input topic does not hold each number once.
    """
    kinds = plan.kinds()
    numbers = {number_sent(n, kinds.get(n, Kind.GOOD)).value: n for n in range(plan.messages)}
    inputs = [_input(message, numbers, kinds) for message in read_topic(stage.servers, NUMBERS)]
    if sorted(each.number for each in inputs) != list(range(plan.messages)):
        raise UnauditableError(f"the input topic holds {len(inputs)} of {plan.messages} numbers")
    history = History(inputs)
    history.outputs = [_output(message) for message in read_topic(stage.servers, TOLD)]
    history.effects = [
        Effect(*row)
        for row in stage.rows('SELECT partition, "offset", number FROM effects ORDER BY id')
    ]
    history.letters = [
        Letter(partition, offset, (bytes(key), bytes(value)))
        for partition, offset, key, value in stage.rows(
            'SELECT partition, "offset", key, value FROM processor.dead_letters WHERE topic = %s',
            NUMBERS,
        )
    ]
    return history, list(_records(read_topic(stage.servers, DEAD)))


def _input(message: Any, numbers: dict[bytes, int], kinds: dict[int, Kind]) -> Input:
    number = numbers.get(message.value())
    if number is None:
        raise UnauditableError(f"the input topic holds {message.value()!r}, which nobody has sent")
    content = (message.key(), message.value())
    place = message.partition(), message.offset()
    return Input(*place, number, number not in kinds, message.key(), content)


def _output(message: Any) -> Output:
    told = _told(message.value())
    return Output(told.partition, told.offset, told.n, message.partition(), content=message.key())


def _records(messages: Iterable[Any]) -> Iterator[Letter]:
    for message in messages:
        headers = dict(message.headers() or [])
        if headers[f"{PREFIX}topic"] == NUMBERS.encode():
            place = (int(headers[f"{PREFIX}{name}"]) for name in ("partition", "offset"))
            yield Letter(*place, (message.key(), message.value()))


def _steps(stage: Stage, ends: dict[str, int]) -> list[Violation]:
    effects = stage.rows("SELECT key, seq, before FROM stepped ORDER BY id")
    outputs = (
        Seen(message.key().decode(), _stepped(message.value()).seq)
        for message in read_topic(stage.servers, STEPPED)
    )
    return [
        *check_steps("effect", ends, (Seen(*row) for row in effects)),
        *check_steps("output", ends, outputs),
    ]


def _waiting(stage: Stage) -> list[tuple[str, int, str]]:
    return [
        (bytes(key).decode(), _step(bytes(value)).seq, state)
        for key, value, state in stage.rows(
            "SELECT key, value, state FROM processor.dead_letters WHERE topic = %s", STEPS
        )
    ]


def _miscounted(stage: Stage, inputs: Iterable[Input]) -> list[str]:
    """What was added up must be as much as was done."""
    wanted = Counter((each.partition, bucket_of(each.number)) for each in inputs)
    found = {
        (row[0], row[1]): row[2]
        for row in stage.rows("SELECT partition, bucket, count FROM totals")
    }
    return [
        f"the count of {place} is {found.get(place, 0)}, and {wanted[place]} messages added to it"
        for place in sorted(wanted.keys() | found.keys())
        if wanted[place] != found.get(place, 0)
    ]
