"""The live picture on a terminal: fills it, from 80 × 24 upwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo import chart
from demo.story import INTRODUCTION, Act, Mood, Story

TITLE = "exactly once, whatever is killed"
REFRESHES_PER_SECOND = 5
CHART_SECONDS = 30
AXIS_WIDTH = 9
WIDEST = 150
CHART_ROWS = (4, 12)
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

BLOW, PAUSE, RELIEF, QUIET, ACCENT = "red", "yellow", "green", "dim", "cyan"
STYLES = {
    Mood.BLOW: BLOW,
    Mood.PAUSE: PAUSE,
    Mood.THAW: PAUSE,
    Mood.RELIEF: RELIEF,
    Mood.NEWS: "",
}
MARKS = {Mood.BLOW: "▲", Mood.PAUSE: "△"}


class Picture:
    """A story, drawn to the console's size."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._story.lock:
            yield draw(self._story, min(options.max_width, WIDEST), console.height)


@contextmanager
def live(story: Story, console: Console) -> Iterator[None]:
    """Show it while the block runs; a last picture stays on the screen."""
    picture = Picture(story)
    try:
        with Live(picture, console=console, screen=True, refresh_per_second=REFRESHES_PER_SECOND):
            yield
    finally:
        # The alternate screen has taken its pictures with it.
        console.print(last(story, min(console.width, WIDEST)))


def draw(story: Story, width: int, rows: int) -> RenderableType:
    """The whole picture, as high as the screen."""
    head = [_title(story, width), *_introduction(), Text(), _strip(story), _now(story), Text()]
    workers = [*_workers(story), Text()]
    # Beside these: the counters and the chart's heading and marks, each with a blank line.
    spare = rows - len(head) - len(workers) - 3 - 3
    chart_rows = max(CHART_ROWS[0], min(spare // 2, CHART_ROWS[-1]))
    bars = [*_chart(story, width, chart_rows), Text()]
    events = _events(story, max(0, spare - chart_rows))
    return Group(*head, _counters(story), Text(), *bars, *workers, *events)


def last(story: Story, width: int) -> RenderableType:
    """What is left to be read afterwards: the numbers, and all that happened."""
    events = _events(story, len(story.events))
    head = [_title(story, width), _strip(story)]
    if not story.finished:
        head.append(Text(f" ended here: {story.act.sentence}"))
    return Group(*head, Text(), _counters(story), Text(), *events, Text())


def _title(story: Story, width: int) -> Text:
    clock = _duration(story.elapsed)
    space = " " * (width - len(TITLE) - len(clock) - 2)
    return Text.assemble(" ", (TITLE, f"bold {ACCENT}"), space, (clock, "bold"))


def _introduction() -> Iterator[Text]:
    for line in INTRODUCTION:
        yield Text(f" {line}", style=QUIET, no_wrap=True)


def _strip(story: Story) -> Text:
    """The acts: those behind, the present one, those to come."""
    strip = Text(" ")
    for act in Act:
        symbol, style = _progress(story, act)
        strip.append(f"{symbol} {act.label}   ", style)
    strip.rstrip()
    return strip


def _progress(story: Story, act: Act) -> tuple[str, str]:
    order = list(Act)
    if story.finished or order.index(act) < order.index(story.act):
        return "✓", RELIEF
    if act is story.act:
        return "●", f"bold {ACCENT}"
    return "○", QUIET


def _now(story: Story) -> Text:
    """What is going on, and how long it still takes where that is known."""
    spinner = SPINNER[int(time.monotonic() * 8) % len(SPINNER)]
    line = Text.assemble(" ", (spinner, ACCENT), " ", story.act.sentence)
    if story.act is Act.TRAFFIC:
        left = story.killing_seconds - story.act_elapsed
        late = "until the last blow has fallen"
        line.append(f", for another {_duration(left)}" if left > 0 else f", {late}")
    elif story.detail:
        line.append(f": {story.detail}")
    return line


def _counters(story: Story) -> Table:
    numbers = story.numbers
    found = {
        "produced": (story.produced, ""),
        "in Postgres": (numbers.in_postgres, ""),
        "outputs": (numbers.outputs, ""),
        "dead letters": (numbers.dead_letters, ""),
        "lag": (story.lag, ""),
        "kills": (story.kills, BLOW),
    }
    table = Table.grid(padding=(0, 1), expand=True, pad_edge=True)
    for name in found:
        # By the names alone: columns must not move when the numbers grow.
        table.add_column(ratio=max(len(name), 9) + 2)
    table.add_row(*(Text(name, QUIET) for name in found))
    table.add_row(*(Text(f"{count:,}", f"bold {style}") for count, style in found.values()))
    return table


def _chart(story: Story, width: int, height: int) -> Iterator[Text]:
    now, thickness = time.monotonic(), (width - AXIS_WIDTH - 1) // CHART_SECONDS
    values = story.rate.columns(now, CHART_SECONDS, CHART_SECONDS)
    top = chart.nice(max([*values, 100.0]))
    yield Text.assemble(
        (" events processed per second, the last 30 s", QUIET),
        ("   now ", QUIET),
        (f"{story.rate.lately(now):,.0f}", "bold"),
    )
    for row, line in enumerate(chart.bars(values, height, top, thickness)):
        label = f"{top:,.0f}" if row == 0 else "0" if row == height - 1 else ""
        yield Text.assemble((f"{label:>{AXIS_WIDTH - 2}} │", QUIET), (line, ACCENT))
    yield Text.assemble(" " * (AXIS_WIDTH), _marks(story, now, thickness))


def _marks(story: Story, now: float, thickness: int) -> Text:
    """Below the second that each blow fell in."""
    first = int(now) - CHART_SECONDS
    found = [
        (int((event.moment - first) * thickness), MARKS[event.mood], STYLES[event.mood])
        for event in story.events
        if event.mood in MARKS
    ]
    return chart.marks(CHART_SECONDS * thickness, found)


def _workers(story: Story) -> Iterator[Text]:
    now = time.monotonic()
    for worker in story.workers:
        state, style = f"{len(story.numbers.of_slot(worker.slot))} partitions", ""
        if worker.slot in story.recovering:
            state, style = "coming back", PAUSE
        if worker.pid in story.frozen:
            state, style = "frozen (SIGSTOP)", PAUSE
        yield Text.assemble(
            f" worker {worker.slot}   pid {worker.pid:<8} up {_duration(now - worker.since)}   ",
            (state, style),
        )


def _events(story: Story, count: int) -> Iterator[Text]:
    shown = list(story.events)[-count:] if count else []
    for event in shown:
        yield Text.assemble((f" {event.clock:%H:%M:%S}  ", QUIET), (event.text, STYLES[event.mood]))


def _duration(seconds: float) -> str:
    """
    >>> _duration(65.9)
    '1:05'
    """
    return str(timedelta(seconds=int(seconds)))[-7:].removeprefix("0:").removeprefix("0")
