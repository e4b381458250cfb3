"""Another clock for one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from devstack.parts import faketime_environment
from devstack.waiting import wait_until

TELL = """
import time, sys
for _ in sys.stdin:
    print(time.time(), time.monotonic(), flush=True)
"""
ROUND_SECONDS = 600
JUMP_SECONDS = 15.0
"""The file is read again when more than a second has passed."""


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    with subprocess.Popen(
        [sys.executable, "-c", TELL],
        env={**os.environ, **faketime_environment(clock)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def is_off_by(seconds: int) -> bool:
            wall, monotonic = tell(process)
            assert abs(monotonic - time.monotonic()) < 10
            return round((wall - time.time()) / ROUND_SECONDS) * ROUND_SECONDS == seconds

        assert is_off_by(0)
        for seconds in (86_400, -3_600, 0):
            clock.write_text(f"{seconds:+}")
            wait_until(lambda off=seconds: is_off_by(off), JUMP_SECONDS, f"a clock {seconds:+} s")
        assert process.stdin is not None
        process.stdin.close()


def tell(process: subprocess.Popen[str]) -> tuple[float, float]:
    """What time it is there: the wall clock and the monotonic one."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wall, monotonic = map(float, process.stdout.readline().split())
    return wall, monotonic
