"""Tables: their shape, their committed rows and the indexes of their unique keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy
from psycopg import errors
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from processor.testing.postgres.values import Taker, taker

CTID = "ctid"
"""The row's place: the same for all of its versions, unlike Postgres'."""
Values = Mapping[str, Any]
_QUOTED = re.compile(r"'((?:[^']|'')*)'(?:::[\w ]+)?")
DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class Column:
    name: str
    take: Taker
    required: bool = False
    default: str | None = None
    """As text that the type takes; ``now()`` is the transaction's time."""
    is_identity: bool = False
    is_always: bool = False
    """An identity column that takes no value from INSERT, unless it overrides that."""


@dataclass(frozen=True, eq=False)
class Unique:
    """A primary key, a unique constraint or a unique index."""

    columns: tuple[str, ...]
    is_deferred: bool = False

    @cached_property
    def whole_key_of(self) -> Callable[[Values], tuple[Any, ...]]:
        parts = "".join(f"row[{name!r}], " for name in self.columns)
        key_of: Callable[[Values], tuple[Any, ...]] = eval(f"lambda row: ({parts})")  # noqa: S307
        return key_of

    def key_of(self, row: Values) -> tuple[Any, ...] | None:
        """None for a row that the constraint does not look at: a part of its key is NULL."""
        key = self.whole_key_of(row)
        return None if None in key else key


@dataclass(frozen=True, eq=False)
class Reference:
    """A foreign key: for each of its columns the one of the other table."""

    table: str
    columns: Mapping[str, str]

    def key_in(self, row: Values, unique: Unique) -> tuple[Any, ...] | None:
        """The other table's key that a row asks for; None where a part of it is NULL."""
        given = {theirs: row[ours] for ours, theirs in self.columns.items()}
        key = tuple(given[name] for name in unique.columns)
        return None if None in key else key


@dataclass(frozen=True, eq=False)
class Shape:
    """What a table may hold."""

    name: str
    """With its schema, unless that is ``public``."""
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    """Name and expression of each."""
    references: tuple[Reference, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)

    @cached_property
    def tests(self) -> list[tuple[str, Callable[[Values], bool | None]]]:
        """The checks, compiled; a row passes unless one of them is false."""
        from processor.testing.postgres.expressions import compiled_check

        return [(name, compiled_check(self, text)) for name, text in self.checks]

    def check(self, row: Values) -> None:
        """:raises psycopg.IntegrityError: for a NULL or a value that is not allowed."""
        for name in self.required:
            if row[name] is None:
                raise errors.NotNullViolation(
                    f'null value in column "{name}" of relation "{self.name}" violates'
                    " not-null constraint"
                )
        for name, test in self.tests:
            if test(row) is False:
                raise errors.CheckViolation(
                    f'new row for relation "{self.name}" violates check constraint "{name}"'
                )


@dataclass(eq=False)
class Table:
    """Committed rows by place; a row is never changed, only replaced."""

    shape: Shape
    rows: dict[int, Values] = field(default_factory=dict)
    last_identity: int = 0
    last_place: int = 0
    """Neither goes back when a transaction does."""
    neighbours: Mapping[str, Table] = field(default_factory=dict)
    """The tables beside it, by name."""
    indexes: list[dict[tuple[Any, ...], int]] = field(init=False)
    """Of each unique constraint: the place of each committed key."""

    def __post_init__(self) -> None:
        self.indexes = [
            {key: place for place, row in self.rows.items() if (key := unique.key_of(row))}
            for unique in self.shape.uniques
        ]

    def parents(self) -> Iterable[tuple[Reference, Table, int]]:
        """Each of its foreign keys, the table there, and the number of the constraint there."""
        for reference in self.shape.references:
            table = self.neighbours.get(reference.table)
            for number, unique in enumerate(table.shape.uniques if table else ()):
                if table and sorted(unique.columns) == sorted(reference.columns.values()):
                    yield reference, table, number
                    break

    def next_identity(self) -> int:
        self.last_identity += 1
        return self.last_identity

    def next_place(self) -> int:
        self.last_place += 1
        return self.last_place

    def copy(self) -> Table:
        """Of what is committed."""
        return Table(self.shape, dict(self.rows), self.last_identity, self.last_place)

    def put(self, place: int, row: Values | None) -> None:
        """Commit a row's new version; None deletes it. Its keys are told by :meth:`index`."""
        if row is None:
            self.rows.pop(place, None)
        else:
            self.rows[place] = row

    def index(self, number: int, key: tuple[Any, ...], place: int | None) -> None:
        """Commit where a key of a unique constraint is; None when it is free."""
        if place is None:
            self.indexes[number].pop(key, None)
        else:
            self.indexes[number][key] = place


