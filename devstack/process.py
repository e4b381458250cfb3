"""Server processes that cannot outlive this one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError

GUARD = Path(__file__).with_name("_child.py")
REPLY_SECONDS = 20.0
TAIL_LINES = 20
FIRST_SIGNAL = 256 - signal.NSIG


@dataclass(frozen=True)
class User:
    """Whom a server runs as."""

    name: str
    uid: int
    gid: int


class Child:
    """A running server process, started at construction, with its guard (`_child.py`).

    Server and guard are in a session of their own: a terminal's Ctrl-C reaches the caller alone,
    who stops things in order. Commands pass through the guard, which is the server's parent: a
    signal can never hit a foreign process that got the same pid. Methods may be called from any
    thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: User | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._lock = threading.Lock()
        account = f"{user.uid}:{user.gid}" if user else "-"
        guard: list[str | Path] = [sys.executable, "-I", "-S", GUARD]
        self._guard = subprocess.Popen(
            [*guard, str(os.getpid()), log.absolute(), account, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=directory,
            env={**os.environ, **(environment or {})},
        )
        reply = self._read_reply(time.monotonic() + REPLY_SECONDS)
        if not reply:
            self._end_guard()
            raise StackError(f"{name}: its guard process did not start")
        self.pid = int(reply)
        self.guard_pid = self._guard.pid

    @property
    def alive(self) -> bool:
        """A paused process is alive, too."""
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int:
        """Of a process that has ended; 128 + the signal's number when one ended it."""
        return self._guard.wait()

    def check(self) -> None:
        """StackError with the log's tail if the process has ended."""
        if not self.alive:
            raise StackError(f"{self.name} ended {self._how()}{self.log_tail()}")

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The log's last lines, ready to be appended to a message."""
        try:
            tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError as error:
            return f"\n  | no log: {error}"
        return f"\n{self.log}:\n" + "\n".join(f"  | {line}" for line in tail)

    def pause(self) -> None:
        """Stops (SIGSTOP) the process and its children; they stand still on return."""
        self._command("pause")

    def resume(self) -> None:
        """Lets a paused process and its children go on (SIGCONT)."""
        self._command("resume")

    def kill(self) -> None:
        """SIGKILL for the process and all its children, paused or not; gone on return."""
        self._command("kill")
        self._wait(REPLY_SECONDS)
        self._end_guard()

    def stop(self, number: signal.Signals, timeout_seconds: float) -> None:
        """Asks the process to end by a signal, and kills it when it takes too long."""
        self._command("resume")
        self._command(f"signal {int(number)}")
        if not self._wait(timeout_seconds):
            self.kill()
        self._end_guard()

    def finish(self, timeout_seconds: float) -> None:
        """Waits for the process to end by itself; StackError unless it does so with success."""
        if not self._wait(timeout_seconds):
            self.kill()
            raise StackError(f"{self.name} took more than {timeout_seconds:g} s{self.log_tail()}")
        self._end_guard()
        if self._guard.returncode:
            raise StackError(f"{self.name} ended {self._how()}{self.log_tail()}")

    def _command(self, line: str) -> None:
        """Nothing happens when the process has ended."""
        with self._lock:
            if not self.alive or self._guard.stdin is None:
                return
            try:
                self._guard.stdin.write(line.encode() + b"\n")
                self._guard.stdin.flush()
            except (BrokenPipeError, ValueError):
                return
            reply = self._read_reply(time.monotonic() + REPLY_SECONDS)
        if not reply and self.alive and not self._wait(REPLY_SECONDS):
            raise StackError(f"{self.name}: its guard process does not answer to {line!r}")

    def _read_reply(self, deadline: float) -> str:
        """One line from the guard; empty when it has ended or the time is over."""
        assert self._guard.stdout is not None
        poller = select.poll()
        poller.register(self._guard.stdout, select.POLLIN | select.POLLHUP)
        line = b""
        while not line.endswith(b"\n"):
            left_ms = max(0.0, deadline - time.monotonic()) * 1000
            if not poller.poll(left_ms):
                return ""
            received = os.read(self._guard.stdout.fileno(), 1)
            if not received:
                return ""
            line += received
        return line.decode().strip()

    def _wait(self, timeout_seconds: float) -> bool:
        try:
            self._guard.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _end_guard(self) -> None:
        """Closing its input makes a guard that still runs kill all it has."""
        with self._lock:
            for pipe in (self._guard.stdin, self._guard.stdout):
                if pipe is not None:
                    pipe.close()
        if not self._wait(REPLY_SECONDS):
            self._guard.kill()
            self._guard.wait()

    def _how(self) -> str:
        # The guard's own exit code has eight bits: a death by signal n shows as 256 - n.
        code = self._guard.returncode
        return f"by signal {256 - code}" if code >= FIRST_SIGNAL else f"with exit code {code}"
