"""What the stores must hold of bad messages, before and after they were repaired. Pure, no I/O.

Numbers are judged by the checker of all campaigns; steps by their keys' order, here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tests.support.checker import Kind, Violation, check_effects, check_letters, check_outputs
from tests.support.history import History, Letter

LOST = (Kind.EFFECT_LOST, Kind.OUTPUT_LOST, Kind.LETTER_LOST)
DOUBLED = (Kind.EFFECT_DUPLICATED, Kind.OUTPUT_DUPLICATED, Kind.LETTER_DUPLICATED)
DISORDERED = (Kind.EFFECT_DISORDERED, Kind.OUTPUT_DISORDERED)


class Seen(NamedTuple):
    """A step in one of the stores."""

    key: str
    seq: int
    before: int | None = None
    """The one that its handler has found; None where that is not told."""


def check_set_aside(history: History, records: Sequence[Letter]) -> list[Violation]:
    """Nothing is repaired yet: each bad message is a letter and a record of the dead-letter topic,
    and nothing more; each good one took effect once, in order.
    """
    return [
        *check_effects(history),
        *check_outputs(history),
        *check_letters(history),
        *on_topic(check_letters(replace(history, letters=records))),
    ]


def check_redriven(history: History, records: Sequence[Letter]) -> list[Violation]:
    """All is repaired and replayed: each bad message took effect once as well, the others are as
    they were, and no letter has come or gone.
    """
    bad = {(each.partition, each.offset) for each in history.inputs if not each.good}
    good = History(
        [each for each in history.inputs if each.good],
        [each for each in history.effects if (each.partition, each.offset) not in bad],
        [each for each in history.outputs if (each.partition, each.offset) not in bad],
    )
    # Letters are replayed in no order but that of a parked key.
    redriven = History(
        [each._replace(good=True) for each in history.inputs if not each.good],
        sorted(each for each in history.effects if (each.partition, each.offset) in bad),
        sorted(
            (each for each in history.outputs if (each.partition, each.offset) in bad),
            key=lambda each: (each.partition, each.offset),
        ),
    )
    return [
        *(found for part in (good, redriven) for found in check_effects(part)),
        *(found for part in (good, redriven) for found in check_outputs(part)),
        *check_letters(history),
        *on_topic(check_letters(replace(history, letters=records))),
    ]


def on_topic(found: Iterable[Violation]) -> Iterator[Violation]:
    """Of the dead-letter topic, not of the table."""
    for each in found:
        yield replace(each, sentence=f"{each.sentence} (on the topic of dead letters)")


def check_steps(store: str, ends: Mapping[str, int], seen: Iterable[Seen]) -> list[Violation]:
    """Of one store: each key's steps 0, 1, 2, … up to its end, each once and behind the one before.

    :param store: ``effect`` or ``output``.
    :param ends: of each key, how many steps must have taken effect; none beyond may have.
    """
    steps: dict[str, list[Seen]] = {key: [] for key in ends}
    for each in seen:
        steps.setdefault(each.key, []).append(each)
    found = []
    for key, mine in steps.items():
        found += _check_key(store, key, ends.get(key, 0), mine)
    return found


def check_waiting(
    ends: Mapping[str, int], sent: int, letters: Iterable[tuple[str, int, str]]
) -> list[Violation]:
    """Behind each key's first bad step, which has failed, all later ones are parked, each once.

    :param ends: where each key's first bad step is, if it has any.
    :param sent: how many steps each key has.
    :param letters: key, step and state.
    """
    wanted = {
        (key, seq): "failed" if seq == end else "parked"
        for key, end in ends.items()
        for seq in range(end, sent)
    }
    states: dict[tuple[str, int], list[str]] = defaultdict(list)
    for key, seq, state in letters:
        states[key, seq].append(state)
    found = []
    for place in sorted(wanted.keys() | states.keys()):
        told = states.get(place, [])
        if place not in wanted:
            found.append(_violation(Kind.LETTER_INVENTED, *place, "is set aside"))
        elif not told:
            found.append(_violation(Kind.LETTER_LOST, *place, "is not set aside"))
        elif len(told) > 1:
            found.append(_violation(Kind.LETTER_DUPLICATED, *place, f"is {len(told)} letters"))
        elif told != [wanted[place]]:
            sentence = f"is {told[0]} instead of {wanted[place]}"
            found.append(_violation(Kind.LETTER_CHANGED, *place, sentence))
    return found


def figures(violations: Iterable[Violation]) -> dict[str, int]:
    """How many are lost, doubled and disordered, and how many are wrong in another way."""
    kinds = Counter(each.kind for each in violations)
    told = {
        "duplicated": sum(kinds[kind] for kind in DOUBLED),
        "lost": sum(kinds[kind] for kind in LOST),
        "disordered": sum(kinds[kind] for kind in DISORDERED),
    }
    return {**told, "wrong otherwise": kinds.total() - sum(told.values())}


def _check_key(store: str, key: str, end: int, seen: Sequence[Seen]) -> Iterator[Violation]:
    counts = Counter(each.seq for each in seen)
    for seq in range(end):
        if seq not in counts:
            yield _violation(Kind(f"{store}-lost"), key, seq, f"has no {store}")
    for seq, count in counts.items():
        if seq >= end:
            yield _violation(Kind(f"{store}-invented"), key, seq, f"has its {store} too early")
        elif count > 1:
            yield _violation(Kind(f"{store}-duplicated"), key, seq, f"has {count} {store}s")
    last = -1
    for each in seen:
        if each.seq < last:
            told = f"has its {store} after the one of {last}"
            yield _violation(Kind(f"{store}-disordered"), key, each.seq, told)
        if each.before is not None and each.before != each.seq - 1:
            told = f"has found {each.before} before it"
            yield _violation(Kind(f"{store}-disordered"), key, each.seq, told)
        last = max(last, each.seq)


def _violation(kind: Kind, key: str, seq: int, told: str) -> Violation:
    return Violation(kind, -1, seq, f"step {seq} of {key} {told}")
