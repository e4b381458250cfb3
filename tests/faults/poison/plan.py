"""Which messages are sent: how many, in what order, which of them are bad. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import msgspec

from tests.faults.poison.pipeline import BAD, NUMBERS, STEPS, Kind, Number, Step

PARTITIONS = 12
BAD_STEPS = (Kind.RAISES, Kind.CONSTRAINT, Kind.SLOW, Kind.TOO_LARGE)
"""A key is parked behind what a handler has failed at, not behind what cannot be decoded."""
NUMBER_KEYS = 600

_encode = msgspec.json.Encoder().encode


class Sent(NamedTuple):
    """A message of one of the two topics."""

    topic: str
    partition: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one campaign."""

    messages: int
    seed: int
    poison: float = 0.01
    keys: int = 60
    """Of steps; a third of them hold something bad."""
    steps: int = 40
    """Of each key, in each of three waves: before the redrive, beside it, after it."""
    rate: float = 2_000.0
    """Messages a second, of both topics."""
    kill_seconds: tuple[float, float] = (0.8, 2.2)
    """Between two kills."""
    redrive_rate: float = 100.0
    """Letters a second."""
    redrive_seconds: float = 20.0
    """The second wave takes so long."""
    late_after: int = 5
    """Redrives, done or broken off, until the last kind is mended."""

    def kinds(self) -> Mapping[int, Kind]:
        """The bad numbers: as many of each kind."""
        rng = Random(self.seed)
        bad = rng.sample(range(self.messages), round(self.messages * self.poison))
        return {number: BAD[index % len(BAD)] for index, number in enumerate(bad)}

    def bad_steps(self) -> Mapping[tuple[str, int], Kind]:
        """By key and step; every second key of those has another one, which is mended late."""
        rng = Random(self.seed + 1)
        found = {}
        for index, key in enumerate(rng.sample(range(self.keys), self.keys // 3)):
            name, at = key_name(key), rng.randrange(self.steps // 2)
            found[name, at] = BAD_STEPS[index % len(BAD_STEPS)]
            if index % 2:
                found[name, rng.randrange(at + 1, self.steps)] = Kind.LATE
        return found

    def first_wave(self) -> Iterator[Sent]:
        """All numbers, and the first steps among them."""
        steps, every = self.wave(0), max(1, self.messages // (self.keys * self.steps))
        kinds = self.kinds()
        for number in range(self.messages):
            yield number_sent(number, kinds.get(number, Kind.GOOD))
            if number % every == 0 and (step := next(steps, None)) is not None:
                yield step
        yield from steps

    def wave(self, which: int) -> Iterator[Sent]:
        """Steps of all keys in turn."""
        bad = self.bad_steps()
        for seq in range(which * self.steps, (which + 1) * self.steps):
            for key in range(self.keys):
                kind = bad.get((key_name(key), seq), Kind.GOOD)
                value = _encode(Step(seq, kind))
                yield Sent(STEPS, key % PARTITIONS, key_name(key).encode(), value)


def number_sent(number: int, kind: Kind) -> Sent:
    value = _encode(Number(number, kind))
    if kind == Kind.UNDECODABLE:
        value = value[:-2]
    return Sent(NUMBERS, number % PARTITIONS, b"%d" % (number % NUMBER_KEYS), value)


def key_name(key: int) -> str:
    return f"key-{key}"
