"""The two-store checker: what a run left behind, against what exactly once means. Pure, no I/O.

The history comes from real stores or from fakes. Each check returns the violations that it found;
none means: every input took effect once in Postgres and is once in the outputs, nothing else is in
either, each partition's order was kept, P ≤ K ≤ H held whenever somebody looked, and the outbox
covered what Kafka did not yet have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from tests.support.history import Effect, History, Input, Letter, Output, Sample

SHOWN = 5


class Kind(StrEnum):
    """Ways in which a run breaks the promise."""

    EFFECT_LOST = "effect-lost"
    EFFECT_DUPLICATED = "effect-duplicated"
    EFFECT_INVENTED = "effect-invented"
    EFFECT_CHANGED = "effect-changed"
    EFFECT_DISORDERED = "effect-disordered"
    OUTPUT_LOST = "output-lost"
    OUTPUT_DUPLICATED = "output-duplicated"
    OUTPUT_INVENTED = "output-invented"
    OUTPUT_CHANGED = "output-changed"
    OUTPUT_DISORDERED = "output-disordered"
    LETTER_LOST = "dead-letter-lost"
    LETTER_DUPLICATED = "dead-letter-duplicated"
    LETTER_INVENTED = "dead-letter-invented"
    """A good message was set aside, or one that is not in the input."""
    LETTER_CHANGED = "dead-letter-changed"
    PROVENANCE = "provenance-wrong"
    BATCHES_OVERLAP = "batches-overlap"
    INVARIANT = "invariant-broken"
    BACKWARDS = "offset-backwards"
    OUTBOX = "outbox-does-not-tile"
    NOT_AT_REST = "not-at-rest"


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    partition: int
    offset: int
    sentence: str


def check(history: History) -> list[Violation]:
    """All that is wrong.

    :raises ValueError: when the inputs contradict themselves, so that nothing can be judged.
    """
    return [
        *check_effects(history),
        *check_outputs(history),
        *check_letters(history),
        *check_provenance(history.outputs),
        *check_samples(history.samples),
        *check_rest(history.samples, history.ends),
    ]


def check_effects(history: History) -> list[Violation]:
    """Postgres: each good input once, nothing else, in order."""
    wanted = _wanted(history.inputs, good=True)
    found = [
        *_compare("effect", wanted, history.effects),
        *_disordered("effect", ((each.partition, each) for each in history.effects)),
    ]
    return _sorted(found)


def check_outputs(history: History) -> list[Violation]:
    """Kafka: each good input once, nothing else, each place in order."""
    wanted = _wanted(history.inputs, good=True)
    lanes = (((each.place, each.partition), each) for each in history.outputs)
    carried = {(each.partition, each.offset): each.told for each in history.inputs}
    found = [
        *_compare("output", wanted, history.outputs),
        *_disordered("output", lanes),
        *_altered("output", carried, history.outputs),
    ]
    return _sorted(found)


def check_letters(history: History) -> list[Violation]:
    """Dead letters: each bad input once, nothing else."""
    wanted = _wanted(history.inputs, good=False)
    letters = (
        Effect(each.partition, each.offset, wanted.get((each.partition, each.offset), -1))
        for each in history.letters
    )
    carried = {(each.partition, each.offset): each.letter for each in history.inputs}
    found = [
        *_compare("dead-letter", wanted, letters),
        *_altered("dead-letter", carried, history.letters),
    ]
    return _sorted(found)


def check_provenance(outputs: Iterable[Output]) -> list[Violation]:
    """Each output lies in the batch that it names, each place has a batch's in their order, and
    batches of a partition do not overlap.
    """
    found = []
    last: dict[Hashable, int] = {}
    batches: dict[int, dict[tuple[int, int, int], int]] = defaultdict(dict)
    for each in outputs:
        if each.first is None or each.next is None:
            continue
        told = f"output {each.ordinal + 1} of {each.total} of [{each.first}, {each.next})"
        if not (each.first <= each.offset < each.next and 0 <= each.ordinal < each.total):
            found.append(_violation(Kind.PROVENANCE, each, f"says that it is {told}"))
        lane = (each.place, each.partition, each.first, each.next, each.total)
        if each.ordinal < last.get(lane, -1):
            found.append(_violation(Kind.OUTPUT_DISORDERED, each, f"has {told} too late"))
        last[lane] = max(each.ordinal, last.get(lane, -1))
        batches[each.partition].setdefault((each.first, each.next, each.total), each.offset)
    for partition, known in batches.items():
        for before, after in pairwise(sorted(known)):
            if after[0] < before[1]:
                sentence = (
                    f"partition {partition}: batch [{after[0]}, {after[1]}) of {after[2]} outputs"
                    f" overlaps [{before[0]}, {before[1]}) of {before[2]}"
                )
                found.append(Violation(Kind.BATCHES_OVERLAP, partition, after[0], sentence))
    return _sorted(found)


def check_samples(samples: Iterable[Sample]) -> list[Violation]:
    """While running: P ≤ K ≤ H, none of them goes back, and the outbox tiles [K, H)."""
    watch = Watch()
    return [violation for sample in samples for violation in watch.see(sample)]


class Watch:
    """Checks samples one by one, so that those of a long run need not be kept."""

    def __init__(self) -> None:
        self.judged = 0
        """Samples that could be judged: K exists and no intent is set."""
        self._last: dict[int, Sample] = {}

    def see(self, sample: Sample) -> list[Violation]:
        """What is wrong with this one, and with its partition since the one before."""
        before = self._last.pop(sample.partition, None)
        if sample.committed is None or sample.intent:
            return []
        self.judged += 1
        self._last[sample.partition] = sample
        found = [*_invariant(sample, sample.committed), *_tiling(sample, sample.committed)]
        if before is not None and before.lineage == sample.lineage:
            found += _backwards(before, sample)
        return found


def check_rest(samples: Iterable[Sample], ends: Mapping[int, int]) -> list[Violation]:
    """Once all is done: P = K = H = end, and the outbox is empty, by each one's last sample."""
    last = {sample.partition: sample for sample in samples}
    found = []
    for partition, end in sorted(ends.items()):
        sample = last.get(partition)
        if sample is None:
            told = "was never looked at"
        elif not sample.published == sample.committed == sample.next_offset == end:
            told = f"ends with {_levels(sample)}, and its log at {end}"
        elif sample.outbox:
            told = f"is at rest at {end}, and its outbox holds {len(sample.outbox)} rows"
        else:
            continue
        found.append(Violation(Kind.NOT_AT_REST, partition, end, f"partition {partition} {told}"))
    return found


