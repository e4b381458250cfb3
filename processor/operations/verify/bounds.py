"""What both stores say of a group at one time: the bounds within which they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from processor.engine.outbox import OutboxDamaged, decode_entry
from processor.engine.recovery import Manifest, read_metadata, tiles
from processor.operations.broker import Broker, Offset, Place, Topic
from processor.operations.database import Connection
from processor.operations.readings import floors, stable
from processor.operations.verify.report import Recorded

REQUESTS = ("resume", "halt")
"""Audited, but nothing of the history is changed by them."""
EXPLAINED = (*REQUESTS, "start-moved", "topic-recreated")
"""Audited by the engine itself; what they change is taken into account by number."""


@dataclass(frozen=True, slots=True)
class Row:
    """A partition's row of ``progress``, in one snapshot with its outbox."""

    id: int
    topic: str
    partition: int
    topic_id: str
    next_offset: int
    published_offset: int
    lineage: str
    intent: dict[str, Any] | None
    initial_partitions: int
    handled: int
    outputs: int
    dead_lettered: int
    skipped: int
    duplicates: int
    created_at: datetime


@dataclass(slots=True)
class Bound:
    """One input partition, bounded.

    Everything below ``published`` was in Kafka before any end offset of an output topic was read.
    """

    row: Row
    committed: Offset
    floor: int | None
    """P, read before K."""
    published: int
    recorded: list[Recorded] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def broken(self) -> str | None:
        """How P ≤ K ≤ H is violated; it holds while K exists and no intent is set."""
        k = self.committed.offset
        if k is None or self.row.intent is not None:
            return None
        if k > self.row.next_offset:
            return f"K {k} is beyond H {self.row.next_offset}"
        if self.floor is not None and k < self.floor:
            return f"K {k} is below P {self.floor}"
        return None

    @property
    def hole(self) -> str | None:
        """Why the outbox does not tile [K, H)."""
        if self.published >= self.row.next_offset:
            return None
        return tiles(self.manifests, self.published, self.row.next_offset)

    @property
    def waiting(self) -> int:
        """Outputs in the outbox from K on."""
        return sum(each.output_count for each in self.manifests if each.first >= self.published)

    @property
    def moved_start(self) -> int | None:
        """Where the group was made to begin, by the engine or by a remedy."""
        moves = [
            each.detail.get("to" if each.action == "start-moved" else "begins")
            for each in self.recorded
        ]
        numbers = [move for move in moves if isinstance(move, int)]
        return numbers[-1] if numbers else None

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Ranges of the input that a remedy has left out, as its audit row says."""
        pairs = [
            (each.detail.get("from"), each.detail.get("to"))
            for each in self.recorded
            if each.action not in EXPLAINED
        ]
        return [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int) and a < b]

    @property
    def remedied(self) -> list[str]:
        """Recorded actions that may have changed counts in ways that no number tells."""
        return sorted({each.action for each in self.recorded if each.action not in EXPLAINED})


@dataclass(slots=True)
class Bounds:
    """All of a group's partitions, and what names its outputs may carry."""

    partitions: dict[Place, Bound]
    topics: dict[str, Topic]
    """Inputs and outputs as the broker describes them."""
    other_lineages: frozenset[str] = frozenset()
    earlier_lineages: frozenset[str] = frozenset()
    earlier_topics: frozenset[str] = frozenset()


def read_bounds(
    broker: Broker,
    connection: Connection,
    group: str,
    topics: dict[str, Topic],
    inputs: Sequence[str],
) -> Bounds:
    """P, then K, then one snapshot of Postgres with H; see the package's text for why."""
    cluster = broker.cluster().cluster_id
    lows = floors(connection, group, cluster)
    places = [(name, n) for name in inputs for n in range(topics[name].partitions)]
    committed = stable(broker, group, places)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        bounds = Bounds({}, topics)
        for row in _rows(connection, group, cluster, inputs):
            place = (row.topic, row.partition)
            floor = lows.get(place)
            bounds.partitions[place] = _bound(
                row,
                committed.get(place, Offset(None)),
                floor[1] if floor and floor[0] == row.id else None,
            )
        _read_audit(connection, group, bounds)
        _read_outbox(connection, bounds)
        _read_names(connection, group, bounds)
    return bounds


