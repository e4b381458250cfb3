"""A cursor of the fake connection: parameters out, results back."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.sql import Composable
from psycopg.types.json import Json, Jsonb

from processor.testing.postgres.execution import Result
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.plans import Prepared, Refused, prepared

if TYPE_CHECKING:
    from processor.testing.postgres.connection import Connection

_PLAIN = frozenset(
    {
        int, float, bool, bytes, bytearray, memoryview, type(None), Decimal, UUID, Json, Jsonb,
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    }
)  # fmt: skip
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_ESCAPED = re.compile(r"\\(.)", re.S)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


class Cursor:
    """Implements the part of ``psycopg.Cursor`` that the engine uses."""

    def __init__(self, connection: Connection, row_factory: Any) -> None:
        self._connection = connection
        self._as_dict = row_factory is dict_row
        self.statements: list[tuple[Prepared | Refused, Any]] = []
        self._results: list[Result] = []
        self._at = 0
        self._next_row = 0
        self._is_pending = False
        self._is_many = False

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None) -> Cursor:
        extended = params is not None or bool(prepare) or self._connection.is_pipelined
        text = _text(query)
        if params is not None and "%%" in text:
            text = _LITERAL.sub(lambda match: match[0].replace("%%", "%"), text)
        parsed = _parsed(text, extended)
        values = () if params is None else _adapted(params)
        self._submit([(each, values) for each in parsed])
        return self

    def executemany(self, query: Any, params_seq: Iterable[Any]) -> None:
        parsed = _parsed(_text(query), extended=True)
        statements = [(each, _adapted(params)) for params in params_seq for each in parsed]
        if statements:
            self._submit(statements, is_many=True)

    def _submit(
        self, statements: list[tuple[Prepared | Refused, Any]], *, is_many: bool = False
    ) -> None:
        self.statements = statements
        self._results, self._at, self._next_row = [], 0, 0
        self._is_pending, self._is_many = True, is_many
        kinds = [each.kind for each, _ in statements]
        name = "COMMIT" if "COMMIT" in kinds else kinds[0] if kinds else "EMPTY"
        self._connection.submit(self, name)

    def answered(self, results: list[Result]) -> None:
        self._is_pending = False
        self._results = results

    @contextmanager
    def copy(self, statement: Any) -> Iterator[Copy]:
        """COPY FROM STDIN: the data goes to the server when the block ends."""
        copy = Copy()
        self._connection.begin_copy()
        yield copy
        parsed = _parsed(_text(statement), extended=True)
        self._submit([(each, copy.rows()) for each in parsed])

    @property
    def _result(self) -> Result | None:
        if self._is_pending:
            self._connection.sync()
        return self._results[self._at] if self._results else None

    @property
    def rowcount(self) -> int:
        """Of all its statements after executemany; -1 as long as it is not known."""
        if self._is_pending or not self._results:
            return -1
        if self._is_many:
            return sum(result.count for result in self._results)
        return self._results[self._at].count

    @property
    def description(self) -> list[str] | None:
        """Names of the columns; None where no rows are given back."""
        result = self._result
        return None if result is None or result.rows is None else list(result.names)

    @property
    def statusmessage(self) -> str | None:
        return self._results[self._at].status if self._results else None

    def nextset(self) -> bool | None:
        if self._at + 1 >= len(self._results):
            return None
        self._at += 1
        self._next_row = 0
        return True

    def fetchone(self) -> Any:
        rows = self._rows()
        if self._next_row >= len(rows):
            return None
        self._next_row += 1
        return rows[self._next_row - 1]

    def fetchall(self) -> list[Any]:
        rows = self._rows()[self._next_row :]
        self._next_row += len(rows)
        return list(rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def _rows(self) -> Sequence[Any]:
        result = self._result
        if result is None or result.rows is None:
            raise psycopg.ProgrammingError("the last operation didn't produce records")
        if self._as_dict:
            return [dict(zip(result.names, row, strict=True)) for row in result.rows]
        return result.rows


class Copy:
    """Takes COPY's text, as the engine writes it."""

    def __init__(self) -> None:
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data

    def rows(self) -> list[list[str | None]]:
        lines = self._data.decode().removesuffix("\n").split("\n") if self._data else []
        return [[_field(field) for field in line.split("\t")] for line in lines]


def _field(field: str) -> str | None:
    if field == "\\N":
        return None
    if "\\" not in field:
        return field
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), field)


def _text(query: Any) -> str:
    if isinstance(query, str):
        return query
    return query.as_string(None) if isinstance(query, Composable) else query.decode()


def _parsed(text: str, extended: bool) -> Sequence[Prepared | Refused]:
    """Errors of a text are the server's to tell."""
    try:
        parsed = prepared(text)
    except (psycopg.Error, UnknownStatement) as error:
        return [Refused(error)]
    if extended and len(parsed) > 1:
        return [
            Refused(errors.SyntaxError("cannot insert multiple commands into a prepared statement"))
        ]
    return parsed


def _adapted(params: Any) -> Any:
    """:raises psycopg.ProgrammingError: for a value that psycopg could not send."""
    if isinstance(params, Mapping):
        return {name: _value(value) for name, value in params.items()}
    return [_value(value) for value in params]


def _value(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        if "\x00" in value:
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        if not value.isascii():
            value.encode()
        return value
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        return [_value(each) for each in value]
    if isinstance(value, (str, int)):
        return value
    raise psycopg.ProgrammingError(f"cannot adapt type {kind.__name__!r}")
