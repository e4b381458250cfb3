"""The rows of one transaction of recovery, locked, and the changes that decisions make to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_hex
from typing import Any

from processor.engine.batch import Committed, OutboxEntry, Partition, Tried
from processor.engine.database import Connection
from processor.engine.outbox import OutboxDamaged, decode_entry
from processor.engine.recovery import Intent, Manifest, Row
from processor.engine.steps import Step, Steps

LOCK_TIMEOUT_MILLISECONDS = 1_000


@dataclass(slots=True)
class Known:
    """What the database holds of one partition, under its row lock."""

    row: Row | None = None
    older: Row | None = None
    superseded: bool = False
    other_cluster: bool = False
    topic_elsewhere: bool = False
    """All rows of its topic are of another cluster."""
    elsewhere: Row | None = None
    """The row under another cluster."""
    outbox: tuple[Manifest, ...] = ()
    entries: list[OutboxEntry] = field(default_factory=list)
    """The outbox from K on, whole."""
    parked: set[bytes] = field(default_factory=set)
    """Keys whose messages wait behind a dead letter."""


class LockedRows:
    """The rows of one transaction of recovery, and the changes that a decision makes to them."""

    def __init__(
        self, connection: Connection, cluster_id: str, group_id: str, steps: Steps
    ) -> None:
        self._connection = connection
        self._steps = steps
        self._cluster_id = cluster_id
        self._group_id = group_id
        self.known: dict[Partition, Known] = {}

    @property
    def connection(self) -> Connection:
        """Inside the transaction, for remedies."""
        return self._connection

    def read(self, committed: Mapping[Partition, Committed], topic_ids: Mapping[str, str]) -> None:
        self._connection.execute(
            f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}", prepare=False
        )
        self.known = {partition: Known() for partition in committed}
        rows = self._connection.execute(
            _LOCK,
            (
                [partition.topic for partition in committed],
                [partition.number for partition in committed],
                self._group_id,
            ),
        ).fetchall()
        for row in rows:
            partition = Partition(row[1], row[2])
            self._place(self.known[partition], row, topic_ids.get(partition.topic))
        self._look_elsewhere()
        self._read_parked_keys()
        with self._steps.step(Step.LOAD):
            self._read_outbox(committed)

    def _read_parked_keys(self) -> None:
        of_row = {known.row.id: known for known in self.known.values() if known.row is not None}
        if not of_row:
            return
        for row_id, key in self._connection.execute(_PARKED_KEYS, (list(of_row),)).fetchall():
            of_row[row_id].parked.add(key)

    def _look_elsewhere(self) -> None:
        """A partition without a row is no start where the topic's others are of another cluster."""
        unknown = {partition.topic for partition, known in self.known.items() if known.row is None}
        if not unknown:
            return
        found = self._connection.execute(
            "SELECT topic, cluster_id FROM processor.progress WHERE group_id = %s"
            " AND superseded_at IS NULL AND topic = ANY (%s)",
            (self._group_id, sorted(unknown)),
        ).fetchall()
        here = {topic for topic, cluster_id in found if cluster_id == self._cluster_id}
        elsewhere = {topic for topic, _ in found} - here
        for partition, known in self.known.items():
            known.topic_elsewhere = partition.topic in elsewhere

    def renew(self, row: Row, token_in_metadata: str | None, published: int | None = None) -> str:
        """Give the row a new token, so that whoever holds the old one commits nothing more.

        The old one is kept with the H that it ends at: no K beyond that is of this history.

        :param token_in_metadata: the token that was read back with K, if it was; when it is the
            current one all earlier tokens are forgotten.
        :param published: the K that becomes P.
        """
        token = token_hex(8)
        kept = (row.token,) if token_in_metadata == row.token else row.tokens_in_k
        ends = {each: row.token_ends[each] for each in kept if each in row.token_ends}
        with self._steps.step(Step.RENEW):
            self._connection.execute(
                "UPDATE processor.progress SET token = %s, tokens_in_k = %s,"
                " token_ends = %s::jsonb || jsonb_build_object(token, next_offset),"
                " published_offset = GREATEST(published_offset, %s), updated_at = now()"
                " WHERE id = %s",
                (token, [*kept, token], json.dumps(ends), published, row.id),
            )
            if published is not None:
                self._connection.execute(
                    "DELETE FROM processor.outbox WHERE progress_id = %s AND next_offset <= %s",
                    (row.id, published),
                )
        return token

    def start(
        self,
        topic: str,
        topic_id: str,
        positions: Mapping[int, int],
        initial_partitions: int,
        why: str,
        replaces: Committed,
    ) -> None:
        """Insert rows at their positions, with the intent to commit them as K."""
        with self._steps.step(Step.START):
            for number, position in sorted(positions.items()):
                token = token_hex(8)
                intent = Intent(position, replaces.offset, replaces.metadata, why)
                self._connection.execute(
                    _INSERT_ROW,
                    (
                        self._cluster_id,
                        self._group_id,
                        topic,
                        topic_id,
                        number,
                        position,
                        position,
                        token_hex(8),
                        token,
                        [token],
                        intent_json(intent),
                        initial_partitions,
                    ),
                )

    def revive(
        self, partition: Partition, topic_id: str, position: int, why: str, replaces: Committed
    ) -> bool:
        """Begin anew with a row that another has superseded; False when there is none."""
        token = token_hex(8)
        intent = intent_json(Intent(position, replaces.offset, replaces.metadata, why))
        place = (self._cluster_id, self._group_id, *partition, topic_id)
        values = (position, position, token_hex(8), token, [token], intent)
        found = self._connection.execute(_REVIVE, (*values, *place)).fetchone()
        if found is None:
            return False
        self._connection.execute("DELETE FROM processor.outbox WHERE progress_id = %s", found)
        return True

    def initial_partitions(self, topic: str) -> int | None:
        """How many partitions the topic had at the group's first start; None before it.

        A topic that was recreated since does not start again: what it has more was added.
        """
        found = self._connection.execute(
            "SELECT max(initial_partitions) FROM processor.progress"
            " WHERE cluster_id = %s AND group_id = %s AND topic = %s",
            (self._cluster_id, self._group_id, topic),
        ).fetchone()
        return found[0] if found else None

    def supersede(
        self, old: Row, partition: Partition, topic_id: str, position: int, replaces: Committed
    ) -> None:
        """The topic was recreated and nothing is open: go on with a new row at its start."""
        self._connection.execute(
            "UPDATE processor.progress SET superseded_at = now() WHERE id = %s", (old.id,)
        )
        self.start(
            partition.topic,
            topic_id,
            {partition.number: position},
            old.initial_partitions,
            "topic recreated",
            replaces,
        )
        self.audit(
            partition,
            "topic-recreated",
            {"old_topic_id": old.topic_id, "topic_id": topic_id, "handled": old.next_offset},
        )

    def move_start(self, row: Row, partition: Partition, to: int, replaces: Committed) -> None:
        """Nothing was handled and the log begins later by now: begin there."""
        intent = Intent(to, replaces.offset, replaces.metadata, "log start moved")
        self._connection.execute(
            "UPDATE processor.progress SET next_offset = %s, published_offset = %s, intent = %s,"
            " leader_epoch = NULL, updated_at = now() WHERE id = %s",
            (to, to, intent_json(intent), row.id),
        )
        self._connection.execute("DELETE FROM processor.outbox WHERE progress_id = %s", (row.id,))
        self.audit(partition, "start-moved", {"from": row.next_offset, "to": to})

    def audit(self, partition: Partition, action: str, detail: Mapping[str, object]) -> None:
        write_audit(
            self._connection,
            self._cluster_id,
            self._group_id,
            partition,
            action,
            detail,
            "engine",
        )

    def _place(self, known: Known, found: tuple[Any, ...], topic_id: str | None) -> None:
        cluster_id, superseded = found[0], found[-1]
        row = _row(found)
        if cluster_id != self._cluster_id:
            known.other_cluster |= not superseded
            known.elsewhere = known.elsewhere if superseded else row
        elif row.topic_id == topic_id:
            if superseded:
                known.superseded = True
            else:
                known.row = row
        elif not superseded:
            known.older = row

    def _read_outbox(self, committed: Mapping[Partition, Committed]) -> None:
        """Manifests of all rows; from K on also their payloads, checked."""
        of_row: dict[int, tuple[Known, int]] = {}
        for partition, known in self.known.items():
            row = known.row or known.older or known.elsewhere
            if row is not None:
                k = committed[partition].offset
                of_row[row.id] = (known, row.published_offset if k is None else k)
        if not of_row:
            return
        starts = [start for _, start in of_row.values()]
        for found in self._connection.execute(_OUTBOX, (list(of_row), starts)).fetchall():
            known, _ = of_row[found[0]]
            manifest, entry = _manifest(*found)
            known.outbox = (*known.outbox, manifest)
            if entry is not None:
                known.entries.append(entry)


