"""Ends the process when a call hangs: the outbox has everything, the supervisor starts it again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

    @contextmanager
    def guard(self, step: str, limit_seconds: float) -> Iterator[None]:
        """Guards nest: the inner one counts while it lasts."""
        outer = self._step, self._ticks_left
        self._ticks_left = max(2, round(limit_seconds / TICK_SECONDS))
        self._step = step
        try:
            yield
        finally:
            self._step, self._ticks_left = outer

    def _watch(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self._ticks_left -= 1
            step = self._step
            if step is not None and self._ticks_left < 0:
                self._expired(step)
