"""Bounded waits."""

from __future__ import annotations

import time
from collections.abc import Callable

from devstack.errors import StackError

FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.1


def wait_until(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    """Asks until the condition holds; StackError naming `what` once the time is over."""
    deadline = time.monotonic() + timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{what}: not within {timeout_seconds:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
