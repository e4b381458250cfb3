"""Which process a server has at present."""

from __future__ import annotations

import signal
from collections.abc import Callable

from devstack.errors import StackError
from devstack.process import Child


class Slot:
    """Holds the one process that a server has at a time: its own, or that of a tool.

    `close` is final and sure: what another thread is just starting is killed, too.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: Child | None = None
        self._closed = False

    @property
    def child(self) -> Child:
        """The process; StackError when it was not started, or was stopped."""
        if self._child is None:
            raise StackError(f"{self._name} is not running")
        return self._child

    @property
    def filled(self) -> bool:
        """Whether there should be a process: it may have died."""
        return self._child is not None

    @property
    def alive(self) -> bool:
        child = self._child
        return child is not None and child.alive

    def fill(self, start: Callable[[], Child]) -> Child:
        """Starts a process and keeps it."""
        self.check()
        self._child = child = start()
        if self._closed:
            self.kill()
        self.check()
        return child

    def run(self, start: Callable[[], Child], timeout_seconds: float) -> None:
        """Starts a tool and waits for its end; StackError when it fails."""
        self.fill(start).finish(timeout_seconds)
        self._child = None

    def check(self) -> None:
        """StackError if the process has ended by itself (with its log's tail), or after close."""
        if self._closed:
            raise StackError(f"{self._name} was closed")
        child = self._child
        if child is not None:
            child.check()

    def stop(self, number: signal.Signals, timeout_seconds: float) -> None:
        """Nothing happens when there is no process."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(number, timeout_seconds)

    def kill(self) -> bool:
        """Whether there was a process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        return child is not None

    def close(self) -> None:
        self._closed = True
        self.kill()
