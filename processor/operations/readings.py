"""What Postgres and Kafka say of a group's partitions at one time.

P, K and H only ever rise, and P ≤ K ≤ H. They are read in this order, so that a running processor
cannot make a sound group look broken: a later reading is never below an earlier truth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from processor.errors import Unreachable
from processor.operations.broker import Broker, Offset, Place
from processor.operations.database import Connection, Notify, session, silent
from processor.settings import Settings

PENDING_SECONDS = 3.0
"""How long to wait for transactions that are about to change K."""

PENDING_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """A partition's row; the latest one where a topic was recreated."""

    id: int
    cluster_id: str
    topic: str
    partition: int
    topic_id: str
    next_offset: int
    published_offset: int
    verified_offset: int | None
    lineage: str
    token: str
    tokens_in_k: list[str]
    intent: dict[str, Any] | None
    leader_epoch: int | None
    handled: int
    outputs: int
    dead_lettered: int
    skipped: int
    duplicates: int
    updated_at: datetime
    token_ends: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What the partition's last owner said of it."""

    cluster_id: str
    topic: str
    partition: int
    slot: str
    state: str
    reason: str | None
    detail: str | None
    remedy: str | None
    since: datetime
    slot_seen_seconds: float | None
    """How long ago the slot's worker was last known to be alive."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """A partition's rows in the outbox, those that await pruning included."""

    progress_id: int
    rows: int
    bytes: int


@dataclass
class Readings:
    """All of it, by topic and partition number."""

    group: str
    floors: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """The row's id and P, read first."""
    committed: dict[Place, Offset] = field(default_factory=dict)
    """K, read second; empty without Kafka."""
    progress: dict[Place, Progress] = field(default_factory=dict)
    """The rows, read third, with H."""
    reports: dict[Place, Report] = field(default_factory=dict)
    outbox: dict[int, Outbox] = field(default_factory=dict)
    """By the row's id."""
    log_ends: dict[Place, int] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)
    """How many dead letters are in each state."""
    trouble: str | None = None
    """Why Kafka could not be asked."""

    @property
    def places(self) -> list[Place]:
        """Every partition that anybody knows of."""
        return sorted({*self.progress, *self.reports, *self.committed, *self.log_ends})


def read(
    settings: Settings, group: str, topics: Sequence[str] = (), notify: Notify = silent
) -> Readings:
    """Read both sides; without Kafka what Postgres knows, and why.

    :param topics: the pipeline's input topics, for partitions that nobody has touched yet.
    :raises Unreachable: when Postgres is away.
    """
    readings = Readings(group)
    with session(settings, notify=notify) as connection:
        try:
            broker: Broker | None = Broker(settings)
            assert broker is not None
            broker.wait(notify=notify)
            cluster_id: str | None = broker.cluster().cluster_id
        except Unreachable as error:
            readings.trouble, broker, cluster_id = str(error), None, None
        readings.floors = floors(connection, group, cluster_id)
        if broker is not None:
            _read_kafka(broker, readings, topics)
        _read_postgres(connection, readings, cluster_id)
        if broker is not None:
            readings.log_ends = broker.log_ends(list(readings.committed))
    return readings


def _read_kafka(broker: Broker, readings: Readings, topics: Sequence[str]) -> None:
    known = {*readings.floors, *broker.committed_places(readings.group)}
    described = broker.topics({*topics, *(topic for topic, _ in known)})
    places = sorted(
        (name, number)
        for name, topic in described.items()
        if topic is not None
        for number in range(topic.partitions)
    )
    readings.committed = stable(broker, readings.group, places)


def stable(broker: Broker, group: str, places: Sequence[Place]) -> dict[Place, Offset]:
    """K of each partition; those with a transaction under way are asked again for a while."""
    deadline = time.monotonic() + PENDING_SECONDS
    found = broker.committed(group, places)
    while pending := [place for place, offset in found.items() if offset.pending]:
        if time.monotonic() > deadline:
            break
        time.sleep(PENDING_POLL_SECONDS)
        found |= broker.committed(group, pending)
    return found


def floors(
    connection: Connection, group: str, cluster_id: str | None
) -> dict[Place, tuple[int, int]]:
    rows = connection.execute(
        "SELECT topic, partition, id, published_offset FROM processor.progress"
        " WHERE group_id = %s AND superseded_at IS NULL AND cluster_id = coalesce(%s, cluster_id)",
        (group, cluster_id),
    ).fetchall()
    return {(topic, number): (row, floor) for topic, number, row, floor in rows}


def _read_postgres(connection: Connection, readings: Readings, cluster_id: str | None) -> None:
    """One snapshot of all tables."""
    parameters = {"group": readings.group, "cluster": cluster_id}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        readings.progress = {
            (row.topic, row.partition): row
            for row in _all(connection, Progress, _PROGRESS, parameters)
        }
        readings.reports = {
            (row.topic, row.partition): row
            for row in _all(connection, Report, _REPORTS, parameters)
        }
        ids = {"ids": [row.id for row in readings.progress.values()]}
        readings.outbox = {row.progress_id: row for row in _all(connection, Outbox, _OUTBOX, ids)}
    readings.letters = dict(connection.execute(_LETTERS, [readings.group]).fetchall())


def _all(
    connection: Connection, kind: type[Any], statement: Any, parameters: dict[str, Any]
) -> list[Any]:
    with psycopg.Cursor(connection, row_factory=class_row(kind)) as cursor:
        return cursor.execute(statement, parameters).fetchall()


# Where Kafka is away the cluster is not known; of several the one used last counts.
_PROGRESS = """
SELECT id, cluster_id, topic, partition, topic_id, next_offset, published_offset, verified_offset,
    lineage, token, tokens_in_k, intent, leader_epoch,
    handled, outputs, dead_lettered, skipped, duplicates, updated_at, token_ends
FROM processor.progress
WHERE group_id = %(group)s AND superseded_at IS NULL
    AND cluster_id = coalesce(%(cluster)s, cluster_id)
ORDER BY updated_at
"""

_REPORTS = """
SELECT cluster_id, topic, partition, s.slot, state, reason, detail, remedy, since,
    extract(epoch FROM now() - seen_at)::float8 AS slot_seen_seconds
FROM processor.partition_states s LEFT JOIN processor.slots USING (slot)
WHERE s.group_id = %(group)s AND cluster_id = coalesce(%(cluster)s, cluster_id)
ORDER BY since
"""

_OUTBOX = """
SELECT progress_id, count(*) AS rows, sum(length(payload))::bigint AS bytes
FROM processor.outbox WHERE progress_id = ANY(%(ids)s) GROUP BY progress_id
"""

_LETTERS = """
SELECT state, count(*) FROM processor.dead_letters
WHERE group_id = %s AND state IN ('failed', 'parked', 'pending') GROUP BY state
"""
