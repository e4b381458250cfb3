"""The worker processes, as the processor's own log tells of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Worker:
    """One process in one of the supervisor's slots; `since` is of the monotonic clock."""

    slot: int
    pid: int
    since: float


class Workers:
    """Who runs in which slot, and how many outputs recovery has sent so far.

    The log is JSON, one event in a line; it is followed as it grows.
    """

    def __init__(self, log: Path) -> None:
        self.republished: Counter[int] = Counter()
        """Outputs by slot."""
        self._log = log
        self._position = 0
        self._by_slot: dict[int, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(sorted(self._by_slot.values(), key=lambda worker: worker.slot))

    def slot(self, pid: int) -> int | None:
        """None when the log has not told of it yet."""
        return next((each.slot for each in self._by_slot.values() if each.pid == pid), None)

    def name(self, pid: int) -> str:
        """What a person calls the process."""
        slot = self.slot(pid)
        return f"a worker (pid {pid})" if slot is None else f"worker {slot} (pid {pid})"

    def clear(self) -> None:
        """All have left."""
        self._by_slot.clear()

    def look(self) -> None:
        """Read what has been logged since the last look."""
        for line in self._new_lines():
            # Warnings of Python's, tracebacks, half a line of a process that was killed.
            with suppress(msgspec.DecodeError):
                self._take(msgspec.json.decode(line))

    def _new_lines(self) -> list[bytes]:
        with self._log.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.splitlines()

    def _take(self, entry: Any) -> None:
        match entry:
            case {"event": "worker-started", "slot": slot, "process": pid}:
                self._by_slot[slot] = Worker(slot, pid, time.monotonic())
            case {"event": "worker-ended", "slot": slot}:
                self._by_slot.pop(slot, None)
            case {"event": "republished", "slot": slot, "outputs": outputs}:
                self.republished[slot] += outputs
