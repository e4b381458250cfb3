"""What Postgres knows of partitions between batches: rows, tokens, intents, P, pruning.

Every statement that changes a row runs under its row lock and compares lineage and token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from processor.engine.batch import Committed, Partition
from processor.engine.database import Connection, Database, application_prefix
from processor.engine.failures import ReadFailed
from processor.engine.locked_rows import LockedRows, intent_json, write_audit
from processor.engine.recovery import Intent, Row
from processor.engine.steps import Step, Steps


@dataclass(frozen=True, slots=True)
class Claim:
    """A K that was read back, to become P; ``verified`` is the H that becomes V."""

    progress_id: int
    lineage: str
    token: str
    offset: int
    token_in_metadata: str
    verified: int | None = None


@dataclass(frozen=True, slots=True)
class Belief:
    """A row as its owner left it."""

    progress_id: int
    lineage: str
    token: str
    next_offset: int
    published_offset: int


class Ledger:
    """The progress table and the outbox, outside batches."""

    def __init__(self, database: Database, cluster_id: str, group_id: str, steps: Steps) -> None:
        self._database = database
        self._cluster_id = cluster_id
        self._group_id = group_id
        self._steps = steps

    @contextmanager
    def locked(
        self,
        committed: Mapping[Partition, Committed],
        topic_ids: Mapping[str, str],
    ) -> Iterator[LockedRows]:
        """Lock the partitions' rows, then read them and their outbox; commits at the end.

        :param committed: K of each partition to lock, read before.
        :raises ReadFailed: when a row stayed locked; whoever held it was sent away if it was one
            of us.
        :raises DatabaseDoubt: for any other error; nothing is known of the outcome then.
        """
        blocked: psycopg.errors.LockNotAvailable | None = None
        with self._steps.step(Step.LOCK), self._database.transaction() as connection:
            try:
                rows = LockedRows(connection, self._cluster_id, self._group_id, self._steps)
                rows.read(committed, topic_ids)
            except psycopg.errors.LockNotAvailable as error:
                blocked = error
            else:
                yield rows
            if blocked is not None:
                connection.execute("ROLLBACK", prepare=False)
                evicted = _evict(connection, self._group_id, committed)
                connection.execute("BEGIN", prepare=False)
        if blocked is not None:
            raise ReadFailed(f"a row is locked; {evicted} stopped processes were sent away")

    @property
    def system_identifier(self) -> int:
        return self._database.system_identifier

    def clear_intent(self, row: Row, intent: Intent, offset: int, token: str) -> None:
        """Forget that same intent: its K was read back and is what it asked for."""
        with self._steps.step(Step.CLEAR_INTENT), self._database.transaction() as connection:
            connection.execute(
                "UPDATE processor.progress SET intent = NULL,"
                " published_offset = GREATEST(published_offset, %s),"
                " tokens_in_k = %s, token_ends = '{}', updated_at = now()"
                " WHERE id = %s AND lineage = %s AND token = %s AND intent = %s::jsonb"
                " AND next_offset >= %s",
                (offset, [token], row.id, row.lineage, token, intent_json(intent), offset),
            )

    def raise_published(self, claims: Sequence[Claim]) -> dict[int, int]:
        """Raise each P to the K that was read back, and prune below it; the P of each id."""
        columns = [
            list(column)
            for column in zip(
                *(
                    (c.progress_id, c.lineage, c.token, c.offset, c.token_in_metadata, c.verified)
                    for c in sorted(claims, key=lambda claim: claim.progress_id)
                ),
                strict=True,
            )
        ]
        with self._steps.step(Step.RAISE), self._database.transaction() as connection:
            raised = dict(connection.execute(_RAISE, columns).fetchall())
            if raised:
                connection.execute(_PRUNE, (list(raised), list(raised.values())))
        return raised

    def as_left(self, beliefs: Sequence[Belief]) -> set[int]:
        """The ids of the rows that still are what their owner believes; nothing is locked."""
        columns = [
            list(column)
            for column in zip(
                *(
                    (b.progress_id, b.lineage, b.token, b.next_offset, b.published_offset)
                    for b in beliefs
                ),
                strict=True,
            )
        ]
        with self._steps.step(Step.WATCH), self._database.transaction() as connection:
            return {row[0] for row in connection.execute(_AS_LEFT, columns).fetchall()}

    def audit(
        self, partition: Partition, action: str, detail: Mapping[str, object], actor: str
    ) -> None:
        with self._database.transaction() as connection:
            write_audit(
                connection, self._cluster_id, self._group_id, partition, action, detail, actor
            )


def _evict(connection: Connection, group_id: str, partitions: Mapping[Partition, object]) -> int:
    """End the connections of this group that hold the rows' locks: whoever holds one is stopped.

    The holder is found by the transaction that the locked row names; a stopped process keeps its
    locks longer than a new owner may wait.
    """
    evicted = connection.execute(
        _EVICT,
        (
            [partition.topic for partition in partitions],
            [partition.number for partition in partitions],
            group_id,
            application_prefix(group_id) + "%",
        ),
    ).fetchall()
    return len(evicted)


_RAISE = """
WITH claims AS (
    SELECT * FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[]
    ) AS c (id, lineage, token, k, token_in_metadata, verified)
), locked AS (
    SELECT p.id FROM processor.progress p JOIN claims c ON c.id = p.id
    ORDER BY p.id FOR UPDATE OF p
)
UPDATE processor.progress p SET
    published_offset = c.k,
    tokens_in_k = CASE WHEN c.token_in_metadata = p.token THEN ARRAY[p.token]
        ELSE p.tokens_in_k END,
    token_ends = CASE WHEN c.token_in_metadata = p.token THEN '{}' ELSE p.token_ends END,
    verified_offset = GREATEST(p.verified_offset, c.verified),
    updated_at = now()
FROM claims c JOIN locked l ON l.id = c.id
WHERE p.id = c.id AND p.lineage = c.lineage AND p.token = c.token AND p.intent IS NULL
    AND p.published_offset <= c.k
    AND c.k <= COALESCE((p.token_ends ->> c.token_in_metadata)::bigint, p.next_offset)
    AND c.token_in_metadata = ANY (p.tokens_in_k)
RETURNING p.id, p.published_offset
"""

_AS_LEFT = """
SELECT p.id FROM processor.progress p
JOIN unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
    AS b (id, lineage, token, next_offset, published_offset) ON p.id = b.id
WHERE p.lineage = b.lineage AND p.token = b.token AND p.next_offset = b.next_offset
    AND p.published_offset = b.published_offset
    AND p.intent IS NULL AND p.superseded_at IS NULL
"""

_PRUNE = """
DELETE FROM processor.outbox o
USING unnest(%s::bigint[], %s::bigint[]) AS raised (id, p)
WHERE o.progress_id = raised.id AND o.next_offset <= raised.p
"""

_EVICT = """
SELECT pg_terminate_backend(l.pid)
FROM processor.progress p
JOIN unnest(%s::text[], %s::int[]) AS wanted (topic, partition)
    ON p.topic = wanted.topic AND p.partition = wanted.partition
JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = p.xmax
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE p.group_id = %s AND a.application_name LIKE %s AND l.pid <> pg_backend_pid()
"""
