"""What a fault is: a kind with a name, which is inflicted and, after a while, taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.faults.chaos.stage import Stage

Heal = Callable[[], object]
"""Takes a fault back; it may take long, and the fault lasts until it is done."""

Inflict = Callable[[Stage, Random], Heal | None]
"""None: it could not be inflicted at this moment, and does not count."""


@dataclass(frozen=True, slots=True)
class Nemesis:
    """A kind of fault."""

    name: str
    inflict: Inflict
    seconds: tuple[float, float] = (0.0, 0.0)
    """How long it lasts, between these, short more often; nothing for what is over at once."""
    weight: float = 1.0
    """How often it comes, beside the others."""
    touches: str = ""
    """What it breaks: no other fault breaks the same at the same time. Empty: any number may."""

    def draw(self, rng: Random) -> float:
        """How long it is to last."""
        shortest, longest = self.seconds
        return shortest + (longest - shortest) * rng.random() ** 2


def nothing() -> None:
    """Nothing is to be taken back."""
