"""The processor itself as a child process, whose workers can be killed and stopped one by one."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from devstack.errors import StackError
from devstack.process import Child

DRAIN_SECONDS = 40.0
PROCESS = re.compile(r"""process["']?[=:]\s*(\d+)""")


class Service:
    """``processor run`` under a guard: nothing of it outlives this process.

    Signals to workers go by pid to processes that are, at that moment, children of the supervisor.
    """

    def __init__(
        self,
        reference: str,
        *,
        workers: int,
        log: Path,
        environment: Mapping[str, str],
        directory: Path | None = None,
        program: str = "processor",
    ) -> None:
        self._stopped: set[int] = set()
        self.child = Child(
            "processor",
            [sys.executable, "-m", program, "run", reference, "--workers", str(workers)],
            log=log,
            environment=environment,
            directory=directory,
        )

    def workers(self) -> list[int]:
        """The worker processes' pids, by the supervisor's log; a spare that waits is none."""
        path = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        try:
            children = {int(pid) for pid in path.read_text().split()}
            log = self.child.log.read_text(errors="replace")
        except OSError:
            return []
        started = [PROCESS.search(line) for line in log.splitlines() if "worker-started" in line]
        return [int(found[1]) for found in started if found and int(found[1]) in children]

    def kill_worker(self, pid: int | None = None) -> int | None:
        """SIGKILL for one worker, any of them unless given; its pid, None if there is none."""
        return self._signal(signal.SIGKILL, pid)

    def stop_worker(self, pid: int | None = None) -> int | None:
        """SIGSTOP for one worker."""
        found = self._signal(signal.SIGSTOP, pid)
        if found is not None:
            self._stopped.add(found)
        return found

    def continue_worker(self, pid: int) -> None:
        """SIGCONT for a worker that was stopped; it may have been killed meanwhile."""
        self._stopped.discard(pid)
        if pid in self.workers():
            self._signal(signal.SIGCONT, pid)

    def drain(self) -> int:
        """SIGTERM, then wait; the service's exit code.

        :raises StackError: when it does not end by itself.
        """
        for pid in list(self._stopped):
            self.continue_worker(pid)
        os.kill(self.child.pid, signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.child.alive:
            if time.monotonic() > deadline:
                tail = self.child.log_tail()
                self.child.kill()
                raise StackError(f"the processor did not drain in {DRAIN_SECONDS:.0f} s{tail}")
            time.sleep(0.02)
        return self.child.exit_code

    def close(self) -> None:
        """Kill whatever is left."""
        if self.child.alive:
            self.child.kill()

    def _signal(self, number: signal.Signals, pid: int | None) -> int | None:
        workers = self.workers()
        if pid is None:
            if not workers:
                return None
            pid = random.choice(workers)
        if pid not in workers:
            return None
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        return pid

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
