"""Processes, time and chance of a simulation: everything follows from the seed.

Each task is a greenlet, so that the engine's own code, which knows nothing of it, can be
interrupted inside any call of a client: the task with the earliest time goes on, and virtual time
jumps to it. Nothing else runs meanwhile. A process is killed by never going on with its tasks.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

POLL_SECONDS = 0.005


class Killed(GreenletExit):  # type: ignore[misc]  # greenlet has no types
    """Raised in the task of a process that is dead, wherever it next touches the world."""


class Process:
    """One operating-system process: it lives, stands still for a while, or is dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0
        """SIGSTOP until then (virtual seconds)."""
        self.on_death: list[Callable[[], None]] = []
        """What the kernel does at the end: connections are closed."""

    def kill(self) -> None:
        """SIGKILL: no ``finally`` of it reaches the world any more."""
        if self.alive:
            self.alive = False
            for notice in self.on_death:
                notice()

    def __repr__(self) -> str:
        return self.name


OUTSIDE = Process("outside")
"""Who acts when no task does: servers' timers, tests."""


class Timer:
    """An action at a time, unless it is cancelled."""

    __slots__ = ("action", "at")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Task:
    """A call that runs in a process; as a future it tells its result."""

    def __init__(self, scheduler: Scheduler, process: Process, call: Callable[[], Any]) -> None:
        self.process = process
        self._scheduler = scheduler
        self._call = call
        self._done = False
        self._value: Any = None
        self.error: BaseException | None = None
        self.greenlet = greenlet(self._run, scheduler.hub)
        scheduler.tasks[self] = None

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self.error = error.with_traceback(None) if isinstance(error, Killed) else error
        self._done = True
        self._scheduler.tasks.pop(self, None)

    def done(self) -> bool:
        return self._done

    def result(self, timeout: float | None = None) -> Any:
        """As ``concurrent.futures.Future.result``, in virtual time.

        :raises TimeoutError: when it is not done in time.
        """
        if not self._scheduler.wait(self.done, timeout):
            raise TimeoutError
        if self.error is not None:
            raise self.error
        return self._value


class Time(Protocol):
    """What the fakes need of the world; simulated, or real for the contract tests."""

    random: Random

    @property
    def process(self) -> Process:
        """Whose code runs now."""

    def now(self) -> float:
        """Monotonic seconds."""

    def pause(self, seconds: float) -> None:
        """Let time pass, and others run."""

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Let others run until it is so; False when that took too long (seconds)."""

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """A server's timer; the action must not pause or wait."""

    def spawn(self, process: Process, call: Callable[[], Any], after: float = 0.0) -> Any:
        """Begin a task of a process; a future of its result."""


class Scheduler:
    """Implements :class:`Time` with virtual time; one event after the other, in the order of their
    times, equal times in an order drawn from the seed.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311
        self._draw = self.random.random
        self.hub = getcurrent()
        self._now = 0.0
        self._queue: list[tuple[float, float, int, Task | Timer | None]] = []
        self._numbers = itertools.count()
        self._task: Task | None = None
        self._waiting: list[tuple[Task, Callable[[], bool], float]] = []
        self._woken: dict[Task, bool] = {}
        self._until: Callable[[], bool] = lambda: False
        self._deadline = float("inf")
        self.switches = 0
        self.tasks: dict[Task, None] = {}
        """Those that are not done."""

    @property
    def process(self) -> Process:
        return OUTSIDE if self._task is None else self._task.process

    def now(self) -> float:
        return self._now

    def spawn(self, process: Process, call: Callable[[], Any], after: float = 0.0) -> Task:
        task = Task(self, process, call)
        self._push(self._now + after, task)
        return task

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(self._now + seconds, action)
        self._push(timer.at, timer)
        return timer

    def pause(self, seconds: float) -> None:
        task = self._task
        if task is None:
            self.run(lambda: False, self._now + seconds)
            return
        if not task.process.alive:
            raise Killed
        self._push(self._now + seconds, task)
        self._switch(task)

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = float("inf") if timeout is None else self._now + timeout
        task = self._task
        if task is None:
            return self.run(until, deadline)
        if not task.process.alive:
            raise Killed
        if until():
            return True
        self._waiting.append((task, until, deadline))
        if timeout is not None:
            self._push(deadline, None)
        self._switch(task)
        return self._woken.pop(task)

    def run(self, until: Callable[[], bool], deadline: float = float("inf")) -> bool:
        """From outside of all tasks: event after event, until it is so or the time is over."""
        outer = self._until, self._deadline
        self._until, self._deadline = until, deadline
        try:
            while (task := self._next()) is not None:
                task.greenlet.switch()
                # Back here: the task has ended, or one of them has found that this is over.
                self._task = None
                self._wake()
        finally:
            self._until, self._deadline = outer
        if deadline != float("inf") and not until():
            self._now = max(self._now, deadline)
        return until()

    def end_tasks(self) -> None:
        """From outside, when all processes are dead: nothing is left of what they were at."""
        for task in list(self.tasks):
            if task.greenlet:
                task.greenlet.throw(Killed)
        self.tasks.clear()
        self._waiting.clear()
        self._queue.clear()

    def _next(self) -> Task | None:
        """Event after event, up to a task's turn; None when :meth:`run` is over."""
        queue = self._queue
        while not self._until():
            if not queue or queue[0][0] > self._deadline:
                return None
            at, _, _, event = heapq.heappop(queue)
            if at > self._now:
                self._now = at
            if type(event) is Task:
                if self._goes_on(event):
                    self._task = event
                    self.switches += 1
                    return event
            elif type(event) is Timer and event.action is not None:
                action, event.action = event.action, None
                action()
            self._wake()
        return None

    def _goes_on(self, task: Task) -> bool:
        process = task.process
        if not process.alive:
            return bool(task.greenlet)  # to be killed, if it has begun
        if process.stopped_until > self._now:
            self._push(process.stopped_until, task)
            return False
        return True

    def _wake(self) -> None:
        """Tasks whose condition holds, or whose time is over, go on next."""
        if not self._waiting:
            return
        woken = []
        for entry in self._waiting:
            task, until, deadline = entry
            holds = not task.process.alive or until()
            if holds or deadline <= self._now:
                self._woken[task] = holds
                self._push(self._now, task)
                woken.append(entry)
        for entry in woken:
            self._waiting.remove(entry)

    def _switch(self, task: Task) -> None:
        """Others go on, until this task is told to; straight from one to the next, since the way by
        the hub would be two switches each time.
        """
        self._task = None
        try:
            self._wake()
            following = self._next()
        except BaseException as error:
            self.hub.throw(error)  # not this task's
            raise
        if following is not task:
            (self.hub if following is None else following.greenlet).switch()
        if not task.process.alive:
            self._woken.pop(task, None)
            raise Killed

    def _push(self, at: float, event: Task | Timer | None) -> None:
        heapq.heappush(self._queue, (at, self._draw(), next(self._numbers), event))


class Clock:
    """Implements the engine's ``Clock`` with virtual time."""

    def __init__(self, time: Time) -> None:
        self.now = time.now
        self.sleep = time.pause
