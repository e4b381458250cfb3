"""Buffered writes: rows to copy and rows to merge, kept until the flush. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.schema import sort_tables

from processor.errors import PipelineError

Operation = Literal["add", "max", "min", "set"]

NUMERIC_DIGITS = 131_072 + 16_383
"""What Postgres' ``numeric`` can hold, so that sums made here are not rounded either."""
_exactly = Context(prec=NUMERIC_DIGITS, traps=[])

_ADDED_ALIKE = frozenset({int, float, Decimal, timedelta})
_ORDERED_ALIKE = frozenset({int, float, Decimal, date, datetime, timedelta, UUID, bytes})
"""Types of which Python and Postgres say the same. Text is not: it has a collation there."""


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
    operations: Mapping[str, Operation]


@dataclass(slots=True)
class _Round:
    """Upserts by one set of key columns, none of which depends on another one."""

    key: tuple[str, ...]
    rows: dict[tuple[Any, ...], _Merged] = field(default_factory=dict)


class _Plan:
    """How rows of one kind of upsert are taken apart."""

    __slots__ = "identity", "key", "operations", "sums"

    def __init__(self, key: tuple[str, ...], operations: Mapping[str, Operation]) -> None:
        self.key = key
        self.operations = operations
        self.identity = _all_of(key)
        self.sums = tuple(operations) if set(operations.values()) == {"add"} else ()
        """Its columns, if all of them are added up."""


