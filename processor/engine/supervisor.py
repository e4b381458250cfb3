"""N worker processes: started, watched, started again with back-off, drained.

A worker proves that its loop turns by writing to a pipe. One whose loop stands still is killed;
the slot's next process fences whatever the last one left open.

A spare process stands by, everything imported, waiting for a slot's number on its standard input:
starting Python would take longer than the whole recovery.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from processor.errors import Exit

POLL_SECONDS = 0.2
QUICK_DEATH_SECONDS = 3.0
FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 15.0
BEAT_VARIABLE = "PROCESSOR_SUPERVISED"

SPARE = "-"
"""In place of a slot's number: it will be told."""
SPARE_AFTER_SECONDS = 2.0
"""A new spare is made when a worker that was just started no longer needs the processors."""

FINAL = frozenset({Exit.USAGE, Exit.SCHEMA})
"""A restart would end the same way: the whole service stops with this code."""

Tell = Callable[[str, dict[str, object]], None]
"""Takes an event and its fields."""


@dataclass(slots=True)
class _Process:
    """A worker process and the reading end of its pipe."""

    popen: subprocess.Popen[bytes]
    pipe: int


@dataclass(slots=True)
class _Slot:
    """One worker process after another."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    started: float = 0.0
    beaten: float = 0.0
    quick_deaths: int = 0
    start_at: float | None = 0.0
    """When the next process is due; None when there will be none."""


class Supervisor:
    """Runs ``command(slot number)`` for each slot until told to stop.

    ``command("-")`` is a process that waits for its slot's number.
    """

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        workers: int,
        stall_timeout_seconds: float,
        drain_timeout_seconds: float,
        tell: Tell,
    ) -> None:
        self._command = command
        self._stall_timeout_seconds = stall_timeout_seconds
        self._drain_timeout_seconds = drain_timeout_seconds
        self._tell = tell
        self._slots = [_Slot(number) for number in range(workers)]
        self._selector = selectors.DefaultSelector()
        self._spare: _Process | None = None
        self._spare_at = 0.0
        self._signals = 0
        self._exits: list[int] = []
        self._final: Exit | None = None

    def run(self) -> Exit:
        """Blocks until SIGTERM or SIGINT has drained the workers; the exit code of the service."""
        previous = {s: signal.signal(s, self._signalled) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._signals and self._final is None:
                self._start_due()
                self._stand_by()
                self._listen(POLL_SECONDS)
                self._kill_stalled()
                if all(slot.start_at is None and slot.process is None for slot in self._slots):
                    self._final = Exit.SLOT_TAKEN
            return self._drain()
        finally:
            self._drop_spare()
            for slot in self._slots:
                self._kill(slot)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: object) -> None:  # noqa: ARG002
        self._signals += 1

    def _start_due(self) -> None:
        now = monotonic()
        for slot in self._slots:
            if slot.process is None and slot.start_at is not None and slot.start_at <= now:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        process = self._take_spare(slot.number) or self._spawn(str(slot.number))
        slot.process, slot.pipe = process.popen, process.pipe
        slot.started = slot.beaten = monotonic()
        self._spare_at = slot.started + SPARE_AFTER_SECONDS
        self._selector.register(slot.pipe, selectors.EVENT_READ, slot)
        self._tell("worker-started", {"slot": slot.number, "process": slot.process.pid})

    def _spawn(self, argument: str) -> _Process:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        popen = subprocess.Popen(  # noqa: S603
            list(self._command(argument)),
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
            env={**os.environ, BEAT_VARIABLE: str(write_end)},
        )
        os.close(write_end)
        return _Process(popen, read_end)

    def _stand_by(self) -> None:
        """Have a spare, unless a worker has only just been started."""
        if self._spare is None and monotonic() >= self._spare_at:
            self._spare = self._spawn(SPARE)

    def _take_spare(self, number: int) -> _Process | None:
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            assert spare.popen.stdin is not None, "its input is a pipe"
            spare.popen.stdin.write(f"{number}\n".encode())
            spare.popen.stdin.flush()
        except BrokenPipeError:
            _end(spare)
            return None
        return spare

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            _end(spare)

    def _listen(self, seconds: float) -> None:
        """Wait for beats; a pipe's end means that its process is gone."""
        for key, _ in self._selector.select(seconds):
            slot: _Slot = key.data
            if os.read(slot.pipe, 4096):
                slot.beaten = monotonic()
            else:
                self._ended(slot)
        for slot in self._slots:
            # Something that the worker has started may hold its end of the pipe.
            if slot.process is not None and slot.process.poll() is not None:
                self._ended(slot)

    def _ended(self, slot: _Slot) -> None:
        process = slot.process
        assert process is not None, "only a started slot has a pipe"
        code = process.wait()
        self._forget(slot)
        self._exits.append(code)
        if self._signals:
            return
        if code in FINAL:
            self._final = Exit(code)
        elif code == Exit.SLOT_TAKEN:
            slot.start_at = None
        else:
            slot.start_at = monotonic() + self._delay(slot)
        self._tell(
            "worker-ended", {"slot": slot.number, "process": process.pid, "code": _reading(code)}
        )

    def _delay(self, slot: _Slot) -> float:
        """None for a worker that lived a while; doubling for one that dies at once."""
        if monotonic() - slot.started >= QUICK_DEATH_SECONDS:
            slot.quick_deaths = 0
            return 0.0
        slot.quick_deaths += 1
        if slot.quick_deaths <= 2:
            return 0.0
        return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (slot.quick_deaths - 3))

    def _kill_stalled(self) -> None:
        now = monotonic()
        for slot in self._slots:
            if slot.process is not None and now - slot.beaten > self._stall_timeout_seconds:
                self._tell("worker-stalled", {"slot": slot.number, "process": slot.process.pid})
                slot.beaten = now
                slot.process.kill()

    def _drain(self) -> Exit:
        """SIGTERM to all; whoever takes longer than the limit, or a second signal, kills."""
        signals = self._signals
        self._signals = max(1, signals)
        self._exits.clear()
        self._drop_spare()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.terminate()
        deadline = monotonic() + self._drain_timeout_seconds
        while any(slot.process is not None for slot in self._slots):
            if monotonic() > deadline or self._signals > max(1, signals):
                self._tell("drain-cut-short", {})
                for slot in self._slots:
                    self._kill(slot)
                return self._final or Exit.STUCK
            self._listen(POLL_SECONDS)
        return self._final or _worst(self._exits)

    def _kill(self, slot: _Slot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.wait()
            self._forget(slot)

    def _forget(self, slot: _Slot) -> None:
        self._selector.unregister(slot.pipe)
        os.close(slot.pipe)
        if slot.process is not None and slot.process.stdin is not None:
            slot.process.stdin.close()
        slot.process, slot.pipe = None, -1


def _end(process: _Process) -> None:
    process.popen.kill()
    process.popen.wait()
    os.close(process.pipe)
    if process.popen.stdin is not None:
        process.popen.stdin.close()


def _worst(codes: Sequence[int]) -> Exit:
    """0 when all drained; 5 when all were halted; else what went wrong.

    SIGTERM ends only a worker that is not yet at work, or has done with it: in between it is a
    request. Service managers send it to the whole process group, so that a worker has it twice.
    """
    codes = [Exit.OK if code == -signal.SIGTERM else code for code in codes]
    if codes and all(code == Exit.ALL_HALTED for code in codes):
        return Exit.ALL_HALTED
    bad = [code for code in codes if code not in (Exit.OK, Exit.ALL_HALTED)]
    if not bad:
        return Exit.OK
    return Exit(bad[0]) if bad[0] in set(Exit) else Exit.STUCK


def _reading(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit {code}"