def _row(found: tuple[Any, ...]) -> Row:
    (_, _, _, row_id, topic_id, h, p, v, lineage, token, tokens, system, intent, epoch) = found[:14]
    return Row(
        id=row_id,
        topic_id=topic_id,
        next_offset=h,
        published_offset=p,
        verified_offset=v,
        lineage=lineage,
        token=token,
        tokens_in_k=tuple(tokens),
        system_identifier=system,
        intent=None if intent is None else Intent(**intent),
        leader_epoch=epoch,
        initial_partitions=found[14],
        untouched=found[15],
        token_ends=found[16],
        tried=_tried(*found[17:20]),
        retry_seconds=_seconds(found[20]),
    )


def _tried(offset: int | None, attempts: int, failing: timedelta | None) -> Tried | None:
    return None if offset is None else Tried(offset, attempts, _seconds(failing))


def _seconds(span: timedelta | None) -> float:
    return 0.0 if span is None else max(0.0, span.total_seconds())


def _manifest(
    progress_id: int, first: int, end: int, count: int, checksum: int, payload: bytes | None
) -> tuple[Manifest, OutboxEntry | None]:
    if payload is None:
        return Manifest(first, end, count), None
    try:
        entry = decode_entry(progress_id, first, end, count, checksum, payload)
    except OutboxDamaged as error:
        return Manifest(first, end, count, str(error)), None
    return Manifest(first, end, count), entry


