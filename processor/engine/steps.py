"""The named steps of the engine: log names, metric labels and fault points are one enum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from time import perf_counter
from typing import Literal, Protocol

from processor.engine.watchdog import Watchdog


class Step(StrEnum):
    """Each I/O call of the engine, and the handlers."""

    CONSUME = "consume"
    HANDLE = "handle"
    CONNECT = "connect"
    BEGIN = "begin"
    FLUSH = "flush"
    STORE = "store"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SEND = "send"
    SEND_OFFSETS = "send-offsets"
    END = "end"
    ABORT = "abort"
    INITIALISE = "initialise"
    READ_TOPICS = "read-topics"
    READ_OFFSETS = "read-offsets"
    READ_LOG = "read-log"
    LOCK = "lock"
    LOAD = "load"
    RENEW = "renew"
    START = "start"
    CLEAR_INTENT = "clear-intent"
    RAISE = "raise"
    WATCH = "watch"
    REPORT = "report"
    CLOSE = "close"


Edge = Literal["before", "inside", "after"]
Fault = Callable[[Step, Edge], None]
"""Is told of each edge of each step, and may crash, stall or raise there. ``inside`` is told as the
call begins."""


class Timer(Protocol):
    """Who wants to know how long steps take (seconds)."""

    def step_took(self, step: Step, seconds: float) -> None: ...


class Steps:
    """Runs each step under the watchdog, timed, with a fault point on either side."""

    def __init__(
        self,
        watchdog: Watchdog,
        timer: Timer,
        fault: Fault | None = None,
        limit_seconds: float = 30.0,
    ) -> None:
        self._watchdog = watchdog
        self._timer = timer
        self._fault = fault
        self._limit_seconds = limit_seconds

    @contextmanager
    def step(self, step: Step, limit_seconds: float | None = None) -> Iterator[None]:
        """One step; the process ends if it hangs for longer than the limit."""
        fault = self._fault
        if fault is not None:
            fault(step, "before")
        with self._watchdog.guard(step, limit_seconds or self._limit_seconds):
            started = perf_counter()
            if fault is not None:
                fault(step, "inside")
            yield
            self._timer.step_took(step, perf_counter() - started)
        if fault is not None:
            fault(step, "after")