def summary(violations: Iterable[Violation]) -> list[str]:
    """A line for each kind, with how many and the first few."""
    kinds: dict[Kind, list[Violation]] = defaultdict(list)
    for each in violations:
        kinds[each.kind].append(each)
    return [
        f"{len(found):,} {kind}: {'; '.join(each.sentence for each in found[:SHOWN])}"
        for kind, found in kinds.items()
    ]


def _wanted(inputs: Iterable[Input], *, good: bool) -> dict[tuple[int, int], int]:
    wanted: dict[tuple[int, int], int] = {}
    for partition, offset, number, is_good, *_ in inputs:
        if (partition, offset) in wanted:
            raise ValueError(f"the inputs hold partition {partition} at {offset} twice")
        if is_good == good:
            wanted[partition, offset] = number
    return wanted


def _compare(
    word: str, wanted: Mapping[tuple[int, int], int], found: Iterable[Effect | Output]
) -> Iterator[Violation]:
    """Lost, duplicated, invented and changed."""
    seen: Counter[tuple[int, int]] = Counter()
    for each in found:
        place = (each.partition, each.offset)
        seen[place] += 1
        number = wanted.get(place)
        if number is None:
            told = f"has the {word} of {each.number}, and no input asks for it"
            yield _violation(Kind(f"{word}-invented"), each, told)
        elif seen[place] > 1:
            yield _violation(Kind(f"{word}-duplicated"), each, f"has {word} no. {seen[place]}")
        elif number != each.number:
            told = f"is message {number}, and its {word} is of {each.number}"
            yield _violation(Kind(f"{word}-changed"), each, told)
    for (partition, offset), number in wanted.items():
        if (partition, offset) not in seen:
            lost = Effect(partition, offset, number)
            yield _violation(Kind(f"{word}-lost"), lost, f"(message {number}) has no {word}")


def _altered(
    word: str, wanted: Mapping[tuple[int, int], Hashable], found: Iterable[Output | Letter]
) -> Iterator[Violation]:
    """Of the right number, with another key, other headers or another time."""
    for each in found:
        asked = wanted.get((each.partition, each.offset), each.content)
        if asked != each.content:
            told = f"has {each.content} in its {word} instead of {asked}"
            yield _violation(Kind(f"{word}-changed"), each, told)


def _disordered(
    word: str, lanes: Iterable[tuple[Hashable, Effect | Output]]
) -> Iterator[Violation]:
    """Each lane's offsets rise; the same one again is a duplicate, not a disorder."""
    last: dict[Hashable, int] = {}
    for lane, each in lanes:
        before = last.get(lane, -1)
        if each.offset < before:
            told = f"has its {word} after the one of {before}"
            yield _violation(Kind(f"{word}-disordered"), each, told)
        last[lane] = max(before, each.offset)


def _invariant(sample: Sample, k: int) -> Iterator[Violation]:
    if not sample.published <= k <= sample.next_offset:
        yield _broken(Kind.INVARIANT, sample, f"P ≤ K ≤ H does not hold: {_levels(sample)}")


def _backwards(before: Sample, sample: Sample) -> Iterator[Violation]:
    levels = zip("PKH", _three(before), _three(sample), strict=True)
    for name, old, new in levels:
        if new < old:
            yield _broken(Kind.BACKWARDS, sample, f"{name} went back from {old} to {new}")


def _tiling(sample: Sample, k: int) -> Iterator[Violation]:
    """Rows from K on (or from a P that was raised since) leave no gap up to H, and end there."""
    if sample.outbox is None:
        return
    floor = sample.published if sample.floor is None else sample.floor
    reached = start = max(k, floor)
    for row in sample.outbox:
        if row.next <= start:
            continue
        if row.first != reached:
            break
        reached = row.next
    if reached != max(start, sample.next_offset):
        told = f"the outbox covers [{start}, {reached}) of [{start}, {sample.next_offset})"
        yield _broken(Kind.OUTBOX, sample, told)


def _three(sample: Sample) -> tuple[int, int, int]:
    return sample.published, sample.committed or 0, sample.next_offset


def _levels(sample: Sample) -> str:
    return f"P {sample.published}, K {sample.committed}, H {sample.next_offset}"


def _broken(kind: Kind, sample: Sample, told: str) -> Violation:
    sentence = f"partition {sample.partition} at {sample.at:.3f} s: {told}"
    return Violation(kind, sample.partition, sample.next_offset, sentence)


def _violation(kind: Kind, where: Effect | Output | Letter, told: str) -> Violation:
    sentence = f"partition {where.partition} at {where.offset} {told}"
    return Violation(kind, where.partition, where.offset, sentence)


def _sorted(found: Iterable[Violation]) -> list[Violation]:
    return sorted(found, key=lambda each: (each.kind, each.partition, each.offset))
