"""Periods of business keys: opened, closed and dropped, so that no key is ever deleted by age.

A period takes keys for a part of the retention and is looked at until the retention has passed
since its end; then its table is dropped whole. Time is the database's. Every change happens in one
transaction under the lock that batches share: it waits for those under way, for a short while, or
comes again. A crash leaves all of a change or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg

from processor.engine.database import Connection, Database, text
from processor.engine.dedup import lock_number, table_of
from processor.engine.failures import DatabaseDoubt
from processor.engine.observer import Observer

PARTS = 2
"""Of the retention; a period lasts for one of them. More would let keys go sooner after it, and
have more tables looked at: each costs Postgres some 2 µs a key (docs/decisions/0015)."""
MOST_SECONDS_BETWEEN_LOOKS = 5.0
LEAST_SECONDS_BETWEEN_LOOKS = 0.2
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 8.0
"""For batches under way: others wait behind it for as long, so it is short, and twice as long each
time that it was in vain."""
DROP_WAIT_SECONDS = 0.2


class Periods:
    """Keeps one group's periods; any of its workers does it, and several at once are fine."""

    def __init__(
        self,
        database: Database,
        group_id: str,
        retention_seconds: float,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._group_id = group_id
        self._retention = retention_seconds
        self._observer = observer
        self._clock = clock
        self._wait = FIRST_WAIT_SECONDS
        self._between = min(
            MOST_SECONDS_BETWEEN_LOOKS,
            max(LEAST_SECONDS_BETWEEN_LOOKS, retention_seconds / PARTS / 4),
        )
        self.due = 0.0
        """When to look again (monotonic seconds)."""

    def keep(self) -> None:
        """Open, close and drop whatever is due; what fails is told and tried again.

        Between batches only: no transaction may be open.
        """
        self.due = self._clock() + self._between
        expired: list[int] = []
        with self._telling():
            is_due, expired = self._look()
            if is_due:
                self._turn()
        for period in expired:
            with self._telling():
                self._drop(period)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Nothing of it is a batch's matter: one that needs a period finds that there is none."""
        try:
            yield
        except DatabaseDoubt as doubt:
            waits = isinstance(doubt.__cause__, psycopg.errors.LockNotAvailable)
            event = "dedup-periods-wait" if waits else "dedup-periods-failed"
            self._observer.noted(event, reason=str(doubt))

    def _look(self) -> tuple[bool, list[int]]:
        """Whether it is time to turn, and the periods that are to be dropped."""
        with self._database.transaction() as connection:
            found = connection.execute(_LOOK, self._times()).fetchall()
        kept = [
            (takes_keys, is_too_old) for _, expired, takes_keys, is_too_old in found if not expired
        ]
        is_open = any(takes_keys for takes_keys, _ in kept)
        is_late = any(is_too_old for _, is_too_old in kept)
        return not is_open or is_late, [id for id, expired, *_ in found if expired]

    def _turn(self) -> None:
        """Open the next period if the current one is over, and let go of those that are too old."""
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT_SECONDS)
        with self._database.transaction() as connection:
            _wait_at_most(connection, wait)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [lock_number(self._group_id)])
            connection.execute(_EXPIRE, self._times())
            # Another worker may have been faster.
            if connection.execute(_IS_OPEN, self._times()).fetchone() is None:
                self._open(connection)
        self._wait = FIRST_WAIT_SECONDS

    def _open(self, connection: Connection) -> None:
        connection.execute(_CLOSE, [self._group_id])
        row = connection.execute(_OPEN, [self._group_id]).fetchone()
        assert row is not None
        connection.execute(text(f"CREATE TABLE {table_of(row[0])} (key uuid PRIMARY KEY)"))

    def _drop(self, period: int) -> None:
        """No batch looks at it any more; a dump of the database may."""
        with self._database.transaction() as connection:
            _wait_at_most(connection, DROP_WAIT_SECONDS)
            connection.execute(text(f"DROP TABLE IF EXISTS {table_of(period)}"))
            connection.execute("DELETE FROM processor.dedup_periods WHERE id = %s", [period])

    def _times(self) -> dict[str, object]:
        return {
            "group": self._group_id,
            "lasts": timedelta(seconds=self._retention / PARTS),
            "retention": timedelta(seconds=self._retention),
        }


def _wait_at_most(connection: Connection, seconds: float) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {int(seconds * 1_000)}"), prepare=False)


_LOOK = """
SELECT id, expired,
    closed_at IS NULL AND clock_timestamp() < opened_at + %(lasts)s::interval,
    clock_timestamp() >= closed_at + %(retention)s::interval
FROM processor.dedup_periods WHERE group_id = %(group)s ORDER BY id
"""

_EXPIRE = """
UPDATE processor.dedup_periods SET expired = true
WHERE group_id = %(group)s AND NOT expired
    AND clock_timestamp() >= closed_at + %(retention)s::interval
"""

_IS_OPEN = """
SELECT 1 FROM processor.dedup_periods
WHERE group_id = %(group)s AND closed_at IS NULL AND NOT expired
    AND clock_timestamp() < opened_at + %(lasts)s::interval
"""

_CLOSE = """
UPDATE processor.dedup_periods SET closed_at = clock_timestamp()
WHERE group_id = %s AND closed_at IS NULL
"""

_OPEN = """
INSERT INTO processor.dedup_periods (group_id, opened_at) VALUES (%s, clock_timestamp())
RETURNING id
"""
