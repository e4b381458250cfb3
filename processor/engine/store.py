"""The one Postgres transaction of a batch: handlers' writes, outbox, compare-and-set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from processor.engine.batch import DeadLetter, OutboxEntry, Returned, Tried
from processor.engine.database import Connection, Cursor, Database, doubtful
from processor.engine.failures import DatabaseDoubt, Doubt, OwnerChanged
from processor.engine.letter_rows import Expected, LetterChanges, write_letters
from processor.engine.session import PostgresSession
from processor.engine.steps import Step, Steps

SAVEPOINT = "message"
NO_EPOCH = -1


@dataclass(frozen=True, slots=True)
class Advance:
    """One partition's step from ``first`` to ``next``, valid for one lineage and token only.

    ``extends`` is the first offset of an outbox row without outputs, not yet sent as K, that is
    lengthened instead of adding another one. ``leader_epoch`` is the last message's; None leaves
    what is there, ``NO_EPOCH`` forgets it, because ``next`` may lie in a later epoch.
    """

    progress_id: int
    lineage: str
    token: str
    first: int
    next: int
    entry: OutboxEntry | None
    extends: int | None = None
    leader_epoch: int | None = None
    handled: int = 0
    dead_letters: Sequence[DeadLetter] = ()
    skipped: int = 0
    duplicates: int = 0
    replayed: Sequence[int] = ()
    returned: Sequence[Returned] = ()
    released: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Postponed:
    """A partition that stands in front of a message which is tried again later."""

    progress_id: int
    lineage: str
    token: str
    next: int
    tried: Tried
    retry_after_seconds: float
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class _Written:
    """Statements under way that tell how many rows they hit."""

    advances: Sequence[Advance]
    lengthened: Sequence[tuple[Advance, Cursor]]
    moved: Cursor | None
    letters: Sequence[Expected]

    def check(self) -> None:
        """:raises OwnerChanged: when a row that is ours alone was not as we know it."""
        gone = [advance.extends for advance, cursor in self.lengthened if cursor.rowcount != 1]
        if gone:
            # Its end was not sent as K, and nobody else lengthens it.
            raise OwnerChanged(f"the outbox row at {gone[0]} is gone")
        for each in self.letters:
            if each.cursor.rowcount != each.rows:
                raise OwnerChanged(f"{each.what} is not as it was found")
        if self.moved is None:
            return
        row = self.moved.fetchone()
        left = len(self.advances) - (row[0] if row else 0)
        if left:
            raise OwnerChanged(f"{left} of {len(self.advances)} partitions moved on")


class Store:
    """Opens the transaction when something is first written, and commits it once.

    ``session`` is what handlers write through.
    """

    def __init__(self, database: Database, group_id: str, steps: Steps) -> None:
        self._database = database
        self._group_id = group_id
        self._steps = steps
        self._transaction: Connection | None = None
        self._written: _Written | None = None
        self.session = PostgresSession(self._open)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside goes to Postgres at once, BEGIN included.

        An error is told by whichever statement meets it; whose it is shows a run one by one.
        """
        with doubtful("connect"):
            connection = self._transaction or self._database.connection()
        with self.session.pipelined(connection, self._database.pipeline(connection)):
            yield

    def settle(self) -> None:
        """Have what was written checked whole, if anything was."""
        if self._transaction is not None:
            self.session.settle()

    def savepoint(self) -> None:
        with doubtful("savepoint"):
            self._open().execute(f"SAVEPOINT {SAVEPOINT}", prepare=False)

    def release(self) -> None:
        with doubtful("release savepoint"):
            self._open().execute(f"RELEASE SAVEPOINT {SAVEPOINT}", prepare=False)

    def rollback_to_savepoint(self) -> None:
        """Undo what was written since :meth:`savepoint`; the transaction goes on."""
        self.session.failure = self.session.refused_upsert = None
        with doubtful("rollback to savepoint"):
            self._open().execute(
                f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}", prepare=False
            )

    def rollback(self) -> None:
        """Forget everything since the last commit; never raises."""
        if self._transaction is not None:
            self._database.rollback()
        self._finished()

    def commit(self, advances: Sequence[Advance], topics: dict[int, tuple[str, str]]) -> None:
        """:meth:`write` and :meth:`commit_written`; nothing is left open when either fails."""
        try:
            self.write(advances, topics)
            self.commit_written()
        except Doubt:
            self.rollback()
            raise

    def write(
        self,
        advances: Sequence[Advance],
        topics: dict[int, tuple[str, str]],
        postponed: Sequence[Postponed] = (),
    ) -> None:
        """Write outbox, dead letters and progress; :meth:`commit_written` is next.

        :param topics: name and id of the topic of each progress id.
        :param postponed: also those that have not moved.
        :raises DatabaseDoubt: for every error of Postgres, unless :meth:`together` tells of it.
        """
        with self._steps.step(Step.STORE), self._apart():
            connection = self._open()
            # First, because of its row locks: they lead the next owner to a session that has
            # stopped in the middle of this, and would keep it waiting with what follows.
            moved = _compare_and_set(connection, advances) if advances else None
            lengthened = self._write_outbox(connection, advances)
            letters = write_letters(connection, self._group_id, _letter_changes(advances, topics))
            for each in postponed:
                _postpone(connection, each)
            self._written = _Written(advances, lengthened, moved, letters)

    def commit_written(self) -> None:
        """Commit what was written, once it is known that the compare-and-set hit every row.

        :raises OwnerChanged: when another owner was faster.
        :raises DatabaseDoubt: when the outcome is not certain.
        """
        assert self._written is not None, "nothing is committed without a compare-and-set"
        self._written.check()
        self._database.commit()
        self._finished()

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """A pipeline of the framework's own statements, unless they go with the handlers'."""
        if self.session.is_pipelined:
            yield
            return
        with doubtful("outbox"), self._database.pipeline(self._open()):
            yield

    def _open(self) -> Connection:
        """The connection in its transaction, begun if there is none.

        A lost connection is never made again in the middle: what would follow on a new one would
        stand outside the transaction. Even a handler that swallows the error gets no further.
        """
        if self._transaction is None:
            with doubtful("begin"), self._steps.step(Step.BEGIN):
                self._transaction = self._database.begin()
        elif self._transaction.closed:
            raise DatabaseDoubt("the connection was lost in the middle of a transaction")
        return self._transaction

    def _finished(self) -> None:
        self._transaction = self._written = None
        self.session.failure = self.session.refused_upsert = None

    def _write_outbox(
        self, connection: Connection, advances: Sequence[Advance]
    ) -> list[tuple[Advance, Cursor]]:
        """The rows that are lengthened, with the cursor that tells how many were."""
        entries = [a.entry for a in advances if a.entry is not None and a.extends is None]
        if entries:
            connection.execute(_INSERT_OUTBOX, _outbox_columns(entries))
        return [(a, _extend(connection, a)) for a in advances if a.extends is not None]