def intent_json(intent: Intent) -> str:
    return json.dumps(
        {
            "offset": intent.offset,
            "replaces_offset": intent.replaces_offset,
            "replaces_metadata": intent.replaces_metadata,
            "why": intent.why,
        }
    )


def write_audit(
    connection: Connection,
    cluster_id: str,
    group_id: str,
    partition: Partition,
    action: str,
    detail: Mapping[str, object],
    actor: str,
) -> None:
    connection.execute(
        "INSERT INTO processor.audit"
        " (cluster_id, group_id, topic, partition, action, actor, detail)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (cluster_id, group_id, *partition, action, actor, json.dumps(detail)),
    )


_LOCK = """
SELECT p.cluster_id, p.topic, p.partition, p.id, p.topic_id,
    p.next_offset, p.published_offset, p.verified_offset, p.lineage, p.token, p.tokens_in_k,
    p.system_identifier, p.intent, p.leader_epoch, p.initial_partitions,
    p.handled + p.dead_lettered + p.skipped = 0, p.token_ends,
    p.tried_offset, p.attempts, now() - p.first_failed_at, p.retry_at - now(),
    p.superseded_at IS NOT NULL
FROM processor.progress p
JOIN unnest(%s::text[], %s::int[]) AS wanted (topic, partition)
    ON p.topic = wanted.topic AND p.partition = wanted.partition
WHERE p.group_id = %s
ORDER BY p.id
FOR UPDATE OF p
"""

_PARKED_KEYS = """
SELECT k.progress_id, l.key
FROM processor.parked_keys k
JOIN unnest(%s::bigint[]) AS wanted (id) ON k.progress_id = wanted.id
JOIN processor.dead_letters l ON l.id = k.letter_id
"""

_REVIVE = """
UPDATE processor.progress SET
    superseded_at = NULL, next_offset = %s, published_offset = %s, verified_offset = NULL,
    lineage = %s, token = %s, tokens_in_k = %s, token_ends = '{}', intent = %s,
    leader_epoch = NULL, updated_at = now(),
    system_identifier = (SELECT system_identifier FROM pg_control_system())
WHERE cluster_id = %s AND group_id = %s AND topic = %s AND partition = %s AND topic_id = %s
    AND superseded_at IS NOT NULL
RETURNING id
"""

_OUTBOX = """
SELECT o.progress_id, o.first_offset, o.next_offset, o.output_count, o.checksum,
    CASE WHEN o.next_offset > wanted.start THEN o.payload END
FROM processor.outbox o
JOIN unnest(%s::bigint[], %s::bigint[]) AS wanted (id, start) ON o.progress_id = wanted.id
ORDER BY o.progress_id, o.first_offset
"""

_INSERT_ROW = """
INSERT INTO processor.progress
    (cluster_id, group_id, topic, topic_id, partition, next_offset, published_offset, lineage,
     token, tokens_in_k, intent, initial_partitions, system_identifier)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    (SELECT system_identifier FROM pg_control_system()))
ON CONFLICT DO NOTHING
"""
