"""Bounded waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from devstack.errors import StackError

T = TypeVar("T")

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


def wait_while_moving(
    read: Callable[[], T], done: Callable[[T], bool], still_seconds: float, what: str
) -> None:
    """Reads until it is done; StackError naming `what` once nothing has changed for a time.

    For work whose speed is the machine's: slow is no failure, standing still is one.
    """
    pause = FIRST_PAUSE_SECONDS
    last, changed_at = read(), time.monotonic()
    while not done(last):
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        found, now = read(), time.monotonic()
        if found != last:
            last, changed_at = found, now
        elif now - changed_at > still_seconds:
            raise StackError(f"{what}: nothing has moved for {still_seconds:g} s")
