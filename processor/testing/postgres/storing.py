"""What INSERT, UPDATE and COPY share: columns by name, SET, and unique keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import errors

from processor.testing.postgres.expressions import Compiled, Scope
from processor.testing.postgres.locks import key_lock, row_lock
from processor.testing.postgres.syntax import Expression
from processor.testing.postgres.tables import CTID, Column, Shape, Table, Unique, Values
from processor.testing.postgres.transactions import Transaction


def columns_of(shape: Shape, names: Sequence[str]) -> list[Column]:
    for name in names:
        if name not in shape.by_name:
            raise errors.UndefinedColumn(
                f'column "{name}" of relation "{shape.name}" does not exist'
            )
    return [shape.by_name[name] for name in names]


def changed(
    shape: Shape, changes: Sequence[tuple[str, Expression]], scope: Scope, at: int
) -> Compiled:
    """The row of one of the sources as SET makes it."""
    columns = columns_of(shape, [name for name, _ in changes])
    sources = [
        f"{column.name!r}: {scope.constant(column.take)}({scope.source(value)})"
        for column, (_, value) in zip(columns, changes, strict=True)
    ]
    return scope.function(f"{{**e[{at}], {', '.join(sources)}}}")


def store(transaction: Transaction, table: Table, row: Values, old: Values | None) -> None:
    """A row's new version, or a new row, once each of its keys is known to be free.

    :raises Blocked: while another transaction inserts or deletes such a key.
    :raises psycopg.errors.UniqueViolation: when there is such a row.
    :raises psycopg.errors.ForeignKeyViolation: when one that it refers to is missing.
    """
    if table.shape.references:
        _check_references(transaction, table, row)
    for number, unique in enumerate(table.shape.uniques):
        key = unique.key_of(row)
        if key is None or (old is not None and unique.key_of(old) == key):
            continue
        if unique.is_deferred:
            transaction.deferred.append((table, unique, row[CTID]))
            continue
        if transaction.place_of(table, number, key) is not None:
            raise violation(table, unique, key)
        transaction.lock(key_lock(table, unique, key))
    if old is None:
        transaction.lock(row_lock(table, row[CTID]))
    transaction.put(table, row[CTID], row, old)


def _check_references(transaction: Transaction, table: Table, row: Values) -> None:
    for reference, parent, number in table.parents():
        key = reference.key_in(row, parent.shape.uniques[number])
        if key is not None and transaction.place_of(parent, number, key) is None:
            raise errors.ForeignKeyViolation(
                f'insert or update on table "{table.shape.name}" violates foreign key constraint:'
                f" ({', '.join(reference.columns)})=({', '.join(map(str, key))})"
                f' is not present in table "{parent.shape.name}"'
            )


def violation(table: Table, unique: Unique, key: tuple[Any, ...]) -> errors.UniqueViolation:
    return errors.UniqueViolation(
        f"duplicate key value violates unique constraint of {table.shape.name}"
        f" ({', '.join(unique.columns)})=({', '.join(map(str, key))})"
    )
