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
    RENEW = "renew"
    LOAD = "load"
    CLEAR_INTENT = "clear-intent"
    RAISE = "raise"
    REPORT = "report"
    CLOSE = "close"


Edge = Literal["before", "after"]
Fault = Callable[[Step, Edge], None]


class Timer(Protocol):
    """Who wants to know how long steps take (seconds)."""

    def step_took(self, step: Step, seconds: float) -> None: ...


def no_fault(step: Step, edge: Edge) -> None:
    """Fault points cost one call of this when they are off."""


class Steps:
    """Runs each step under the watchdog, timed, with a fault point on either side."""

    def __init__(
        self, watchdog: Watchdog, timer: Timer, fault: Fault = no_fault, limit_seconds: float = 30.0
    ) -> None:
        self._watchdog = watchdog
        self._timer = timer
        self._fault = fault
        self._limit_seconds = limit_seconds

    @contextmanager
    def step(self, step: Step, limit_seconds: float | None = None) -> Iterator[None]:
        """One step; the process ends if it hangs for longer than the limit."""
        self._fault(step, "before")
        with self._watchdog.guard(step, limit_seconds or self._limit_seconds):
            started = perf_counter()
            yield
            self._timer.step_took(step, perf_counter() - started)
        self._fault(step, "after")
