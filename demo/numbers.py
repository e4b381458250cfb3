"""What Postgres says of the job's progress, in one cheap query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg

from pipelines.user_events import pipeline


@dataclass(frozen=True, slots=True)
class Partition:
    """One input partition: its H (all below has taken effect), who works on it, and how that one
    says it goes."""

    next_offset: int
    slot: int | None = None
    state: str | None = None
    since: datetime | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """One reading.

    The counters were written in the same transactions as the rows that they count, which is why
    nobody has to count the rows while the job runs.
    """

    in_postgres: int = 0
    outputs: int = 0
    dead_letters: int = 0
    partitions: Mapping[int, Partition] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Events that need no more work."""
        return self.in_postgres + self.dead_letters

    @property
    def running(self) -> int:
        """How many partitions are said to run."""
        return sum(each.state == "running" for each in self.partitions.values())

    def of_slot(self, slot: int) -> dict[int, Partition]:
        """The partitions that the worker in this slot has, or had last."""
        return {number: each for number, each in self.partitions.items() if each.slot == slot}

    @property
    def troubles(self) -> list[str]:
        """A line for each partition that somebody has to look after."""
        return [
            f"partition {number} {each.state}: {each.trouble}"
            for number, each in self.partitions.items()
            if each.trouble
        ]


class Reader:
    """Reads the numbers, over one connection of its own."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True)

    def read(self) -> Numbers:
        rows = self._connection.execute(_PROGRESS, (pipeline.name,)).fetchall()
        handled, outputs, dead = (sum(row[index] for row in rows) for index in (1, 2, 3))
        return Numbers(int(handled), int(outputs), int(dead), dict(map(_partition, rows)))

    def close(self) -> None:
        self._connection.close()


def _partition(row: tuple[Any, ...]) -> tuple[int, Partition]:
    number, _, _, _, next_offset, slot, state, since, reason, detail = row
    # A slot is named group:instance:number.
    worker = int(slot.rpartition(":")[2]) if slot and state != "unowned" else None
    trouble = f"{reason}: {detail}" if state in ("halted", "waiting") else None
    return number, Partition(next_offset, worker, state, since, trouble)


_PROGRESS = """
SELECT partition, handled, outputs, dead_lettered, next_offset, slot, state, since, reason,
    detail
FROM processor.progress
LEFT JOIN processor.partition_states USING (cluster_id, group_id, topic, partition)
WHERE group_id = %s AND superseded_at IS NULL
ORDER BY partition
"""