_shapes: WeakKeyDictionary[sqlalchemy.Table, Shape] = WeakKeyDictionary()


def shape_of(table: sqlalchemy.Table) -> Shape:
    """Of a table that SQLAlchemy describes; made once, so that statements compiled for it serve
    every server.
    """
    if table not in _shapes:
        name = table.fullname.removeprefix("public.")
        columns = tuple(_column(column) for column in table.columns)
        _shapes[table] = Shape(
            name,
            columns,
            tuple(_uniques(table)),
            tuple(_checks(table)),
            tuple(_references(table)),
        )
    return _shapes[table]


def _column(column: sqlalchemy.Column[Any]) -> Column:
    kind = column.type.compile(dialect=DIALECT)
    default = column.server_default
    generated = isinstance(default, sqlalchemy.Identity) or (
        column.table.autoincrement_column is column and default is None
    )
    text = None if generated or default is None else default_text(default)
    required = not column.nullable
    always = isinstance(default, sqlalchemy.Identity) and bool(default.always)
    return Column(column.name, taker(kind), required, text, generated, always)


def default_text(default: sqlalchemy.schema.FetchedValue) -> str:
    """What stands behind DEFAULT, without what makes SQL of a literal."""
    given = getattr(default, "arg", "")
    if isinstance(given, str):
        return given
    text = str(given)
    if text.lower() in ("now()", "current_timestamp"):
        return "now()"
    quoted = _QUOTED.fullmatch(text)
    return quoted[1].replace("''", "'") if quoted else text


def _uniques(table: sqlalchemy.Table) -> Iterable[Unique]:
    keys = tuple(column.name for column in table.primary_key.columns)
    if keys:
        yield Unique(keys)
    for constraint in sorted(table.constraints, key=lambda each: str(each.name)):
        if isinstance(constraint, sqlalchemy.UniqueConstraint):
            names = tuple(column.name for column in constraint.columns)
            yield Unique(names, constraint.initially == "DEFERRED")
    for column in table.columns:
        if column.unique and not any(
            isinstance(each, sqlalchemy.UniqueConstraint) and list(each.columns) == [column]
            for each in table.constraints
        ):
            yield Unique((column.name,))
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        if index.unique and not any(column.unique for column in index.columns):
            yield Unique(tuple(column.name for column in index.columns))


def _checks(table: sqlalchemy.Table) -> Iterable[tuple[str, str]]:
    for constraint in sorted(table.constraints, key=lambda each: str(each.name)):
        if isinstance(constraint, sqlalchemy.CheckConstraint):
            yield str(constraint.name), str(constraint.sqltext)


def _references(table: sqlalchemy.Table) -> Iterable[Reference]:
    """Those to other tables that are checked at each statement."""
    for constraint in sorted(table.foreign_key_constraints, key=lambda each: str(each.name)):
        if constraint.initially != "DEFERRED" and constraint.referred_table is not table:
            columns = {each.parent.name: each.column.name for each in constraint.elements}
            yield Reference(constraint.referred_table.fullname.removeprefix("public."), columns)
