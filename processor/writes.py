"""Buffered writes: rows to copy and rows to merge, kept until the flush. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Table
from sqlalchemy.schema import sort_tables

from processor.errors import PipelineError

Operation = Literal["add", "max", "min", "set"]


@dataclass(frozen=True, slots=True)
class CopyWrite:
    """Rows of one table and one set of columns, in the order of the calls."""

    table: Table
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class UpsertWrite:
    """Rows of one table, one set of columns and operations, sorted by key, no key twice."""

    table: Table
    key: tuple[str, ...]
    operations: tuple[tuple[str, Operation], ...]
    rows: list[tuple[Any, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.key, *(column for column, _ in self.operations))


@dataclass(slots=True)
class _Merged:
    values: dict[str, Any]
    operations: dict[str, Operation]


@dataclass(slots=True)
class _TableBuffer:
    inserts: dict[tuple[str, ...], list[tuple[Any, ...]]] = field(default_factory=dict)
    rounds: list[dict[tuple[Any, ...], _Merged]] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)


class WriteBuffer:
    """What handlers asked to write, merged as it comes in."""

    def __init__(self) -> None:
        self._tables: dict[Table, _TableBuffer] = {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    def clear(self) -> None:
        self._tables.clear()

    def insert(self, table: Table, row: Mapping[str, Any]) -> None:
        shape = insert_shape(table, tuple(row))
        values = tuple(row.values())
        if shape.defaults:
            values += tuple(_default_value(table, name) for name in shape.defaults)
        self._of(table).inserts.setdefault(shape.columns, []).append(values)

    def upsert(
        self,
        table: Table,
        row: Mapping[str, Any],
        *,
        key: tuple[str, ...],
        operations: Mapping[str, Operation],
    ) -> None:
        """Merge one row into what is buffered for its key, keeping the order of the calls."""
        identity = tuple(row[name] for name in key)
        values = {name: row[name] for name in operations}
        buffer = self._of(table)
        for index in range(len(buffer.rounds) - 1, -1, -1):
            merged = buffer.rounds[index].get(identity) if buffer.keys[index] == key else None
            if merged is not None:
                if _merge(merged, values, operations):
                    return
                break
        else:
            index = -1
        # A key that is new, or that cannot be merged where it stands, goes one round further on.
        for position in range(index + 1, len(buffer.rounds)):
            if buffer.keys[position] == key:
                buffer.rounds[position][identity] = _Merged(values, dict(operations))
                return
        buffer.keys.append(key)
        buffer.rounds.append({identity: _Merged(values, dict(operations))})

    def drain(self) -> Iterator[CopyWrite | UpsertWrite]:
        """All writes in foreign-key order, then forget them."""
        tables, self._tables = self._tables, {}
        for table in in_foreign_key_order(frozenset(tables)):
            buffer = tables[table]
            for columns, rows in buffer.inserts.items():
                yield CopyWrite(table, columns, rows)
            for key, merged in zip(buffer.keys, buffer.rounds, strict=True):
                yield from _upserts(table, key, merged)

    def _of(self, table: Table) -> _TableBuffer:
        buffer = self._tables.get(table)
        if buffer is None:
            buffer = self._tables[table] = _TableBuffer()
        return buffer


def _merge(
    merged: _Merged, values: Mapping[str, Any], operations: Mapping[str, Operation]
) -> bool:
    """Fold a later call into an earlier one; False when no single statement says both."""
    known = merged.operations
    for column, operation in operations.items():
        before = known.get(column)
        if before is not None and operation not in ("set", before) and before != "set":
            return False
    for column, operation in operations.items():
        value = values[column]
        if column not in known or operation == "set":
            known[column] = operation
            merged.values[column] = value
        else:
            merged.values[column] = fold(operation, merged.values[column], value)
    return True


def fold(operation: Operation, old: Any, new: Any) -> Any:
    """What the database would hold after both calls; NULL counts as 0 in ``add``."""
    if operation == "set":
        return new
    if operation == "add":
        return (old or 0) + (new or 0)
    if old is None or new is None:
        return new if old is None else old
    return max(old, new) if operation == "max" else min(old, new)


def _upserts(
    table: Table, key: tuple[str, ...], rows: Mapping[tuple[Any, ...], _Merged]
) -> Iterator[UpsertWrite]:
    groups: dict[tuple[tuple[str, Operation], ...], list[tuple[Any, ...]]] = {}
    for identity in _in_key_order(rows):
        merged = rows[identity]
        shape = tuple(sorted(merged.operations.items()))
        values = tuple(merged.values[column] for column, _ in shape)
        groups.setdefault(shape, []).append(identity + values)
    for shape in sorted(groups):
        yield UpsertWrite(table, key, shape, groups[shape])


def _in_key_order(keys: Iterable[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Sorted, so that two workers lock rows in one order; by text where values do not compare."""
    try:
        return sorted(keys)
    except TypeError:
        return sorted(keys, key=repr)


@lru_cache(maxsize=256)
def in_foreign_key_order(tables: frozenset[Table]) -> tuple[Table, ...]:
    """Parents before children; by name where no foreign key decides."""
    ordered = sort_tables(sorted(tables, key=lambda table: table.fullname))
    return tuple(ordered)


@dataclass(frozen=True, slots=True)
class InsertShape:
    columns: tuple[str, ...]
    defaults: tuple[str, ...]


@lru_cache(maxsize=1024)
def insert_shape(table: Table, given: tuple[str, ...]) -> InsertShape:
    """The columns of an insert: those given, then those with a default made in Python."""
    check_columns(table, given)
    defaults = tuple(
        column.name
        for column in table.columns
        if column.name not in given
        and column.default is not None
        and (column.default.is_scalar or column.default.is_callable)
    )
    return InsertShape(given + defaults, defaults)


def check_columns(table: Table, given: Iterable[str]) -> None:
    """:raises PipelineError: for a column that the table does not have."""
    for name in given:
        if name not in table.columns:
            raise PipelineError(f"table {table.fullname} has no column {name!r}")


def _default_value(table: Table, name: str) -> Any:
    default = table.columns[name].default
    argument = getattr(default, "arg", None)
    return argument(None) if callable(argument) else argument
