"""A handler's writes as SQL and as COPY's text. Nothing is sent here."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, LiteralString

from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import ARRAY, Table
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from processor.engine.database import Connection, text
from processor.writes import CopyWrite, Operation

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_ESCAPED = re.compile(r"[\\\n\r\t]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _identifier(table: Table) -> sql.Composable:
    names = (table.schema, table.name) if table.schema else (table.name,)
    return sql.Identifier(*names)


@lru_cache(maxsize=1024)
def copy_statement(table: Table, columns: tuple[str, ...]) -> LiteralString:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return _rendered(sql.SQL("COPY {} ({}) FROM STDIN").format(_identifier(table), names))


@lru_cache(maxsize=1024)
def insert_statement(table: Table, columns: tuple[str, ...]) -> LiteralString:
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
def upsert_statement(
    table: Table, key: tuple[str, ...], operations: tuple[tuple[str, Operation], ...]
) -> _Upsert:
    columns = (*key, *(name for name, _ in operations))
    types = [table.columns[name].type for name in columns]
    by_arrays = not any(isinstance(kind, ARRAY) for kind in types)
    casts = [sql.SQL(text(_cast(kind.compile(dialect=DIALECT)))) for kind in types]
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
def bind_processors(
    table: Table, columns: tuple[str, ...]
) -> tuple[Callable[[Any], Any] | None, ...]:
    """How SQLAlchemy's types want their values before they go to psycopg (JSONB, enums, …)."""
    kinds = (table.columns[name].type for name in columns)
    return tuple(kind.dialect_impl(DIALECT).bind_processor(DIALECT) for kind in kinds)


def processed(
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
    rows = processed(write.rows, bind_processors(write.table, write.columns))
    adapt = _Adapter(connection)
    columns = [_fields(column, adapt) for column in zip(*rows, strict=True)]
    lines = map("\t".join, zip(*columns, strict=True))
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
    rows = processed(write.rows, bind_processors(write.table, write.columns))
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


def _fields(column: tuple[Any, ...], adapt: Callable[[object], str | None]) -> Iterable[str]:
    """A column at once: whole numbers and plain text, which most are, are not looked at singly."""
    kinds = set(map(type, column))
    if kinds == {int}:
        return map(repr, column)
    if kinds == {str} and not _ESCAPED.search("".join(column)):
        return column
    return [_field(value, adapt) for value in column]


def _field(value: object, adapt: Callable[[object], str | None]) -> str:
    plain = _plain(value, adapt)
    if plain is None:
        return "\\N"
    return plain if type(value) in _NEVER_ESCAPED else plain.translate(_ESCAPES)
