"""Ends the process when a call hangs: the outbox has everything, the supervisor starts it again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from processor.errors import Exit

TICK_SECONDS = 0.25


def end_process(step: str) -> None:
    """Leave at once, without clean-up: whatever hangs would hang that too."""
    sys.stderr.write(f"processor: '{step}' hangs; this worker ends and is started again\n")
    sys.stderr.flush()
    os._exit(Exit.STUCK)


class Watchdog:
    """A deadline for the call under way, counted in ticks of its own thread.

    Time in which the whole process was stopped (SIGSTOP, a suspended machine) does not count:
    the thread was stopped with it, and each tick counts once however late it comes.
    """

    def __init__(self, expired: Callable[[str], None] = end_process) -> None:
        self._expired = expired
        self._step: str | None = None
        self._ticks_left = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def guard(self, step: str, limit_seconds: float) -> Guard:
        """Guards nest: the inner one counts while it lasts."""
        return Guard(self, step, max(2, round(limit_seconds / TICK_SECONDS)))

    def _watch(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self._ticks_left -= 1
            step = self._step
            if step is not None and self._ticks_left < 0:
                self._expired(step)


class Guard:
    """A call under the watchdog's eyes. (A class: a generator takes longer, at each step.)"""

    __slots__ = "_outer", "_step", "_ticks", "_watchdog"

    def __init__(self, watchdog: Watchdog, step: str, ticks: int) -> None:
        self._watchdog, self._step, self._ticks = watchdog, step, ticks

    def __enter__(self) -> None:
        watchdog = self._watchdog
        self._outer = watchdog._step, watchdog._ticks_left
        watchdog._ticks_left, watchdog._step = self._ticks, self._step

    def __exit__(self, *_: object) -> None:
        self._watchdog._step, self._watchdog._ticks_left = self._outer
