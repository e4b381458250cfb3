"""The named steps of the engine: log names, metric labels and fault points are one enum."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from time import perf_counter
from typing import Literal, Protocol

from processor.engine.watchdog import Guard, Watchdog


class Step(StrEnum):
    """Each I/O call of the engine, and the handlers."""

    CONSUME = "consume"
    HANDLE = "handle"
    ASK = "ask"
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

    def step(self, step: Step, limit_seconds: float | None = None) -> Running:
        """One step; the process ends if it hangs for longer than the limit."""
        guard = self._watchdog.guard(step, limit_seconds or self._limit_seconds)
        return Running(step, guard, self._timer, self._fault)


class Running:
    """A step under way. Its time and its end are told if it succeeds."""

    __slots__ = "_fault", "_guard", "_started", "_step", "_timer"

    def __init__(self, step: Step, guard: Guard, timer: Timer, fault: Fault | None) -> None:
        self._step, self._guard, self._timer, self._fault = step, guard, timer, fault

    def __enter__(self) -> None:
        fault = self._fault
        if fault is not None:
            fault(self._step, "before")
        self._guard.__enter__()
        self._started = perf_counter()
        if fault is not None:
            try:
                fault(self._step, "inside")
            except BaseException:
                self._guard.__exit__()
                raise

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        took = perf_counter() - self._started
        self._guard.__exit__()
        if error is not None:
            return
        self._timer.step_took(self._step, took)
        if self._fault is not None:
            self._fault(self._step, "after")
