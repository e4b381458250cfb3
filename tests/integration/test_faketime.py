"""Another clock for one process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devstack import StackError
from devstack.parts import faketime_environment

TELL = """
import time, sys
for _ in sys.stdin:
    print(time.time(), time.monotonic(), flush=True)
"""


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    try:
        environment = faketime_environment(clock)
    except StackError as error:
        pytest.skip(str(error))
    with subprocess.Popen(
        [sys.executable, "-c", TELL],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        offsets = []
        for offset in ("+0", "+86400", "-3600", "+0"):
            clock.write_text(offset)
            time.sleep(2.2)  # the file is read again when more than a second has passed
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            offsets.append(round((wall - time.time()) / 600) * 600)
            assert abs(monotonic - time.monotonic()) < 10
        process.stdin.close()
    assert offsets == [0, 86_400, -3_600, 0]
