"""``make bench-check``: a few ratios against those that are committed in bench/ratios.json.

A ratio fails when even the best of its rounds is worse than the committed one by more than the
tolerance: what the machine does beside slows single rounds down, seldom all of them. Those of
bench/path.py need no servers, and are part of ``make test``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench import path
from bench.ground import Ground
from bench.results import Ratio, Result, Series
from bench.throughput import guarded

COMMITTED = Path(__file__).with_name("ratios.json")
TOLERANCE = 0.25
ROUNDS = 3


def worse(
    found: Mapping[str, tuple[float, ...]],
    before: Mapping[str, float],
    tolerance: float = TOLERANCE,
) -> list[str]:
    """What has become slower, in sentences; a ratio that is missing is told as well."""
    told = []
    for name, ratio in before.items():
        if name not in found:
            told.append(f"{name}: not measured")
        elif max(found[name]) < ratio * (1 - tolerance):
            told.append(
                f"{name}: {max(found[name]):.2f} at best, {ratio:.2f} committed;"
                f" more than {tolerance:.0%} less"
            )
    return told


def require_committed() -> None:
    """:raises SystemExit: when there is nothing to compare with; before minutes are spent."""
    if not COMMITTED.exists():
        raise SystemExit(f"there is no bench/{COMMITTED.name}: python -m bench --commit writes it")


def measured(ground: Ground) -> Result:
    result = guarded(ground, ROUNDS)
    for name, values in path.ratios(ROUNDS).items():
        result.ratios.append(Ratio(name, Series(values)))
    return result


def compared(result: Result) -> list[str]:
    """With what is committed; empty when nothing is slower."""
    return worse({each.name: each.series.values for each in result.ratios}, committed())


def committed() -> dict[str, float]:
    """The ratios by name."""
    found: dict[str, float] = json.loads(COMMITTED.read_text())
    return found


def commit(result: Result) -> None:
    """What is measured now is what later runs are compared with."""
    medians = {each.name: round(each.series.median, 3) for each in result.ratios}
    COMMITTED.write_text(json.dumps(medians, indent=1) + "\n")
