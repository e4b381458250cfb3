"""Reads P, then K, then H with the outbox, again and again, and holds them against each other."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import psycopg

from tests.faults.chaos.offsets import Offsets
from tests.faults.chaos.pipeline import GROUP
from tests.support.checker import Violation, Watch
from tests.support.history import Manifest, Sample

PAUSE_SECONDS = 0.1

_ROWS = """
SELECT partition, id, published_offset, next_offset, lineage, intent IS NOT NULL
FROM processor.progress WHERE group_id = %s AND superseded_at IS NULL
"""
_OUTBOX = """
SELECT progress_id, first_offset, next_offset FROM processor.outbox
WHERE progress_id = ANY(%s) ORDER BY progress_id, first_offset
"""


class Row(NamedTuple):
    partition: int
    id: int
    published: int
    next_offset: int
    lineage: str
    intent: bool


class Sampler:
    """Samples all partitions on a thread of its own, over connections that no fault touches."""

    def __init__(self, url: str, servers: str) -> None:
        self.watch = Watch()
        self.violations: list[Violation] = []
        self.latest: dict[int, Sample] = {}
        self._url = url
        self._connection: psycopg.Connection | None = None
        self._offsets = Offsets(servers)
        self._began = time.monotonic()
        self._paused = False
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """On return nothing is being read."""
        self._paused = True
        with self._turn:
            return

    def resume(self) -> None:
        self._paused = False

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def final(self) -> list[Sample]:
        """Everybody's last sample, once all is done."""
        return self._samples()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            with self._turn:
                if self._paused:
                    continue
                try:
                    samples = self._samples()
                except psycopg.Error:
                    self._connection = None
                    continue
            for sample in samples:
                self.latest[sample.partition] = sample
                self.violations += self.watch.see(sample)

    def _samples(self) -> list[Sample]:
        connection = self._connected()
        floors = {row.partition: row for row in _rows(connection)}
        committed = self._offsets.committed(floors)
        at = time.monotonic() - self._began
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = _rows(connection)
            outbox = _outbox(connection, [row.id for row in rows])
        return [
            Sample(
                partition=row.partition,
                published=floors[row.partition].published,
                committed=committed[row.partition].offset,
                next_offset=row.next_offset,
                floor=row.published,
                intent=row.intent or floors[row.partition].intent,
                outbox=tuple(outbox.get(row.id, ())),
                lineage=row.lineage,
                at=at,
            )
            for row in rows
            if row.partition in committed and floors[row.partition].id == row.id
        ]

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
        return self._connection


def _rows(connection: psycopg.Connection[Any]) -> list[Row]:
    return [Row(*row) for row in connection.execute(_ROWS, (GROUP,)).fetchall()]


def _outbox(connection: psycopg.Connection[Any], ids: list[int]) -> dict[int, list[Manifest]]:
    found: dict[int, list[Manifest]] = {}
    for progress_id, first, end in connection.execute(_OUTBOX, (ids,)).fetchall():
        found.setdefault(progress_id, []).append(Manifest(first, end))
    return found
