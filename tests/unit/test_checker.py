"""The two-store checker finds each kind of violation when it is planted, and only that one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.checker import Kind, Violation, check, check_rest, check_samples, summary
from tests.support.history import Effect, History, Input, Letter, Manifest, Output, Sample

PARTITIONS = 2
GOOD, BAD, BATCH = 30, 1, 10
"""Messages of a partition; after the good ones come the bad."""
END = GOOD + BAD


def output_of(partition: int, offset: int) -> Output:
    first = offset // BATCH * BATCH
    place = ("out", partition % 2)
    return Output(
        partition,
        offset,
        number(partition, offset),
        place,
        first,
        first + BATCH,
        offset % BATCH,
        10,
    )


def number(partition: int, offset: int) -> int:
    return partition * 1_000 + offset


def sample(**changes: object) -> Sample:
    """In the middle of a run: K = 10, and the outbox holds [10, 30)."""
    rows = (Manifest(0, 8), Manifest(8, 10), Manifest(10, 20), Manifest(20, 30))
    return Sample(0, 5, 10, 30, floor=8, outbox=rows, lineage="a")._replace(**changes)


AT_REST = {n: Sample(n, END, END, END, floor=END, outbox=()) for n in range(PARTITIONS)}


def sound() -> History:
    """Nothing is wrong with it."""
    places = [(p, o) for o in range(GOOD) for p in range(PARTITIONS)]
    bad = [(p, o) for o in range(GOOD, END) for p in range(PARTITIONS)]
    return History(
        inputs=[
            *(Input(p, o, number(p, o)) for p, o in places),
            *(Input(p, o, number(p, o), good=False) for p, o in bad),
        ],
        effects=[Effect(p, o, number(p, o)) for p, o in places],
        outputs=[output_of(p, o) for p, o in places],
        letters=[Letter(p, o) for p, o in bad],
        samples=[sample(), *AT_REST.values()],
        ends=dict.fromkeys(range(PARTITIONS), END),
    )


def test_nothing_is_wrong_with_a_sound_history() -> None:
    assert check(sound()) == []


Plant = Callable[[History], History]


def effects(change: Callable[[list[Effect]], object]) -> Plant:
    def plant(history: History) -> History:
        found = list(history.effects)
        change(found)
        return replace(history, effects=found)

    return plant


def outputs(change: Callable[[list[Output]], object]) -> Plant:
    def plant(history: History) -> History:
        found = list(history.outputs)
        change(found)
        return replace(history, outputs=found)

    return plant


def letters(*found: Letter) -> Plant:
    return lambda history: replace(history, letters=found)


def observed(*found: Sample) -> Plant:
    return lambda history: replace(history, samples=[*found, *AT_REST.values()])


def swap(first: int, second: int) -> Callable[[list[object]], object]:
    def change(items: list[object]) -> None:
        items[first], items[second] = items[second], items[first]

    return change


BOTH_LETTERS = (Letter(0, GOOD), Letter(1, GOOD))

PLANTED: list[tuple[str, Plant, Kind, tuple[int, int]]] = [
    ("lost", effects(lambda e: e.pop(3)), Kind.EFFECT_LOST, (1, 1)),
    ("twice", effects(lambda e: e.append(e[-1])), Kind.EFFECT_DUPLICATED, (1, 29)),
    ("of no input", effects(lambda e: e.append(Effect(0, 99, 0))), Kind.EFFECT_INVENTED, (0, 99)),
    (
        "of a rejected input",
        effects(lambda e: e.append(Effect(0, GOOD, 30))),
        Kind.EFFECT_INVENTED,
        (0, GOOD),
    ),
    (
        "changed",
        effects(lambda e: e.append(e.pop()._replace(number=7))),
        Kind.EFFECT_CHANGED,
        (1, 29),
    ),
    ("too late", effects(swap(4, 6)), Kind.EFFECT_DISORDERED, (0, 2)),
    ("lost", outputs(lambda o: o.pop(3)), Kind.OUTPUT_LOST, (1, 1)),
    ("twice", outputs(lambda o: o.append(o[-1])), Kind.OUTPUT_DUPLICATED, (1, 29)),
    (
        "of no input",
        outputs(lambda o: o.append(Output(0, 99, 0, ("out", 0)))),
        Kind.OUTPUT_INVENTED,
        (0, 99),
    ),
    (
        "with another key",
        outputs(lambda o: o.append(o.pop()._replace(content=b"another"))),
        Kind.OUTPUT_CHANGED,
        (1, 29),
    ),
    (
        "changed",
        outputs(lambda o: o.append(o.pop()._replace(number=7))),
        Kind.OUTPUT_CHANGED,
        (1, 29),
    ),
    ("too late", outputs(swap(4, 6)), Kind.OUTPUT_DISORDERED, (0, 2)),
    ("lost", letters(Letter(1, GOOD)), Kind.LETTER_LOST, (0, GOOD)),
    ("twice", letters(*BOTH_LETTERS, Letter(0, GOOD)), Kind.LETTER_DUPLICATED, (0, GOOD)),
    ("of a good input", letters(*BOTH_LETTERS, Letter(0, 4)), Kind.LETTER_INVENTED, (0, 4)),
    (
        "with another value",
        letters(BOTH_LETTERS[1], Letter(0, GOOD, b"another")),
        Kind.LETTER_CHANGED,
        (0, GOOD),
    ),
    (
        "outside of its batch",
        outputs(lambda o: o.append(o.pop()._replace(first=30, next=40))),
        Kind.PROVENANCE,
        (1, 29),
    ),
    (
        "beyond its count",
        outputs(lambda o: o.append(o.pop()._replace(ordinal=10))),
        Kind.PROVENANCE,
        (1, 29),
    ),
    (
        "two extents",
        outputs(lambda o: o.append(o.pop()._replace(next=31))),
        Kind.BATCHES_OVERLAP,
        (1, 20),
    ),
    ("K below P", observed(sample(published=20, floor=20)), Kind.INVARIANT, (0, 30)),
    ("K beyond H", observed(sample(committed=31)), Kind.INVARIANT, (0, 30)),
    (
        "P goes back",
        observed(sample(), sample(published=4)),
        Kind.BACKWARDS,
        (0, 30),
    ),
    ("K goes back", observed(sample(), sample(committed=8)), Kind.BACKWARDS, (0, 30)),
    (
        "H goes back",
        observed(sample(), sample(next_offset=20, outbox=(Manifest(8, 10), Manifest(10, 20)))),
        Kind.BACKWARDS,
        (0, 20),
    ),
    ("a hole", observed(sample(outbox=(Manifest(10, 20), Manifest(21, 30)))), Kind.OUTBOX, (0, 30)),
    (
        "an overlap",
        observed(sample(outbox=(Manifest(10, 20), Manifest(19, 30)))),
        Kind.OUTBOX,
        (0, 30),
    ),
    ("pruned by H", observed(sample(outbox=())), Kind.OUTBOX, (0, 30)),
    ("too short", observed(sample(outbox=(Manifest(10, 20),))), Kind.OUTBOX, (0, 30)),
    ("too long", observed(sample(outbox=(Manifest(10, 31),))), Kind.OUTBOX, (0, 30)),
    ("K inside of a row", observed(sample(outbox=(Manifest(9, 30),))), Kind.OUTBOX, (0, 30)),
]


@pytest.mark.parametrize(
    ("plant", "kind", "where"),
    [pytest.param(*case, id=f"{case[1]}: {name}") for name, *case in PLANTED],
)
def test_what_is_planted_is_found(plant: Plant, kind: Kind, where: tuple[int, int]) -> None:
    found = check(plant(sound()))
    assert {each.kind for each in found} == {kind}, summary(found)
    assert (found[0].partition, found[0].offset) == where
    assert f"partition {where[0]}" in found[0].sentence


class TestSamples:
    def test_nothing_is_said_while_an_intent_is_set_or_kafka_has_no_offset(self) -> None:
        wrong = sample(published=20, committed=15, floor=20)
        assert check_samples([wrong]) != []
        assert check_samples([wrong._replace(intent=True)]) == []
        assert check_samples([wrong._replace(committed=None)]) == []

    def test_an_offset_may_go_back_with_a_remedy_or_in_another_history(self) -> None:
        back = sample(published=0, committed=0, floor=0, next_offset=30)
        assert [each.kind for each in check_samples([sample(), back])] == [Kind.BACKWARDS] * 2
        assert check_samples([sample(), sample(intent=True), back]) == []
        assert check_samples([sample(), back._replace(lineage="b")]) == []

    def test_the_outbox_may_be_pruned_beyond_a_k_that_was_read_earlier(self) -> None:
        """P was raised between the reading of K and the snapshot."""
        assert check_samples([sample(floor=20, outbox=(Manifest(20, 30),))]) == []

    def test_an_outbox_that_was_not_read_is_not_judged(self) -> None:
        assert check_samples([sample(outbox=None)]) == []


class TestRest:
    @pytest.mark.parametrize(
        "last",
        [
            AT_REST[0]._replace(published=END - 1),
            AT_REST[0]._replace(committed=END - 1),
            AT_REST[0]._replace(committed=None),
            AT_REST[0]._replace(next_offset=END - 1),
            AT_REST[0]._replace(outbox=(Manifest(0, END),)),
        ],
    )
    def test_everything_is_at_the_end_and_the_outbox_is_empty(self, last: Sample) -> None:
        assert check_rest([AT_REST[0]], {0: END}) == []
        [found] = check_rest([AT_REST[0], last], {0: END})
        assert (found.kind, found.partition, found.offset) == (Kind.NOT_AT_REST, 0, END)

    def test_each_partition_has_to_be_looked_at(self) -> None:
        [found] = check_rest([AT_REST[0]], {0: END, 1: END})
        assert found.sentence == "partition 1 was never looked at"


def test_inputs_that_contradict_themselves_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="partition 0 at 5 twice"):
        check(History(inputs=[Input(0, 5, 1), Input(0, 5, 2)]))


def test_the_summary_has_a_line_for_each_kind() -> None:
    found = [Violation(Kind.EFFECT_LOST, 0, n, f"no. {n}") for n in range(9)]
    found.append(Violation(Kind.INVARIANT, 0, 0, "broken"))
    assert summary(found) == [
        "9 effect-lost: no. 0; no. 1; no. 2; no. 3; no. 4",
        "1 invariant-broken: broken",
    ]
