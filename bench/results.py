"""Figures of several rounds, and their ratios round by round: times of different runs of a machine
cannot be compared, ratios within one round can.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Series:
    """One figure, measured once a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Ratio:
    """One series through another, round by round, and what is to be reached."""

    name: str
    series: Series
    target: float | None = None
    at_most: bool = False
    """The target is a limit from above, as for times."""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return (
            self.series.median <= self.target if self.at_most else self.series.median >= self.target
        )


@dataclass
class Result:
    """What one benchmark has found: a series for each case, in one unit."""

    name: str
    title: str
    unit: str
    series: dict[str, Series] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(
        self, over: str, under: str, target: float | None = None, *, at_most: bool = False
    ) -> None:
        """Compare two cases, unless one was not run."""
        if over not in self.series or under not in self.series:
            return
        pairs = zip(self.series[over].values, self.series[under].values, strict=True)
        series = Series(tuple(a / b for a, b in pairs))
        self.ratios.append(Ratio(f"{over} / {under}", series, target, at_most))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "series": {name: list(each.values) for name, each in self.series.items()},
            "ratios": {
                each.name: {
                    "values": list(each.series.values),
                    "target": each.target,
                    "at_most": each.at_most,
                }
                for each in self.ratios
            },
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Result:
        """What :meth:`as_json` has made."""
        series = {name: Series(tuple(each)) for name, each in told["series"].items()}
        ratios = [
            Ratio(name, Series(tuple(each["values"])), each["target"], each["at_most"])
            for name, each in told["ratios"].items()
        ]
        return cls(told["name"], told["title"], told["unit"], series, ratios, told["notes"])

    def lines(self) -> list[str]:
        """As a table for a terminal."""
        width = max(
            (len(name) for name in [*self.series, *(r.name for r in self.ratios)]), default=0
        )
        told = [f"{self.title} ({self.unit})"]
        for name, series in self.series.items():
            told.append(f"  {name:{width}}  {_figures(series, in_digits)}")
        for each in self.ratios:
            told.append(
                f"  {each.name:{width}}  {_figures(each.series, '{:.2f}'.format)}{_target(each)}"
            )
        return told + [f"  {note}" for note in self.notes]


def _figures(series: Series, text: Callable[[float], str]) -> str:
    low, high = series.spread
    return f"{text(series.median):>9}  ({text(low)} to {text(high)})"


def in_digits(value: float) -> str:
    """Three digits are enough of a figure that varies by a tenth."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _target(ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    sign = "≤" if ratio.at_most else "≥"
    return f"  {'reached' if ratio.met else 'MISSED'}: {sign} {ratio.target:g}"


def rounds(count: int, cases: Sequence[str], measure: Callable[[str], float]) -> dict[str, Series]:
    """Each case once a round, the order turned round by round."""
    found: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(count):
        order = list(cases) if number % 2 == 0 else list(reversed(cases))
        for case in order:
            found[case].append(measure(case))
    return {case: Series(tuple(values)) for case, values in found.items()}