def _all_of(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    name = names[0]
    return lambda row: (row[name],)


@dataclass(slots=True)
class _TableBuffer:
    inserts: dict[tuple[str, ...], list[tuple[Any, ...]]] = field(default_factory=dict)
    """Rows by the table's columns that they fill."""
    shapes: dict[tuple[str, ...], tuple[InsertShape, list[tuple[Any, ...]]]] = field(
        default_factory=dict
    )
    """By the names that a row came with; the rows are those of ``inserts``."""
    rounds: list[_Round] = field(default_factory=list)
    plans: dict[int, _Plan] = field(default_factory=dict)
    """By the identity of their operations, which they keep alive."""


class WriteBuffer:
    """What handlers asked to write, merged as it comes in."""

    def __init__(self) -> None:
        self._tables: dict[Table, _TableBuffer] = {}

    def __bool__(self) -> bool:
        return bool(self._tables)

    @property
    def inserts(self) -> int:
        """How many rows are to be inserted."""
        return sum(len(rows) for table in self._tables.values() for rows in table.inserts.values())

    def clear(self) -> None:
        self._tables.clear()

    def insert(self, table: Table, row: Mapping[str, Any]) -> None:
        buffer, names = self._tables.get(table) or self._of(table), tuple(row)
        known = buffer.shapes.get(names)
        if known is None:
            shape = insert_shape(table, names)
            known = shape, buffer.inserts.setdefault(shape.columns, [])
            buffer.shapes[names] = known
        shape, rows = known
        values = tuple(row.values())
        if shape.defaults:
            values += tuple([_default_value(table, name) for name in shape.defaults])
        rows.append(values)

    def upsert(
        self,
        table: Table,
        row: Mapping[str, Any],
        *,
        key: tuple[str, ...],
        operations: Mapping[str, Operation],
    ) -> None:
        """Merge one row into what is buffered for its key, keeping the order of the calls."""
        buffer = self._tables.get(table) or self._of(table)
        plan = buffer.plans.get(id(operations))
        if plan is None or plan.key != key:
            plan = buffer.plans[id(operations)] = _Plan(key, operations)
        identity, rounds = plan.identity(row), buffer.rounds
        # Rounds by other key columns may change the same row: never reach back past them.
        place = len(rounds)
        while place and rounds[place - 1].key == key:
            merged = rounds[place - 1].rows.get(identity)
            if merged is not None:
                if plan.sums and merged.operations is operations:
                    # As _merge would, without a copy of what is asked for most.
                    values = merged.values
                    for name in plan.sums:
                        if type(values[name]) is not int or type(row[name]) is not int:
                            break
                    else:
                        for name in plan.sums:
                            values[name] += row[name]
                        return
                if _merge(table, merged, row, operations):
                    return
                break
            place -= 1
        if place == len(rounds):
            rounds.append(_Round(key))
        rounds[place].rows[identity] = _Merged({name: row[name] for name in operations}, operations)

    def drain(self) -> Iterator[CopyWrite | UpsertWrite]:
        """All writes in foreign-key order, then forget them."""
        tables, self._tables = self._tables, {}
        for table in in_foreign_key_order(frozenset(tables)):
            buffer = tables[table]
            for columns, rows in buffer.inserts.items():
                yield CopyWrite(table, columns, rows)
            for each in buffer.rounds:
                yield from _upserts(table, each.key, each.rows)

    def _of(self, table: Table) -> _TableBuffer:
        return self._tables.setdefault(table, _TableBuffer())


class Journal:
    """In place of a :class:`WriteBuffer`: what one message writes is kept apart until it is done.

    Then it goes into the buffer of all, or is dropped and leaves nothing.
    """

    def __init__(self) -> None:
        self.all = WriteBuffer()
        self.inserts = 0
        """How many rows of those that are done are to be inserted."""
        self.kept: Sequence[tuple[Any, ...]] = ()
        """What the last message that is done has asked for; :meth:`repeat` takes it."""
        self._calls: list[tuple[Any, ...]] = []

    def __bool__(self) -> bool:
        return bool(self._calls) or bool(self.all)

    def insert(self, table: Table, row: Mapping[str, Any]) -> None:
        insert_shape(table, tuple(row))
        self._calls.append((table, dict(row)))

    def upsert(
        self,
        table: Table,
        row: Mapping[str, Any],
        *,
        key: tuple[str, ...],
        operations: Mapping[str, Operation],
    ) -> None:
        self._calls.append((table, dict(row), key, operations))

    def keep(self) -> None:
        """The message is done."""
        calls, self._calls = self._calls, []
        self.repeat(calls)

    def repeat(self, calls: Sequence[tuple[Any, ...]]) -> None:
        """The message is done as it was before, by another journal."""
        self.kept = calls
        for table, row, *rest in calls:
            if rest:
                self.all.upsert(table, row, key=rest[0], operations=rest[1])
            else:
                self.all.insert(table, row)
                self.inserts += 1

    def drop(self) -> None:
        """The message has failed."""
        self._calls.clear()

    def drain(self) -> Iterator[CopyWrite | UpsertWrite]:
        self.keep()
        self.inserts = 0
        return self.all.drain()


def _merge(
    table: Table, merged: _Merged, row: Mapping[str, Any], operations: Mapping[str, Operation]
) -> bool:
    """Fold a later call into an earlier one; False when no single statement says both."""
    both: Mapping[str, Operation] | None = merged.operations
    if operations is not both:
        both = _both(table, merged.operations, operations)
    if both is None:
        return False
    old = merged.values
    folded = {}
    try:
        for name, how in operations.items():
            before, new = old.get(name), row[name]
            if how == "add" and type(before) is int and type(new) is int:
                folded[name] = before + new
            else:
                folded[name] = fold(how, before, new)
    except TypeError:
        return False
    old |= folded
    merged.operations = both
    return True


def _both(
    table: Table, earlier: Mapping[str, Operation], later: Mapping[str, Operation]
) -> Mapping[str, Operation] | None:
    """What one statement must do for two calls; None when none can."""
    both = dict(earlier)
    for column, operation in later.items():
        before = earlier.get(column)
        if before is None and _counts_as_null(table, column, operation):
            both[column] = operation
        elif operation == "set":
            both[column] = "set"
        elif before not in ("set", operation):
            return None
    return both


@lru_cache(maxsize=1024)
def _counts_as_null(table: Table, column: str, operation: Operation) -> bool:
    """Whether an operation finds a new row's column, which no call has given yet, like NULL."""
    default = table.columns[column].server_default
    if default is None or operation == "set":
        return True
    return operation == "add" and str(getattr(default, "arg", "")) == "0"


def fold(operation: Operation, old: Any, new: Any) -> Any:
    """What the database would hold after both calls; NULL counts as 0 in ``add``.

    :raises TypeError: for values of which only the database knows it.
    """
    if operation == "set":
        return new
    if operation == "add":
        return _sum(0 if old is None else old, 0 if new is None else new)
    if old is None or new is None:
        return new if old is None else old
    if (
        type(old) not in _ORDERED_ALIKE
        or type(new) not in _ORDERED_ALIKE
        or old != old
        or new != new
    ):
        raise TypeError("left to the database")
    return max(old, new) if operation == "max" else min(old, new)


def _sum(old: Any, new: Any) -> Any:
    kinds = {type(old), type(new)}
    if not kinds <= _ADDED_ALIKE:
        raise TypeError("left to the database")
    return _exactly.add(old, new) if Decimal in kinds else old + new


def _upserts(
    table: Table, key: tuple[str, ...], rows: Mapping[tuple[Any, ...], _Merged]
) -> Iterator[UpsertWrite]:
    groups: dict[tuple[tuple[str, Operation], ...], list[tuple[Any, ...]]] = {}
    shapes: dict[int, tuple[list[str], list[tuple[Any, ...]]]] = {}
    for identity in _in_key_order(rows):
        merged = rows[identity]
        known = shapes.get(id(merged.operations))
        if known is None:
            shape = tuple(sorted(merged.operations.items()))
            known = [column for column, _ in shape], groups.setdefault(shape, [])
            shapes[id(merged.operations)] = known
        columns, found = known
        found.append(identity + tuple([merged.values[column] for column in columns]))
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
