"""What a worker tells Postgres about itself: its slot, and its partitions' states."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from processor.engine.batch import Partition
from processor.engine.database import Database
from processor.engine.steps import Step, Steps


@dataclass(frozen=True, slots=True)
class Report:
    """A partition's state, for status, metrics and health; it decides nothing."""

    partition: Partition
    state: str
    reason: str | None
    detail: str | None
    remedy: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of a partition's owner: ``halt`` or ``resume``."""

    command: str
    requested_by: str


class Register:
    """Slots and partition states."""

    def __init__(
        self, database: Database, cluster_id: str, group_id: str, slot: str, steps: Steps
    ) -> None:
        self._database = database
        self._cluster_id = cluster_id
        self._group_id = group_id
        self._slot = slot
        self._steps = steps

    def claim(self, incarnation: str) -> None:
        """Write this process down as the one that runs in the slot."""
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO processor.slots (slot, group_id, incarnation, process_id, host)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (slot) DO UPDATE SET"
                " incarnation = EXCLUDED.incarnation, process_id = EXCLUDED.process_id,"
                " host = EXCLUDED.host, started_at = now(), seen_at = now()",
                (self._slot, self._group_id, incarnation, os.getpid(), socket.gethostname()),
            )

    def holder(self) -> str | None:
        """The incarnation that claimed the slot last."""
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            found = connection.execute(
                "SELECT incarnation FROM processor.slots WHERE slot = %s", (self._slot,)
            ).fetchone()
        return found[0] if found else None

    def seen(self, incarnation: str) -> None:
        """Still alive."""
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            connection.execute(
                "UPDATE processor.slots SET seen_at = now() WHERE slot = %s AND incarnation = %s",
                (self._slot, incarnation),
            )

    def report(self, reports: Sequence[Report]) -> None:
        owner = (self._cluster_id, self._group_id, self._slot)
        rows = [
            (*owner, r.state, r.reason, r.detail, r.remedy, *r.partition)
            for r in sorted(reports, key=lambda report: report.partition)
        ]
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            connection.cursor().executemany(_REPORT, rows)

    def leave(self) -> None:
        """No partition is ours any more."""
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            connection.execute(
                "UPDATE processor.partition_states SET state = 'unowned', reason = NULL,"
                " detail = NULL, remedy = NULL, since = now()"
                " WHERE cluster_id = %s AND group_id = %s AND slot = %s",
                (self._cluster_id, self._group_id, self._slot),
            )

    def take_requests(self, partitions: Sequence[Partition]) -> dict[Partition, Request]:
        """What somebody asks of these partitions, the latest of each; each is taken once."""
        with self._steps.step(Step.REPORT), self._database.transaction() as connection:
            found = connection.execute(
                _TAKE,
                (self._group_id, [p.topic for p in partitions], [p.number for p in partitions]),
            ).fetchall()
        return {
            Partition(topic, number): Request(command, requested_by)
            for _, topic, number, command, requested_by in sorted(found)
        }


_TAKE = """
UPDATE processor.control SET acknowledged = true, acknowledged_at = now()
WHERE group_id = %s AND NOT acknowledged
    AND (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
RETURNING id, topic, partition, command, requested_by
"""

_REPORT = """
INSERT INTO processor.partition_states
    (cluster_id, group_id, slot, state, reason, detail, remedy, topic, partition)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (cluster_id, group_id, topic, partition) DO UPDATE SET
    slot = EXCLUDED.slot, state = EXCLUDED.state, reason = EXCLUDED.reason,
    detail = EXCLUDED.detail, remedy = EXCLUDED.remedy, since = now()
"""