def _bound(row: Row, committed: Offset, floor: int | None) -> Bound:
    """K counts where it is ours; P of the snapshot may have passed it since, and is as good."""
    ours = read_metadata(committed.metadata)
    trusted = ours is not None and ours[0] == row.lineage
    published = row.published_offset
    if trusted and committed.offset is not None:
        published = max(published, min(committed.offset, row.next_offset))
    return Bound(row, committed, floor, published)


def _rows(connection: Connection, group: str, cluster: str, inputs: Sequence[str]) -> list[Row]:
    with psycopg.Cursor(connection, row_factory=class_row(Row)) as cursor:
        return cursor.execute(_ROWS, (group, cluster, list(inputs))).fetchall()


def _read_audit(connection: Connection, group: str, bounds: Bounds) -> None:
    for topic, number, action, actor, at, detail in connection.execute(_AUDIT, (group,)):
        bound = bounds.partitions.get((topic, number))
        if bound is not None and action not in REQUESTS:
            bound.recorded.append(Recorded(action, actor, at, detail or {}))


def _read_outbox(connection: Connection, bounds: Bounds) -> None:
    """Row by row; a payload is looked at and let go."""
    by_id = {bound.row.id: bound for bound in bounds.partitions.values()}
    with connection.cursor("verify_outbox") as cursor:
        cursor.itersize = 100
        cursor.execute(_OUTBOX, (list(by_id),))
        for progress_id, first, end, count, checksum, payload in cursor:
            damage = None
            try:
                decode_entry(progress_id, first, end, count, checksum, payload)
            except OutboxDamaged as error:
                damage = str(error)
            by_id[progress_id].manifests.append(Manifest(first, end, count, damage))


def _read_names(connection: Connection, group: str, bounds: Bounds) -> None:
    own = {bound.row.id for bound in bounds.partitions.values()}
    found = connection.execute(_NAMES).fetchall()
    bounds.other_lineages = frozenset(line for _, line, _, name in found if name != group)
    earlier = [each for each in found if each[3] == group and each[0] not in own]
    told = {
        value
        for bound in bounds.partitions.values()
        for each in bound.recorded
        for key, value in each.detail.items()
        if "lineage" in key and isinstance(value, str)
    }
    current = {bound.row.lineage for bound in bounds.partitions.values()}
    bounds.earlier_lineages = frozenset({each[1] for each in earlier} | told) - current
    current_topics = {bound.row.topic_id for bound in bounds.partitions.values()}
    bounds.earlier_topics = frozenset(each[2] for each in earlier) - current_topics


class Live:
    """Asks Postgres again, for what was committed after the bounds were read."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection = connection
        self._group = group

    def next_offset(self, topic_id: str, partition: int, lineage: str) -> int | None:
        """H at this moment; None where the database has no such row, in any group."""
        found = self._connection.execute(
            "SELECT max(next_offset) FROM processor.progress"
            " WHERE topic_id = %s AND partition = %s AND lineage = %s",
            (topic_id, partition, lineage),
        ).fetchone()
        return found[0] if found else None

    def dead_letters(self, row: Row, start: int, end: int) -> Iterable[int]:
        """The offsets of dead letters in [start, end), in order; page by page."""
        after = (start - 1, 0)
        while True:
            page = self._connection.execute(
                _LETTERS,
                (self._group, row.topic, row.partition, row.topic_id, end, *after),
            ).fetchall()
            yield from (offset for offset, _ in page)
            if not page:
                return
            after = page[-1]


_LETTERS = """
SELECT "offset", id FROM processor.dead_letters
WHERE group_id = %s AND topic = %s AND partition = %s AND topic_id = %s AND "offset" < %s
    AND ("offset", id) > (%s, %s)
ORDER BY "offset", id LIMIT 5000
"""

_ROWS = """
SELECT id, topic, partition, topic_id, next_offset, published_offset, lineage, intent,
    initial_partitions, handled, outputs, dead_lettered, skipped, duplicates, created_at
FROM processor.progress
WHERE group_id = %s AND superseded_at IS NULL AND cluster_id = %s AND topic = ANY(%s)
ORDER BY topic, partition, id
"""

_AUDIT = """
SELECT topic, partition, action, actor, at, detail FROM processor.audit
WHERE group_id = %s AND topic IS NOT NULL AND partition IS NOT NULL ORDER BY id
"""

_OUTBOX = """
SELECT progress_id, first_offset, next_offset, output_count, checksum, payload
FROM processor.outbox WHERE progress_id = ANY(%s) ORDER BY progress_id, first_offset
"""

_NAMES = "SELECT id, lineage, topic_id, group_id FROM processor.progress"
