"""The tables that a test's handlers write, and whether the database in memory can hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from sqlalchemy import Column, Computed, FetchedValue, Identity, Index, MetaData, Table
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import NoReferenceError

from processor.testing.postgres import UnknownStatement
from processor.testing.postgres.tables import DIALECT, default_text, shape_of
from processor.testing.postgres.values import taker
from processor.testing.results import PipelineTestError

REAL = "run this test on a real Postgres, with the fixture running_pipeline (docs/testing.md)"


def tables_of(given: MetaData | Iterable[Table] | None) -> list[Table]:
    """In the order of their foreign keys where they are known by their metadata.

    :raises PipelineTestError: for a table that cannot be held in memory.
    """
    tables = given.sorted_tables if isinstance(given, MetaData) else list(given or ())
    for table in tables:
        _check(table)
        _check_references(table, tables)
    return tables


def _check(table: Table) -> None:
    for column in table.columns:
        _check_column(table, column)
    for index in table.indexes:
        if index.unique and not _is_plain(index):
            raise _refused(table, f"the unique index {index.name!r}, partial or of expressions")
    for constraint in table.constraints:
        if isinstance(constraint, ExcludeConstraint):
            raise _refused(table, f"the exclusion constraint {constraint.name!r}")
    try:
        _ = shape_of(table).tests
    except (UnknownStatement, psycopg.Error) as error:
        raise _refused(table, f"its CHECK constraint: {error}") from None


def _check_references(table: Table, tables: list[Table]) -> None:
    for constraint in table.foreign_key_constraints:
        try:
            other = constraint.referred_table
        except NoReferenceError as error:
            raise PipelineTestError(f"table {table.fullname!r}: {error}") from None
        if other not in tables:
            raise PipelineTestError(
                f"table {table.fullname!r} refers to {other.fullname!r}, which is not among the"
                " tables; name it as well"
            )


def _check_column(table: Table, column: Column[Any]) -> None:
    default = column.server_default
    try:
        take = taker(column.type.compile(dialect=DIALECT))
        if default is not None and _is_value(default):
            take(default_text(default))
    except UnknownStatement as error:
        raise _refused(table, f"{error} of column {column.name!r}") from None
    except psycopg.Error:
        raise _refused(table, f"the default of column {column.name!r}") from None
    if isinstance(default, Computed):
        raise _refused(table, f"the computed column {column.name!r}")


def _is_value(default: FetchedValue) -> bool:
    """Whether it is to be a literal of the column's type."""
    return not isinstance(default, (Identity, Computed)) and default_text(default) != "now()"


def _is_plain(index: Index) -> bool:
    where = index.dialect_options["postgresql"]["where"]
    return where is None and len(list(index.expressions)) == len(list(index.columns))


def _refused(table: Table, what: str) -> PipelineTestError:
    return PipelineTestError(
        f"table {table.fullname!r}: the in-memory database does not know {what}; {REAL}"
    )
