"""The handler's writes on the open Postgres transaction: COPY, upserts, statements."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import TransactionStatus
from sqlalchemy import ARRAY, Executable, Table
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

from processor.engine.database import Connection, of_handler, text
from processor.errors import PipelineError
from processor.transaction import Parameters, Row, Statement
from processor.writes import CopyWrite, Operation, UpsertWrite

_dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})

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
                statement = _insert_statement(write.table, write.columns)
                connection.cursor().executemany(statement, rows)
                return
            data = copy_text(connection, write)
            with connection.cursor().copy(_copy_statement(write.table, write.columns)) as copy:
                copy.write(data)

    def upsert(self, write: UpsertWrite) -> None:
        with self._watched() as connection:
            processors = _bind_processors(write.table, write.columns)
            statement = _upsert_statement(write.table, write.key, write.operations)
            for start in range(0, len(write.rows), UPSERT_CHUNK_ROWS):
                rows = _processed(write.rows[start : start + UPSERT_CHUNK_ROWS], processors)
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
    compiled = statement.compile(dialect=_dialect, compile_kwargs={"render_postcompile": True})
    given = parameters if isinstance(parameters, dict) else None
    values: dict[str, Any] = dict(compiled.construct_params(given) or {})
    processors: Any = getattr(compiled, "_bind_processors", {})
    for name, process in processors.items():
        if name in values:
            values[name] = process(values[name])
    return str(compiled), values


def _identifier(table: Table) -> sql.Composable:
    names = (table.schema, table.name) if table.schema else (table.name,)
    return sql.Identifier(*names)


@lru_cache(maxsize=1024)
def _copy_statement(table: Table, columns: tuple[str, ...]) -> LiteralString:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return _rendered(sql.SQL("COPY {} ({}) FROM STDIN").format(_identifier(table), names))


@lru_cache(maxsize=1024)
def _insert_statement(table: Table, columns: tuple[str, ...]) -> LiteralString:
    """For the same rows as COPY would take, which does not mind identity columns."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    values = sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})")
    return _rendered(statement.format(_identifier(table), names, values))


def _rendered(statement: sql.Composed) -> LiteralString:
    """As text, once: psycopg would render it at each call."""
    return text(statement.as_string(None))


class _Upsert:
    def __init__(self, query: LiteralString, by_arrays: bool) -> None:
        self.query = query
        self.by_arrays = by_arrays


@lru_cache(maxsize=1024)
def _upsert_statement(
    table: Table, key: tuple[str, ...], operations: tuple[tuple[str, Operation], ...]
) -> _Upsert:
    columns = (*key, *(name for name, _ in operations))
    types = [table.columns[name].type for name in columns]
    by_arrays = not any(isinstance(kind, ARRAY) for kind in types)
    casts = [sql.SQL(text(_cast(kind.compile(dialect=_dialect)))) for kind in types]
    if by_arrays:
        arrays = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(cast) for cast in casts)
        source = sql.SQL("SELECT * FROM unnest({})").format(arrays)
    else:
        values = sql.SQL(", ").join(sql.SQL("%s::{}").format(cast) for cast in casts)
        source = sql.SQL("VALUES ({})").format(values)
    query = sql.SQL("INSERT INTO {} AS t ({}) {} ON CONFLICT ({}) DO {}").format(
        _identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        source,
        sql.SQL(", ").join(map(sql.Identifier, key)),
        _changes(operations),
    )
    return _Upsert(_rendered(query), by_arrays)


def _cast(kind: str) -> str:
    """A type's name for an explicit cast, which would cut what is too long without a word."""
    if kind.startswith(("VARCHAR", "CHAR", "NVARCHAR", "NCHAR")):
        return "TEXT"
    return "BIT VARYING" if kind.startswith("BIT") else kind


_CHANGES: dict[Operation, sql.SQL] = {
    "add": sql.SQL("{c} = COALESCE(t.{c}, 0) + COALESCE(EXCLUDED.{c}, 0)"),
    "max": sql.SQL("{c} = GREATEST(t.{c}, EXCLUDED.{c})"),
    "min": sql.SQL("{c} = LEAST(t.{c}, EXCLUDED.{c})"),
    "set": sql.SQL("{c} = EXCLUDED.{c}"),
}


def _changes(operations: tuple[tuple[str, Operation], ...]) -> sql.Composable:
    if not operations:
        return sql.SQL("NOTHING")
    changes = (_CHANGES[how].format(c=sql.Identifier(name)) for name, how in operations)
    return sql.SQL("UPDATE SET {}").format(sql.SQL(", ").join(changes))


@lru_cache(maxsize=1024)
def _bind_processors(
    table: Table, columns: tuple[str, ...]
) -> tuple[Callable[[Any], Any] | None, ...]:
    """How SQLAlchemy's types want their values before they go to psycopg (JSONB, enums, …)."""
    kinds = (table.columns[name].type for name in columns)
    return tuple(kind.dialect_impl(_dialect).bind_processor(_dialect) for kind in kinds)


def _processed(
    rows: Sequence[tuple[Any, ...]], processors: tuple[Callable[[Any], Any] | None, ...]
) -> Sequence[tuple[Any, ...]]:
    if not any(processors):
        return rows
    return [
        tuple(
            value if process is None else process(value)
            for value, process in zip(row, processors, strict=True)
        )
        for row in rows
    ]


def copy_text(connection: Connection, write: CopyWrite) -> bytes:
    """The rows in COPY's text format, complete in memory before COPY begins."""
    rows = _processed(write.rows, _bind_processors(write.table, write.columns))
    adapt = _Adapter(connection)
    lines = ["\t".join([_field(value, adapt) for value in row]) for row in rows]
    return ("\n".join(lines) + "\n").encode()


class _Adapter:
    """Writes what is not a plain Python value the way psycopg would."""

    def __init__(self, connection: Connection) -> None:
        self._transformer = Transformer(connection)

    def __call__(self, value: object) -> str | None:
        dumped = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        return None if dumped is None else str(bytes(dumped), "utf-8")


_PLAIN = (datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID)


_NEVER_ESCAPED = frozenset({int, float, bool, *_PLAIN})


def plain_rows(connection: Connection, write: CopyWrite) -> list[list[str | None]]:
    """The rows as text, which the columns' types read as they read it from COPY.

    Typed parameters would be cast instead: 1.5 rounded into an int, a zone converted away.
    """
    rows = _processed(write.rows, _bind_processors(write.table, write.columns))
    adapt = _Adapter(connection)
    return [[_plain(value, adapt) for value in row] for row in rows]


def _plain(value: object, adapt: Callable[[object], str | None]) -> str | None:
    kind = type(value)
    if value is None or kind is str:
        return value  # type: ignore[return-value]
    if kind is int or kind is float:
        return repr(value)
    if kind is bool:
        return "t" if value else "f"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if kind in _PLAIN:
        return str(value)
    return adapt(value)


def _field(value: object, adapt: Callable[[object], str | None]) -> str:
    plain = _plain(value, adapt)
    if plain is None:
        return "\\N"
    return plain if type(value) in _NEVER_ESCAPED else plain.translate(_ESCAPES)
