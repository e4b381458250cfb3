"""``processor dead-letters``: messages that were set aside; looked at, replayed, discarded."""

from processor.operations.dead_letters.reading import (
    Kind,
    Letter,
    WholeLetter,
    kinds,
    letter,
    letters,
)
from processor.operations.dead_letters.redrive import Plan, Redrive, Refused
from processor.operations.dead_letters.selection import Selection

__all__ = [
    "Kind",
    "Letter",
    "Plan",
    "Redrive",
    "Refused",
    "Selection",
    "WholeLetter",
    "kinds",
    "letter",
    "letters",
]
