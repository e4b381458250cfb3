"""``processor run`` as a child of the test, and what it has said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LOG_LINES = 30
DRAIN_SECONDS = 30.0


class RunProcess:
    """The supervisor with its workers: a process group, nothing of which outlives :meth:`stop`.

    Nor the test run, should that die: see ``guard.py``.
    """

    def __init__(
        self, reference: str, workers: int, environment: Mapping[str, str], log: Path
    ) -> None:
        self.log = log
        run = [sys.executable, "-m", "processor", "run", reference, "--workers", str(workers)]
        with log.open("ab") as file:
            self._popen = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "processor.testing.guard", *run],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_path(), **environment},
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def said(self) -> str:
        """The log's last lines."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def stop(self) -> int:
        """As ``SIGTERM`` does it; its exit code. To be called again does no harm."""
        if self._popen.poll() is None:
            self._popen.terminate()
            deadline = time.monotonic() + DRAIN_SECONDS
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(deadline - time.monotonic())
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        assert self._popen.stdin is not None, "it is a pipe"
        self._popen.stdin.close()
        return self._popen.wait()


def _path() -> dict[str, str]:
    """The child imports what the test could."""
    return {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
