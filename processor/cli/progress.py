"""How far a long command is: on a terminal a bar on stderr, else a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from processor.cli.output import note

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import ProgressColumn, TaskID

    from processor.operations.progress import Progress

LINE_SECONDS = 5.0

Sent = Callable[[int], None]
"""Takes how many records have been sent."""


def progress_bar() -> AbstractContextManager[Progress]:
    """For what is read; a command that reads nothing long shows nothing."""
    return _stages() if _on_terminal() else nullcontext(_Lines())


def sending_bar(count: int, what: str = "events") -> AbstractContextManager[Sent]:
    """:param count: how many will be sent; 0 when that is not known."""
    return _sending(count) if _on_terminal() else nullcontext(_sent_lines(count, what))


def _on_terminal() -> bool:
    """One that can draw over what it has drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _display(*columns: ProgressColumn) -> Display:
    """It is gone at the end, and what is piped elsewhere stays as it is."""
    from rich.console import Console
    from rich.progress import Progress as Display

    return Display(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


# Reading


@contextmanager
def _stages() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    display = _display(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("offsets"),
        TimeRemainingColumn(),
    )
    bar = _Bar(display)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """One bar, of the stage that is under way."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._task: TaskID | None = None

    def stage(self, what: str, offsets: int) -> None:
        if self._task is None:
            self._display.start()
        else:
            self._display.remove_task(self._task)
        self._task = self._display.add_task(what, total=offsets)

    def moved(self, offsets: int) -> None:
        if self._task is not None:
            self._display.advance(self._task, offsets)

    def close(self) -> None:
        if self._task is not None:
            self._display.stop()


class _Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._what, self._total, self._done = "", 0, 0
        self._due = _Due()

    def stage(self, what: str, offsets: int) -> None:
        self._what, self._total, self._done = what, offsets, 0

    def moved(self, offsets: int) -> None:
        self._done += offsets
        if self._due.now():
            note(f"{self._what}: {self._done:,} of {self._total:,} offsets")


class _Due:
    """Whether the next line is due."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def now(self) -> bool:
        if time.monotonic() - self._told < LINE_SECONDS:
            return False
        self._told = time.monotonic()
        return True


# Sending


@contextmanager
def _sending(count: int) -> Iterator[Sent]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    with _display(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
    ) as display:
        task = display.add_task("", total=count or None, rate=0.0)
        began = time.monotonic()

        def show(sent: int) -> None:
            rate = sent / max(time.monotonic() - began, 0.001)
            display.update(task, completed=sent, rate=rate)

        yield show


def _sent_lines(count: int, what: str) -> Sent:
    due = _Due()

    def show(sent: int) -> None:
        if due.now():
            note(f"{sent:,} of {count:,} {what} sent" if count else f"{sent:,} {what} sent")

    return show
