"""The handler's side of the one Postgres transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, LiteralString, Protocol

from sqlalchemy import Executable, Table

from processor.errors import PipelineError
from processor.writes import (
    CopyWrite,
    Journal,
    Operation,
    UpsertWrite,
    WriteBuffer,
    check_columns,
)

Row = tuple[Any, ...]
Statement = str | Executable
Parameters = Mapping[str, Any] | Sequence[Any] | None


CLOSED = "a transaction was used after its handler's call; each call is given its own"


class Session(Protocol):
    """What the engine gives a transaction to write through (the open Postgres transaction)."""

    def copy(self, write: CopyWrite) -> None: ...

    def upsert(self, write: UpsertWrite) -> None: ...

    def execute(self, statement: Statement, parameters: Parameters) -> int: ...

    def fetch_one(self, statement: Statement, parameters: Parameters) -> Row | None: ...

    def fetch_all(self, statement: Statement, parameters: Parameters) -> list[Row]: ...

    def ask(self, query: LiteralString, parameters: Sequence[Any]) -> list[Row]:
        """For the engine: a statement of its own, in the same transaction, before the handlers.

        :raises Doubt: for every other error: none of them is a message's.
        :raises Restart: for a deadlock or a serialization failure.
        """
        ...


class Transaction:
    """Writes that take effect together with the message's outputs and offset, or not at all.

    ``insert`` and ``upsert`` are buffered and flushed in bulk, in foreign-key order, rows sorted
    by key. ``execute``, ``fetch_one`` and ``fetch_all`` go to Postgres at once, after a flush;
    with them two workers can deadlock: the batch is then run again.

    It is the handler's for that one call. Kept for longer, it refuses with a ``PipelineError``: by
    then the connection works for another batch.
    """

    __slots__ = ("_is_closed", "_session", "_writes", "asked", "failure")

    def __init__(self, session: Session, journal: Journal | None = None) -> None:
        """:param journal: keeps what each message writes apart."""
        self._is_closed = False
        self._session = session
        self._writes: WriteBuffer | Journal = WriteBuffer() if journal is None else journal
        self.asked = False
        """Postgres was asked something, or told: what this message did is not in hand any more."""
        self.failure: Exception | None = None
        """The first flush that failed: a handler that swallows it cannot pass for fine."""

    def insert(self, table: Table, row: Mapping[str, Any]) -> None:
        """Insert a row (by COPY, with the others of this batch).

        >>> tx.insert(purchases, {"id": 7, "amount": 5})        # doctest: +SKIP

        :raises PipelineError: for a column that the table does not have.
        """
        if self._is_closed:
            raise PipelineError(CLOSED)
        self._writes.insert(table, row)

    def upsert(
        self,
        table: Table,
        row: Mapping[str, Any],
        *,
        key: Sequence[str] = (),
        add: Sequence[str] = (),
        max: Sequence[str] = (),
        min: Sequence[str] = (),
        set: Sequence[str] | None = None,
    ) -> None:
        """Insert a row or change the one with the same key.

        :param key: columns with a unique constraint; the primary key unless given.
        :param add: columns that are added to what is there (NULL counts as 0).
        :param max: columns that keep the larger value.
        :param min: columns that keep the smaller value.
        :param set: columns that are overwritten; all others of the row unless given.
        :raises PipelineError: for a column that the table or the row does not have.

        >>> tx.upsert(users, {"id": 7, "views": 1}, add=["views"])     # doctest: +SKIP
        """
        if self._is_closed:
            raise PipelineError(CLOSED)
        if key or max or min or set is not None:
            overwritten = None if set is None else tuple(set)
            keys, operations = _plan(
                table, tuple(row), tuple(key), tuple(add), tuple(max), tuple(min), overwritten
            )
        else:
            keys, operations = _adding(table, tuple(row), tuple(add))
        self._writes.upsert(table, row, key=keys, operations=operations)

    def execute(self, statement: Statement, parameters: Parameters = None) -> int:
        """Run a statement now; returns the number of rows it touched.

        Text uses psycopg's placeholders (``%s`` or ``%(name)s``); SQLAlchemy statements are
        compiled.
        """
        self.flush()
        return self._session.execute(statement, parameters)

    def fetch_one(self, statement: Statement, parameters: Parameters = None) -> Row | None:
        """Run a query now and return its first row, or None."""
        self.flush()
        return self._session.fetch_one(statement, parameters)

    def fetch_all(self, statement: Statement, parameters: Parameters = None) -> list[Row]:
        """Run a query now and return all its rows."""
        self.flush()
        return self._session.fetch_all(statement, parameters)

    @property
    def buffered_inserts(self) -> int | None:
        """How many rows the next flush inserts; None when it has nothing to send at all."""
        return self._writes.inserts if self._writes else None

    def flush(self) -> None:
        """Send what is buffered. The engine does it before the commit; seldom needed."""
        if self._is_closed:
            raise PipelineError(CLOSED)
        self.asked = True
        self.send_buffered()

    def close(self, session: Session) -> None:
        """For the engine: handlers are done with it.

        :param session: what :meth:`send_buffered` writes through.
        """
        self._is_closed, self._session = True, session

    def send_buffered(self) -> None:
        """For the engine: what the handlers have left to be flushed."""
        if not self._writes:
            return
        try:
            send(self._session, self._writes.drain())
        except Exception as error:
            self.failure = self.failure or error
            raise


def send(session: Session, writes: Iterable[CopyWrite | UpsertWrite]) -> None:
    for write in writes:
        if isinstance(write, CopyWrite):
            session.copy(write)
        else:
            session.upsert(write)


@lru_cache(maxsize=1024)
def _adding(
    table: Table, given: tuple[str, ...], add: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Operation]]:
    """What is asked for most, found by fewer words."""
    return _plan(table, given, (), add, (), (), None)


@lru_cache(maxsize=1024)
def _plan(
    table: Table,
    given: tuple[str, ...],
    key: tuple[str, ...],
    add: tuple[str, ...],
    maximum: tuple[str, ...],
    minimum: tuple[str, ...],
    overwritten: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], dict[str, Operation]]:
    """Which column is part of the key and what happens to each of the others."""
    check_columns(table, (*given, *key))
    keys = key or tuple(column.name for column in table.primary_key.columns)
    if not keys:
        raise PipelineError(f"upsert into {table.fullname}: it has no primary key, name key=[…]")
    operations: dict[str, Operation] = {}
    named: tuple[tuple[Operation, tuple[str, ...]], ...]
    named = (("add", add), ("max", maximum), ("min", minimum), ("set", overwritten or ()))
    for operation, columns in named:
        for column in columns:
            if column in operations or column in keys:
                raise PipelineError(f"upsert into {table.fullname}: {column!r} is named twice")
            operations[column] = operation
    if overwritten is None:
        operations |= {name: "set" for name in given if name not in keys and name not in operations}
    for name in (*keys, *operations):
        if name not in given:
            raise PipelineError(f"upsert into {table.fullname}: the row lacks {name!r}")
    for name in given:
        if name not in keys and name not in operations:
            raise PipelineError(f"upsert into {table.fullname}: what to do with {name!r}?")
    return keys, operations
