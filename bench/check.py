"""``make bench-check``: a few ratios against those that are committed in bench/ratios.json.

A ratio fails when even the best of its rounds is worse than the committed one by more than the
tolerance: what the machine does beside slows single rounds down, seldom all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.ground import Ground
from bench.results import Result
from bench.throughput import guarded

COMMITTED = Path(__file__).with_name("ratios.json")
TOLERANCE = 0.25
ROUNDS = 3


def worse(found: Mapping[str, tuple[float, ...]], committed: Mapping[str, float]) -> list[str]:
    """What has become slower, in sentences; a ratio that is missing is told as well."""
    told = []
    for name, before in committed.items():
        if name not in found:
            told.append(f"{name}: not measured")
        elif max(found[name]) < before * (1 - TOLERANCE):
            told.append(
                f"{name}: {max(found[name]):.2f} at best, {before:.2f} committed;"
                f" more than {TOLERANCE:.0%} less"
            )
    return told


def require_committed() -> None:
    """:raises SystemExit: when there is nothing to compare with; before minutes are spent."""
    if not COMMITTED.exists():
        raise SystemExit(f"there is no bench/{COMMITTED.name}: python -m bench --commit writes it")


def measured(ground: Ground) -> Result:
    return guarded(ground, ROUNDS)


def compared(result: Result) -> list[str]:
    """With what is committed; empty when nothing is slower."""
    found = {each.name: each.series.values for each in result.ratios}
    return worse(found, json.loads(COMMITTED.read_text()))


def commit(result: Result) -> None:
    """What is measured now is what later runs are compared with."""
    medians = {each.name: round(each.series.median, 3) for each in result.ratios}
    COMMITTED.write_text(json.dumps(medians, indent=1) + "\n")
