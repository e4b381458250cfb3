"""Bars made of block characters, and the marks under them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], height: int, top: float, thickness: int = 1) -> list[str]:
    """Lines of text, the highest first.

    >>> bars([0, 1, 2, 4], height=2, top=4)
    ['   █', ' ▄██']
    """
    eighths = [round(min(value / top, 1.0) * height * 8) if top else 0 for value in values]
    return [
        "".join(EIGHTHS[max(0, min(8, count - row * 8))] * thickness for count in eighths)
        for row in reversed(range(height))
    ]


def nice(value: float) -> float:
    """The next higher number that is 1, 1.5, 2, 3, 5 or 7 times a power of ten: a calm scale.

    >>> nice(3210), nice(0), nice(10_000)
    (5000.0, 1.0, 10000.0)
    """
    power = 1.0
    while True:
        for factor in (1, 1.5, 2, 3, 5, 7):
            if value <= factor * power:
                return factor * power
        power *= 10


def marks(width: int, found: Sequence[tuple[int, str, str]]) -> Text:
    """A line with characters at columns, each in its style; the later ones win."""
    line = [(" ", "")] * width
    for column, character, style in found:
        if 0 <= column < width:
            line[column] = (character, style)
    return Text.assemble(*line)
