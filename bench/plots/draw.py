"""``draw.py FIGURES FOLDER``: an SVG for each benchmark, medians with the range of the rounds."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

OURS, OTHERS = "#2563eb", "#94a3b8"
WHO = {"itself": "#2563eb", "Kafka": "#f59e0b", "Postgres": "#10b981"}
OTHER_NAMES = ("loop", "at-least-once", "COPY", "Quix", "Java", "Kafka Streams")
WIDTH, BAR, MARGIN = 8.0, 0.38, 1.0

Series = Mapping[str, Sequence[float]]


def bars(axes: Axes, series: Series) -> None:
    """One for each case, the first on top."""
    names = list(series)
    axes.barh(
        names,
        [statistics.median(each) for each in series.values()],
        xerr=_ranges(series.values()),
        color=[OURS if _is_ours(name) else OTHERS for name in names],
        error_kw={"ecolor": "#334155", "capsize": 3, "lw": 1},
    )
    axes.invert_yaxis()


def lines(axes: Axes, series: Series) -> None:
    """Cases are named ``who, number``: a line for each who, over the number."""
    for who in dict.fromkeys(_split(name)[0] for name in series):
        points = {_split(n)[1]: values for n, values in series.items() if _split(n)[0] == who}
        axes.errorbar(
            [float(at.replace(",", "")) for at in points],
            [statistics.median(each) for each in points.values()],
            yerr=_ranges(points.values()),
            label=who,
            color=OURS if _is_ours(who) else OTHERS,
            marker="o",
            capsize=3,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("messages a batch, at most")
    axes.legend(frameon=False)


def costs(axes: Axes, series: Series) -> None:
    """Processor time a message, by who uses it; stacked."""
    found: dict[str, dict[str, float]] = {}
    for name, values in series.items():
        contender, what = name.split(": ")
        if what.startswith("µs of "):
            found.setdefault(contender, {})[what[6:]] = statistics.median(values)
    start = dict.fromkeys(found, 0.0)
    for who, color in WHO.items():
        widths = [found[contender][who] for contender in found]
        axes.barh(list(found), widths, left=list(start.values()), color=color, label=who)
        start = {each: start[each] + found[each][who] for each in found}
    axes.invert_yaxis()
    axes.set_xlabel("µs a message")
    axes.legend(frameon=False)


def latencies(axes: Axes, series: Series) -> None:
    bars(axes, series)
    axes.set_xscale("log")


HOW = {"bounds": lines, "cost": costs, "latency": latencies, "peers-latency": latencies}


def main(figures: Path, folder: Path) -> None:
    mpl.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "processor",
            "svg.fonttype": "none",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, kept in json.loads(figures.read_text()).items():
        picture(kept["result"], folder / f"{name}.svg")


def picture(result: Mapping[str, Any], file: Path) -> None:
    series = result["series"]
    height = 3.6 if result["name"] in ("bounds", "cost") else MARGIN + BAR * len(series)
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    axes.set_title(result["title"], loc="left")
    axes.set_xlabel(result["unit"])
    HOW.get(result["name"], bars)(axes, series)
    plainly = FuncFormatter(lambda x, _: f"{x:,.10g}")
    axes.xaxis.set_major_formatter(plainly)
    if HOW.get(result["name"]) is lines:
        axes.set_ylabel(result["unit"])
        axes.yaxis.set_major_formatter(plainly)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def _ranges(series: Any) -> list[list[float]]:
    """How far the rounds are below and above the median."""
    found = [(statistics.median(each), min(each), max(each)) for each in series]
    return [[mid - low for mid, low, _ in found], [high - mid for mid, _, high in found]]


def _split(name: str) -> tuple[str, str]:
    who, _, at = name.partition(", ")
    return who, at


def _is_ours(name: str) -> bool:
    return not any(other in name for other in OTHER_NAMES)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
