"""What of the campaign of bad messages needs no servers; above all, that its checker can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.faults.poison.checker import (
    Seen,
    check_redriven,
    check_set_aside,
    check_steps,
    check_waiting,
    figures,
)
from tests.faults.poison.pipeline import BAD, NUMBERS, STEPS, Kind, Number
from tests.faults.poison.plan import Plan, number_sent
from tests.support.checker import Kind as Wrong
from tests.support.history import Effect, History, Input, Letter, Output

BAD_AT = (0, 3)
"""Partition and offset of the message that is bad."""


def number(partition: int, offset: int) -> int:
    return 10 * partition + offset


PLACES = [(partition, offset) for offset in range(6) for partition in range(2)]
INPUTS = [Input(*place, number(*place), good=place != BAD_AT) for place in PLACES]
GOOD = [place for place in PLACES if place != BAD_AT]
LETTERS = [Letter(*BAD_AT)]


def effect(place: tuple[int, int]) -> Effect:
    return Effect(*place, number(*place))


def output(place: tuple[int, int]) -> Output:
    return Output(*place, number(*place), place=0)


def set_aside() -> History:
    return History(INPUTS, [*map(effect, GOOD)], [*map(output, GOOD)], LETTERS)


def redriven() -> History:
    """What was bad took effect last."""
    places = [*GOOD, BAD_AT]
    return History(INPUTS, [*map(effect, places)], [*map(output, places)], LETTERS)


def test_a_sound_history_is_fine() -> None:
    assert check_set_aside(set_aside(), LETTERS) == []
    assert check_redriven(redriven(), LETTERS) == []


def swapped(items: list[Any]) -> list[Any]:
    """Two of one partition change places."""
    return [items[2], items[1], items[0], *items[3:]]


Change = Callable[[History], History]
FAULTS: list[tuple[Change, Wrong]] = [
    (lambda h: replace(h, effects=h.effects[1:]), Wrong.EFFECT_LOST),
    (lambda h: replace(h, effects=[*h.effects, effect((0, 5))]), Wrong.EFFECT_DUPLICATED),
    (lambda h: replace(h, effects=swapped(list(h.effects))), Wrong.EFFECT_DISORDERED),
    (lambda h: replace(h, outputs=h.outputs[1:]), Wrong.OUTPUT_LOST),
    (lambda h: replace(h, outputs=[*h.outputs, output((0, 5))]), Wrong.OUTPUT_DUPLICATED),
    (lambda h: replace(h, outputs=swapped(list(h.outputs))), Wrong.OUTPUT_DISORDERED),
    (lambda h: replace(h, letters=[]), Wrong.LETTER_LOST),
    (lambda h: replace(h, letters=LETTERS * 2), Wrong.LETTER_DUPLICATED),
    (lambda h: replace(h, letters=[*LETTERS, Letter(0, 1)]), Wrong.LETTER_INVENTED),
]


@pytest.mark.parametrize(("change", "wrong"), FAULTS)
def test_each_fault_is_found_before_and_after_the_redrive(change: Change, wrong: Wrong) -> None:
    assert {each.kind for each in check_set_aside(change(set_aside()), LETTERS)} == {wrong}
    assert {each.kind for each in check_redriven(change(redriven()), LETTERS)} == {wrong}


def test_a_bad_message_takes_no_effect_before_it_is_repaired() -> None:
    kinds = {each.kind for each in check_set_aside(redriven(), LETTERS)}
    assert kinds >= {Wrong.EFFECT_INVENTED, Wrong.OUTPUT_INVENTED}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda h: replace(h, effects=h.effects[:-1]), Wrong.EFFECT_LOST),
        (lambda h: replace(h, effects=[*h.effects, effect(BAD_AT)]), Wrong.EFFECT_DUPLICATED),
        (lambda h: replace(h, outputs=h.outputs[:-1]), Wrong.OUTPUT_LOST),
        (lambda h: replace(h, outputs=[*h.outputs, output(BAD_AT)]), Wrong.OUTPUT_DUPLICATED),
    ],
)
def test_a_replay_that_is_lost_or_doubled_is_found(change: Change, wrong: Wrong) -> None:
    assert [each.kind for each in check_redriven(change(redriven()), LETTERS)] == [wrong]


@pytest.mark.parametrize(
    ("records", "wrong"), [([], Wrong.LETTER_LOST), (LETTERS * 2, Wrong.LETTER_DUPLICATED)]
)
def test_the_topic_of_dead_letters_is_judged_as_well(records: list[Letter], wrong: Wrong) -> None:
    for found in (check_set_aside(set_aside(), records), check_redriven(redriven(), records)):
        assert [each.kind for each in found] == [wrong]
        assert "topic of dead letters" in found[0].sentence


def steps(*sequence: int, key: str = "a") -> list[Seen]:
    return [Seen(key, seq) for seq in sequence]


@pytest.mark.parametrize(
    ("sequence", "wrong"),
    [
        ((0, 1, 2), set()),
        ((0, 2), {Wrong.EFFECT_LOST}),
        ((0, 1, 1, 2), {Wrong.EFFECT_DUPLICATED}),
        ((0, 2, 1), {Wrong.EFFECT_DISORDERED}),
        ((0, 1, 2, 3), {Wrong.EFFECT_INVENTED}),
    ],
)
def test_the_steps_of_a_key_are_each_there_once_and_in_order(
    sequence: tuple[int, ...], wrong: set[Wrong]
) -> None:
    found = check_steps("effect", {"a": 3, "b": 1}, [*steps(0, key="b"), *steps(*sequence)])
    assert {each.kind for each in found} == wrong
    assert all("of a" in each.sentence for each in found)


def test_what_a_handler_has_found_before_it_tells_of_disorder_too() -> None:
    """Rows that were written in order may have been computed from what was not."""
    seen = [Seen("a", 0, -1), Seen("a", 1, 0), Seen("a", 2, 0)]
    [found] = check_steps("effect", {"a": 3}, seen)
    assert (found.kind, found.sentence) == (
        Wrong.EFFECT_DISORDERED,
        "step 2 of a has found 0 before it",
    )


WAITING = [("a", 1, "failed"), ("a", 2, "parked")]


@pytest.mark.parametrize(
    ("letters", "wrong"),
    [
        (WAITING, []),
        (WAITING[:1], [Wrong.LETTER_LOST]),
        ([*WAITING, WAITING[1]], [Wrong.LETTER_DUPLICATED]),
        ([*WAITING, ("a", 0, "failed")], [Wrong.LETTER_INVENTED]),
        ([WAITING[0], ("a", 2, "failed")], [Wrong.LETTER_CHANGED]),
    ],
)
def test_behind_a_bad_step_all_later_ones_wait(
    letters: list[tuple[str, int, str]], wrong: list[Wrong]
) -> None:
    assert [each.kind for each in check_waiting({"a": 1}, 3, letters)] == wrong


def test_every_violation_is_counted_in_one_of_the_figures() -> None:
    found = [
        *check_steps("effect", {"a": 3}, steps(0, 2, 1, 1, 5)),
        *check_waiting({"a": 1}, 3, WAITING[:1]),
    ]
    assert sum(figures(found).values()) == len(found)
    assert figures([]) == {"duplicated": 0, "lost": 0, "disordered": 0, "wrong otherwise": 0}


def test_the_plan_has_as_many_of_each_kind_and_all_steps_in_order() -> None:
    plan = Plan(1_000, seed=7, keys=9, steps=10)
    assert Counter(plan.kinds().values()) == Counter(dict.fromkeys(BAD, 2))
    sent = list(plan.first_wave())
    assert Counter(each.topic for each in sent) == {NUMBERS: 1_000, STEPS: 90}
    assert len({each.value for each in sent if each.topic == NUMBERS}) == 1_000
    assert len({key for key, _ in plan.bad_steps()}) == 3
    assert all(0 <= seq < 10 for _, seq in plan.bad_steps())


def test_what_cannot_be_decoded_is_told_from_all_others() -> None:
    value = number_sent(4, Kind.UNDECODABLE).value
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(value, type=Number)
    assert value + b'"}' == msgspec.json.encode(Number(4, Kind.UNDECODABLE))
