"""The watchdog ends what hangs, and only that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from devstack.waiting import wait_until
from processor.engine import watchdog as module
from processor.engine.watchdog import Watchdog
from processor.errors import Exit
from tests.support.processes import state_of

TICK = 0.02


class Ended(list[str]):
    """The steps that were said to hang; waits for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def __call__(self, step: str) -> None:
        self.append(step)
        self.event.set()


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def watchdog(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    monkeypatch.setattr(module, "TICK_SECONDS", TICK)
    watchdog = Watchdog(ended)
    watchdog.start()
    yield watchdog
    watchdog.stop()


def test_a_call_that_outlasts_its_limit_is_named(watchdog: Watchdog, ended: Ended) -> None:
    with watchdog.guard("commit", 5 * TICK):
        assert ended.event.wait(20)
    assert ended[0] == "commit"


def test_a_call_within_its_limit_is_left_alone(watchdog: Watchdog, ended: Ended) -> None:
    for _ in range(20):
        with watchdog.guard("commit", 1_000 * TICK):
            time.sleep(TICK / 4)
    assert ended == []


def test_nothing_counts_between_calls(watchdog: Watchdog, ended: Ended) -> None:
    with watchdog.guard("commit", 3 * TICK):
        pass
    assert not ended.event.wait(20 * TICK)


def test_a_call_that_failed_is_over(watchdog: Watchdog, ended: Ended) -> None:
    with pytest.raises(ValueError, match="failed"), watchdog.guard("commit", 3 * TICK):
        raise ValueError("failed")
    assert not ended.event.wait(20 * TICK)


def test_the_inner_guard_counts_while_it_lasts(watchdog: Watchdog, ended: Ended) -> None:
    with watchdog.guard("handle", 5 * TICK), watchdog.guard("execute", 1_000 * TICK):
        assert not ended.event.wait(20 * TICK)
    assert ended == []


def test_the_outer_guard_counts_again_after_the_inner_one(watchdog: Watchdog, ended: Ended) -> None:
    with watchdog.guard("handle", 5 * TICK):
        with watchdog.guard("execute", 1_000 * TICK):
            pass
        assert ended.event.wait(20)
    assert ended[0] == "handle"


def test_the_shortest_limit_leaves_time_for_a_call(watchdog: Watchdog, ended: Ended) -> None:
    with watchdog.guard("commit", 0.0):
        pass
    assert ended == []


HANGING = """
import sys, time
from processor.engine import watchdog
watchdog.TICK_SECONDS = 0.05
dog = watchdog.Watchdog()
dog.start()
with dog.guard("commit", float(sys.argv[1])):
    print("inside", flush=True)
    {body}
print("outside", flush=True)
"""


def start(body: str, limit_seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(body=body), str(limit_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def test_a_process_whose_call_hangs_ends_at_once_and_says_where() -> None:
    process = start("time.sleep(60)", 0.5)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == Exit.STUCK
    assert "'commit' hangs" in errors


def wait_for(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, 20, what)


def test_time_in_which_the_whole_process_was_stopped_does_not_count() -> None:
    """A stopped process must first of all find out what happened meanwhile, not end."""
    limit_seconds = 3.0
    process = start("time.sleep(60)", limit_seconds)
    stopped_at = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: state_of(process.pid) == "T", "the process to stand still")
    wait_for(lambda: time.monotonic() - stopped_at > limit_seconds + 1, "the limit to pass")
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: state_of(process.pid) != "T", "the process to go on")
    alive_until = time.monotonic() + 0.5
    wait_for(lambda: process.poll() is not None or time.monotonic() > alive_until, "half a second")
    assert process.poll() is None, "it was ended although it had not run for its limit"
    process.kill()
    process.wait()
