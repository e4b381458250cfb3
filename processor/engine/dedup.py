"""Business keys in Postgres: a batch takes them before its handlers run, in bulk.

Keys lie in one table for each period of time (``engine/periods.py``). Only the current one takes
new keys, and who inserts into it holds a shared lock until its commit; so the older ones are
complete, and a look at them cannot miss what somebody else is about to commit. In the current one
uniqueness decides: who comes second waits for the first one's commit, and each inserts in the
order of the keys, so that no two wait for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import LiteralString

from processor.engine.database import text
from processor.engine.failures import DatabaseDoubt
from processor.schema import DEDUP_TABLES
from processor.transaction import Session


def lock_number(group_id: str) -> int:
    """Of the advisory lock: shared by batches, alone for who changes the periods."""
    digest = hashlib.sha256(f"processor dedup {group_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def table_of(period: int) -> str:
    return f"{DEDUP_TABLES}{period:d}"


@dataclass(slots=True)
class TakenKeys:
    """The keys of one run of a batch that it was the first to take, and those in use.

    A key is in use once a message of it is handled; a later one of the same key is a duplicate. Of
    a message that fails the key is free again, for the next one that has it.
    """

    period: int
    ours: frozenset[str]
    _used: dict[str, None] = field(default_factory=dict)

    def is_free(self, key: str) -> bool:
        return key in self.ours and key not in self._used

    def use(self, key: str) -> None:
        self._used[key] = None

    def mark(self) -> int:
        """Where it stands, for :meth:`back_to`."""
        return len(self._used)

    def back_to(self, mark: int) -> None:
        """What was used since is free again."""
        while len(self._used) > mark:
            self._used.popitem()

    def unused(self) -> list[str]:
        """To be given back: no message took effect under them."""
        return [key for key in self.ours if key not in self._used]


class Keys:
    """The statements about keys, all in the batch's own transaction."""

    def __init__(self, group_id: str, isolation: str = "read committed") -> None:
        self._group_id = group_id
        self._lock = lock_number(group_id)
        # Where a snapshot is older than the lock, periods that have changed meanwhile are found by
        # their rows: the transaction is run again.
        follows = isolation.lower() == "read committed"
        self._periods = _PERIODS if follows else f"{_PERIODS} FOR SHARE"

    def take(self, session: Session, keys: Collection[str]) -> TakenKeys:
        """Insert those that nobody has taken within the retention.

        :raises Doubt: of every error of Postgres, and when no period is open.
        :raises Restart: for a serialization failure.
        """
        session.ask("SELECT pg_advisory_xact_lock_shared(%s)", [self._lock])
        rows = session.ask(text(self._periods), [self._group_id])
        if not rows or rows[-1][1]:
            raise DatabaseDoubt("no period of business keys is open: housekeeping opens one")
        *older, current = [row[0] for row in rows]
        [[new]] = session.ask(_insert(current, older), [_array(keys)])
        return TakenKeys(current, frozenset(new.split(",")) if new else frozenset())

    def give_back(self, session: Session, taken: TakenKeys) -> None:
        """Keys that no message took effect under are anybody's again."""
        unused = taken.unused()
        if unused:
            table = table_of(taken.period)
            session.ask(
                text(f"DELETE FROM {table} WHERE key = ANY (%s::uuid[])"),  # noqa: S608
                [_array(unused)],
            )


_PERIODS = """
SELECT id, closed_at IS NOT NULL FROM processor.dedup_periods
WHERE group_id = %s AND NOT expired ORDER BY id"""


def _insert(current: int, older: Collection[int]) -> LiteralString:
    """Tells which keys are new, in one row: a row for each takes longer than the insert."""
    unseen = "".join(
        f" AND NOT EXISTS (SELECT FROM {table_of(each)} o WHERE o.key = k)" for each in older
    )
    return text(
        f"WITH new AS (INSERT INTO {table_of(current)} (key)"  # noqa: S608
        f" SELECT k FROM unnest(%s::uuid[]) AS k WHERE true{unseen} ORDER BY k"
        " ON CONFLICT DO NOTHING RETURNING key)"
        " SELECT string_agg(encode(uuid_send(key), 'hex'), ',') FROM new"
    )


def _array(keys: Collection[str]) -> str:
    """As Postgres reads it: psycopg takes several times as long for a list."""
    return f"{{{','.join(keys)}}}"
