"""The handler's writes on the open Postgres transaction: COPY, upserts, statements."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Executable
from sqlalchemy.sql import ClauseElement

from processor.engine.database import Connection, doubtful, of_handler, restartable, text
from processor.engine.failures import StatementFailed
from processor.engine.statements import (
    DIALECT,
    bind_processors,
    copy_statement,
    copy_text,
    insert_statement,
    plain_rows,
    processed,
    upsert_statement,
)
from processor.errors import PipelineError
from processor.transaction import Parameters, Row, Statement
from processor.writes import CopyWrite, UpsertWrite

UPSERT_CHUNK_ROWS = 5_000
_ENDS_TRANSACTION = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b",
    re.I | re.S,
)


class PostgresSession:
    """Implements ``processor.transaction.Session``.

    ``failure`` keeps the first error, so that a handler that swallows one cannot pass for fine:
    Postgres has aborted the transaction by then.
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._connection = open_connection
        self.is_pipelined = False
        self.failure: Exception | None = None
        self.refused_upsert: UpsertWrite | None = None
        """The upsert that has met :attr:`failure`, if it was one."""

    @contextmanager
    def pipelined(
        self, connection: Connection, pipeline: AbstractContextManager[None]
    ) -> Iterator[None]:
        """Write inside the pipeline, which COPY cannot be part of; errors may come at its end."""
        self.is_pipelined = True
        try:
            with of_handler(connection), pipeline:
                yield
        except Exception as error:
            self.failure = self.failure or error
            raise
        finally:
            self.is_pipelined = False

    def copy(self, write: CopyWrite) -> None:
        with self._watched() as connection:
            if self.is_pipelined:
                rows = plain_rows(connection, write)
                statement = insert_statement(write.table, write.columns)
                connection.cursor().executemany(statement, rows)
                return
            data = copy_text(connection, write)
            with connection.cursor().copy(copy_statement(write.table, write.columns)) as copy:
                copy.write(data)

    def upsert(self, write: UpsertWrite) -> None:
        with self._refusing(write), self._watched() as connection:
            processors = bind_processors(write.table, write.columns)
            statement = upsert_statement(write.table, write.key, write.operations)
            for start in range(0, len(write.rows), UPSERT_CHUNK_ROWS):
                rows = processed(write.rows[start : start + UPSERT_CHUNK_ROWS], processors)
                if statement.by_arrays:
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    connection.execute(statement.query, columns)
                else:
                    connection.cursor().executemany(statement.query, rows)

    def settle(self) -> None:
        """Check deferred constraints now, while it is known whose fault a violation is.

        At COMMIT it would be a doubt, and the next try would end the same way.
        """
        with self._watched() as connection:
            if self.is_pipelined:
                # Nothing of a handler follows.
                connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                return
            connection.execute(
                "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED", prepare=False
            )

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        with self._watched() as connection:
            return self._run(connection, statement, parameters).rowcount

    def fetch_one(self, statement: Statement, parameters: Parameters) -> Row | None:
        with self._watched() as connection:
            return self._run(connection, statement, parameters).fetchone()

    def fetch_all(self, statement: Statement, parameters: Parameters) -> list[Row]:
        with self._watched() as connection:
            return self._run(connection, statement, parameters).fetchall()

    def ask(self, query: LiteralString, parameters: Sequence[Any]) -> list[Row]:
        connection = self._connection()
        with doubtful("look up"), restartable():
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def _run(
        self, connection: Connection, statement: Statement, parameters: Parameters
    ) -> psycopg.Cursor[Row]:
        if isinstance(statement, str):
            query, values = statement, parameters
        else:
            query, values = _compiled(statement, parameters)
        if _ENDS_TRANSACTION.match(query):
            raise PipelineError("a handler may not begin or end a transaction: the engine commits")
        # Prepared, because only the simple protocol would take several statements in one text.
        try:
            cursor = connection.execute(text(query), values, prepare=True)
        except psycopg.errors.SyntaxError as error:
            if "multiple commands" in str(error):
                raise PipelineError(
                    "a handler's text holds several statements; one a call"
                ) from None
            raise
        if connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise PipelineError("a handler's statement ended the transaction: the engine commits")
        return cursor

    @contextmanager
    def _refusing(self, write: UpsertWrite) -> Iterator[None]:
        try:
            yield
        except StatementFailed:
            self.refused_upsert = write
            raise

    @contextmanager
    def _watched(self) -> Iterator[Connection]:
        """The open connection; an error is sorted by who is to blame, and remembered."""
        try:
            connection = self._connection()
            with of_handler(connection):
                yield connection
        except Exception as error:
            self.failure = self.failure or error
            raise


def _compiled(statement: Executable, parameters: Parameters) -> tuple[str, Any]:
    if not isinstance(statement, ClauseElement):
        raise PipelineError(
            f"cannot execute {statement!r}: neither text nor a SQLAlchemy statement"
        )
    compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    given = parameters if isinstance(parameters, dict) else None
    values: dict[str, Any] = dict(compiled.construct_params(given) or {})
    processors: Any = getattr(compiled, "_bind_processors", {})
    for name, process in processors.items():
        if name in values:
            values[name] = process(values[name])
    return str(compiled), values
