"""Ends the process when a call hangs: the outbox has everything, the supervisor starts it again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from threading import get_ident

from processor.errors import Exit

TICK_SECONDS = 0.25


def end_process(step: str) -> None:
    """Leave at once, without clean-up: whatever hangs would hang that too."""
    sys.stderr.write(f"processor: '{step}' hangs; this worker ends and is started again\n")
    sys.stderr.flush()
    os._exit(Exit.STUCK)


class Watchdog:
    """A deadline for the call under way in each thread, counted in ticks of its own thread.

    Time in which the whole process was stopped (SIGSTOP, a suspended machine) does not count:
    the thread was stopped with it, and each tick counts once however late it comes.
    """

    def __init__(self, expired: Callable[[str], None] = end_process) -> None:
        self._expired = expired
        self._calls: dict[int, Guard] = {}
        """The innermost of each thread."""
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
        return Guard(self._calls, step, max(2, round(limit_seconds / TICK_SECONDS)))

    def _watch(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            for guard in list(self._calls.values()):
                guard.ticks_left -= 1
                if guard.ticks_left < 0:
                    self._expired(guard.step)


class Guard:
    """A call under the watchdog's eyes. (A class: a generator takes longer, at each step.)"""

    __slots__ = "_calls", "_outer", "_thread", "step", "ticks_left"

    def __init__(self, calls: dict[int, Guard], step: str, ticks: int) -> None:
        self._calls, self.step, self.ticks_left = calls, step, ticks

    def __enter__(self) -> None:
        self._thread = get_ident()
        self._outer = self._calls.get(self._thread)
        self._calls[self._thread] = self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            self._calls[self._thread] = self._outer
        else:
            self._calls.pop(self._thread, None)
