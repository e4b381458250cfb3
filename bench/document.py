"""``python -m bench.document``: docs/benchmarks.md and its pictures, from docs/benchmarks.json."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import record
from bench.plots import draw
from bench.results import Ratio, Result, Series, in_digits

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, PAGE, PICTURES = DOCS / "benchmarks.json", DOCS / "benchmarks.md", DOCS / "benchmarks"
ORDER = (
    "work",
    "peers",
    "bounds",
    "partitions",
    "sizes",
    "workers",
    "dedup",
    "latency",
    "peers-latency",
    "cost",
    "recovery",
    "cliffs",
    "failures",
)

HEAD = """\
# Benchmarks

Made by `make bench JSON=docs/benchmarks.json`, `make bench-peers JSON=docs/benchmarks.json` and
`make bench-docs`. How it is measured, and where the time goes: [performance.md](performance.md).

The machine has few cores, and everything shares them: broker, database, the program that is
measured. Figures of different runs cannot be compared; **ratios within one run can**, of contenders
that took turns. Told are the median of the rounds, and in brackets the least and the most. Each run
was audited: it has neither lost nor doubled a message, else there would be no figure.
"""


def page(kept: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield HEAD
    for name in sorted(kept, key=_place):
        result = Result.from_json(kept[name]["result"])
        command = "make bench-peers" if name.startswith("peers") else f"make bench BENCH={name}"
        yield f"## {result.title}\n"
        yield f"`{command}`, {kept[name]['date']}, {kept[name]['machine']}\n"
        yield f"![{result.title}](benchmarks/{name}.svg)\n"
        yield from _ratios(result)
        yield f"| | {result.unit} |\n|---|--:|"
        for case, series in result.series.items():
            yield f"| {case} | {_figures(series)} |"
        yield ""
        if result.notes:
            yield from ("```", *result.notes, "```", "")


def _ratios(result: Result) -> Iterator[str]:
    if result.ratios:
        yield "| ratio | | to be reached |\n|---|--:|---|"
        for each in result.ratios:
            low, high = each.series.spread
            figures = f"**{each.series.median:.2f}** ({low:.2f} to {high:.2f})"
            yield f"| {each.name} | {figures} | {_target(each)} |"
        yield ""


def _target(ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    sign = "at most" if ratio.at_most else "at least"
    return f"{sign} {ratio.target:g}: {'reached' if ratio.met else '**missed**'}"


def _figures(series: Series) -> str:
    low, high = series.spread
    return f"{in_digits(series.median)} ({in_digits(low)} to {in_digits(high)})"


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def main() -> int:
    kept = record.read(FIGURES)
    if not kept:
        print(f"{FIGURES} is missing: make bench JSON={FIGURES}", file=sys.stderr)
        return 1
    PAGE.write_text("\n".join(page(kept)).rstrip() + "\n")
    draw(FIGURES, PICTURES)
    print(f"{PAGE}, and {len(kept)} pictures beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
