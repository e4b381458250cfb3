"""How long partitions stand still while they have work, and how soon they move after a fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg

from tests.faults.chaos.pipeline import GROUP

POLL_SECONDS = 0.05
LIMIT_SECONDS = 120.0
"""A partition that has not moved for so long after a fault is not waited for any longer."""

_HEADS = """
SELECT partition, next_offset, handled + dead_lettered FROM processor.progress
WHERE group_id = %s AND superseded_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Stall:
    """A partition that had work and did not move."""

    seconds: float = 0.0
    partition: int = -1


@dataclass(slots=True)
class Recovery:
    """One fault's end, and how long it took until every partition had moved since."""

    kind: str
    since: float
    left: dict[int, int]
    """Partitions that have not, with their H at that time."""
    seconds: float | None = None


@dataclass(slots=True)
class Stalls:
    """Follows H. No I/O: it is told what was read.

    >>> stalls = Stalls()
    >>> for second, h in enumerate([5, 5, 5, 9]):
    ...     stalls.see(float(second), {0: h}, {0: 9})
    >>> stalls.longest
    Stall(seconds=3.0, partition=0)
    """

    longest: Stall = Stall()
    recoveries: list[Recovery] = field(default_factory=list)
    heads: dict[int, int] = field(default_factory=dict)
    _since: dict[int, float] = field(default_factory=dict)

    def see(self, now: float, heads: Mapping[int, int], ends: Mapping[int, int]) -> None:
        for partition, head in heads.items():
            waits = self._since.get(partition)
            if waits is not None and now - waits > self.longest.seconds:
                self.longest = Stall(now - waits, partition)
            has_work = ends.get(partition, 0) > head
            if not has_work:
                self._since.pop(partition, None)
            elif waits is None or head > self.heads.get(partition, 0):
                self._since[partition] = now
        self.heads.update(heads)
        for each in self.recoveries:
            if each.seconds is None:
                self._follow(each, now, ends)

    def mended(self, kind: str, now: float) -> None:
        """A fault is over: from now on partitions should move."""
        self.recoveries.append(Recovery(kind, now, dict(self.heads)))

    def forget(self) -> None:
        """What stood still until now did so on purpose."""
        self._since.clear()

    def _follow(self, recovery: Recovery, now: float, ends: Mapping[int, int]) -> None:
        heads = self.heads
        recovery.left = {
            partition: head
            for partition, head in recovery.left.items()
            if heads[partition] <= head and heads[partition] < ends.get(partition, 0)
        }
        if not recovery.left or now - recovery.since > LIMIT_SECONDS:
            recovery.seconds = now - recovery.since


class Pulse:
    """Reads H of all partitions, many times a second, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self.handled = 0
        self.ends: Mapping[int, int] = {}
        """To be set to where the logs end."""
        self._url = url
        self._stalls = Stalls()
        self._lock = threading.Lock()
        self._paused = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    @property
    def longest(self) -> Stall:
        return self._stalls.longest

    @property
    def recoveries(self) -> list[Recovery]:
        with self._lock:
            return list(self._stalls.recoveries)

    def all_recovered(self) -> bool:
        """Everything has moved since the last fault."""
        return all(each.seconds is not None for each in self.recoveries)

    def mended(self, kind: str) -> None:
        with self._lock:
            self._stalls.mended(kind, time.monotonic())

    def pause(self) -> None:
        """What stands still from here on does so on purpose; what is handled still counts."""
        self._paused = True

    def resume(self) -> None:
        with self._lock:
            self._stalls.forget()
        self._paused = False

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        while not self._stop.wait(POLL_SECONDS):
            try:
                connection = connection or self._connect()
                rows = connection.execute(_HEADS, (GROUP,)).fetchall()
            except psycopg.Error:
                connection = None
                continue
            self._see(rows)
        if connection is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._url, autocommit=True, connect_timeout=2)

    def _see(self, rows: list[tuple[int, int, int]]) -> None:
        self.handled = sum(row[2] for row in rows)
        with self._lock:
            if not self._paused:
                self._stalls.see(time.monotonic(), {row[0]: row[1] for row in rows}, self.ends)