_INSERT_OUTBOX = """
INSERT INTO processor.outbox
    (progress_id, first_offset, next_offset, output_count, checksum, payload)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::bigint[], %b::bytea[])
"""

_COMPARE_AND_SET = """
WITH batch AS (
    SELECT * FROM unnest(
        %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],
        %s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
    ) AS b (id, lineage, token, first, next, epoch, handled, outputs, dead_lettered, skipped,
        duplicates)
), locked AS (
    SELECT p.id FROM processor.progress p JOIN batch b ON b.id = p.id
    WHERE p.next_offset = b.first AND p.token = b.token AND p.lineage = b.lineage
        AND p.intent IS NULL AND p.superseded_at IS NULL
    ORDER BY p.id FOR UPDATE OF p
), moved AS (
    UPDATE processor.progress p SET
        next_offset = b.next,
        leader_epoch = NULLIF(COALESCE(b.epoch, p.leader_epoch), -1),
        handled = p.handled + b.handled,
        outputs = p.outputs + b.outputs,
        dead_lettered = p.dead_lettered + b.dead_lettered,
        skipped = p.skipped + b.skipped,
        duplicates = p.duplicates + b.duplicates,
        updated_at = now()
    FROM batch b JOIN locked l ON l.id = b.id
    WHERE p.id = b.id AND p.next_offset = b.first AND p.token = b.token
        AND p.lineage = b.lineage AND p.intent IS NULL AND p.superseded_at IS NULL
    RETURNING p.id
)
SELECT count(*) FROM moved
"""


def _letter_changes(
    advances: Sequence[Advance], topics: dict[int, tuple[str, str]]
) -> list[LetterChanges]:
    return [
        LetterChanges(
            each.progress_id,
            *topics[each.progress_id],
            each.dead_letters,
            each.replayed,
            each.returned,
            each.released,
        )
        for each in advances
        if each.dead_letters or each.replayed or each.returned or each.released
    ]


def _compare_and_set(connection: Connection, advances: Sequence[Advance]) -> Cursor:
    """Move each H from ``first`` to ``next`` where lineage and token still hold; tells how many."""
    ordered = sorted(advances, key=lambda advance: advance.progress_id)
    return connection.execute(_COMPARE_AND_SET, _progress_columns(ordered))


def _progress_columns(advances: Sequence[Advance]) -> list[object]:
    return [
        _numbers(a.progress_id for a in advances),
        [a.lineage for a in advances],
        [a.token for a in advances],
        _numbers(a.first for a in advances),
        _numbers(a.next for a in advances),
        _numbers(a.leader_epoch for a in advances),
        _numbers(a.handled for a in advances),
        _numbers(len(a.entry.records) if a.entry is not None else 0 for a in advances),
        _numbers(len(a.dead_letters) for a in advances),
        _numbers(a.skipped for a in advances),
        _numbers(a.duplicates for a in advances),
    ]


def _extend(connection: Connection, advance: Advance) -> Cursor:
    """Lengthen the row without outputs that ends at ``first``."""
    return connection.execute(
        "UPDATE processor.outbox SET next_offset = %s WHERE progress_id = %s"
        " AND first_offset = %s AND next_offset = %s AND output_count = 0",
        (advance.next, advance.progress_id, advance.extends, advance.first),
    )


def _postpone(connection: Connection, each: Postponed) -> None:
    """Nothing depends on it but when the message is tried again: no row hit is no doubt."""
    tried = each.tried
    connection.execute(
        "UPDATE processor.progress SET tried_offset = %s, attempts = %s,"
        " first_failed_at = now() - %s::interval, retry_at = now() + %s::interval"
        " WHERE id = %s AND lineage = %s AND token = %s AND next_offset = %s",
        (
            tried.offset,
            tried.attempts,
            timedelta(seconds=tried.failing_seconds),
            timedelta(seconds=each.retry_after_seconds),
            each.progress_id,
            each.lineage,
            each.token,
            each.next,
        ),
    )


def _outbox_columns(entries: Sequence[OutboxEntry]) -> list[object]:
    return [
        _numbers(e.progress_id for e in entries),
        _numbers(e.first for e in entries),
        _numbers(e.next for e in entries),
        _numbers(len(e.records) for e in entries),
        _numbers(e.checksum for e in entries),
        [e.payload for e in entries],
    ]


def _numbers(numbers: Iterable[int | None]) -> str:
    """An array as Postgres reads it: psycopg takes several times as long for a list."""
    return "{" + ",".join("NULL" if n is None else str(n) for n in numbers) + "}"
