"""INSERT with what ON CONFLICT says, and COPY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import errors

from processor.testing.postgres.execution import Execution, Result
from processor.testing.postgres.expressions import Joined, Scope
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.locks import key_lock
from processor.testing.postgres.selecting import (
    Projection,
    Schema,
    SelectPlan,
    compile_subquery,
)
from processor.testing.postgres.storing import changed, columns_of, store
from processor.testing.postgres.syntax import Conflict, Copy, Expression, Insert, Select
from processor.testing.postgres.tables import CTID, Column, Shape, Table, Values
from processor.testing.postgres.transactions import Transaction


class InsertPlan:
    """INSERT with what ON CONFLICT says."""

    def __init__(self, insert: Insert, schema: Schema) -> None:
        self._name = insert.table
        self.shape = schema.shape(insert.table)
        given = columns_of(self.shape, insert.columns or self.shape.names)
        if not insert.is_overriding:
            _refuse_generated(given)
        self._filler = _Filler(self.shape, given)
        if isinstance(insert.source, Select):
            self._rows = SelectPlan(insert.source, schema).run
        else:
            self._rows = _Values(insert.source, schema).run
        scope = Scope([Joined(insert.alias, self.shape.names)])
        self.returning = Projection(insert.returning, scope)
        self.names = self.returning.names
        self._conflict = None
        if insert.conflict is not None:
            self._conflict = _OnConflict(insert.conflict, insert.alias, self.shape)

    def run(self, q: Execution) -> Result:
        table = q.table(self._name)
        returned = []
        count = 0
        touched: set[int] = set()
        for values in self._rows(q).rows or []:
            row = self._filler.row(values, table, q)
            stored = self._put(q, table, row, touched)
            if stored is not None:
                count += 1
                if self.names:
                    returned.append(self.returning.of((stored,), q))
        return Result("INSERT 0", count, self.names, returned if self.names else None)

    def _put(self, q: Execution, table: Table, row: Values, touched: set[int]) -> Values | None:
        if self._conflict is not None:
            place = self._conflict.place(q.transaction, table, row)
            if place is not None:
                return self._conflict.apply(q, table, place, row, touched)
        store(q.transaction, table, row, None)
        touched.add(row[CTID])
        return row


class _Values:
    """The rows of VALUES."""

    def __init__(self, rows: Sequence[Sequence[Expression]], schema: Schema) -> None:
        scope = Scope((), lambda query: compile_subquery(query, schema))
        self._rows = [
            scope.function(f"({''.join(scope.source(each) + ', ' for each in row)})")
            for row in rows
        ]

    def run(self, q: Execution) -> Result:
        return Result("VALUES", 0, (), [row((), q) for row in self._rows])


class CopyPlan:
    """COPY FROM STDIN: the parameters are the rows, as text."""

    names: tuple[str, ...] = ()

    def __init__(self, copy: Copy, schema: Schema) -> None:
        self._name = copy.table
        self.shape = schema.shape(copy.table)
        self._filler = _Filler(self.shape, columns_of(self.shape, copy.columns))

    def run(self, q: Execution) -> Result:
        table = q.table(self._name)
        for values in q.parameters:
            row = self._filler.row(values, table, q)
            store(q.transaction, table, row, None)
        return Result("COPY", len(q.parameters))


def _refuse_generated(given: Sequence[Column]) -> None:
    for column in given:
        if column.is_always:
            raise errors.GeneratedAlways(
                f'cannot insert a non-DEFAULT value into column "{column.name}"'
            )


class _Filler:
    """Makes rows of the columns that are given; the others get their defaults."""

    def __init__(self, shape: Shape, given: Sequence[Column]) -> None:
        self._shape = shape
        self._given = [(column.name, column.take) for column in given]
        names = {column.name for column in given}
        self._empty = dict.fromkeys(shape.names)
        self._defaults = [
            column
            for column in shape.columns
            if column.name not in names and (column.is_identity or column.default is not None)
        ]

    def row(self, values: Sequence[Any], table: Table, q: Execution) -> Values:
        """Checked, but for its keys.

        :raises psycopg.Error: for values that do not fit, see also :meth:`Shape.check`.
        """
        if len(values) > len(self._given):
            raise errors.SyntaxError("INSERT has more expressions than target columns")
        row: dict[str, Any] = self._empty.copy()
        for (name, take), value in zip(self._given, values, strict=False):
            row[name] = take(value)
        for column in self._defaults:
            row[column.name] = _default(column, table, q)
        row[CTID] = table.next_place()
        self._shape.check(row)
        return row


def _default(column: Column, table: Table, q: Execution) -> Any:
    if column.is_identity:
        return table.next_identity()
    return q.now() if column.default == "now()" else column.take(column.default)


class _OnConflict:
    def __init__(self, conflict: Conflict, alias: str, shape: Shape) -> None:
        self._arbiters = [
            (number, unique)
            for number, unique in enumerate(shape.uniques)
            if not unique.is_deferred
            and (not conflict.target or sorted(unique.columns) == sorted(conflict.target))
        ]
        if conflict.target and not self._arbiters:
            raise errors.InvalidColumnReference(
                "there is no unique or exclusion constraint matching the ON CONFLICT specification"
            )
        self._changed = None
        if conflict.changes is not None:
            if not conflict.target:
                raise UnknownStatement("ON CONFLICT DO UPDATE without its columns")
            scope = _ConflictScope([Joined(alias, shape.names), Joined("excluded", shape.names)])
            self._changed = changed(shape, conflict.changes, scope, 0)

    def place(self, transaction: Transaction, table: Table, row: Values) -> int | None:
        """Where the row is that is in the way.

        :raises Blocked: see :func:`store`.
        """
        for number, unique in self._arbiters:
            key = unique.key_of(row)
            if key is not None:
                place = transaction.place_of(table, number, key)
                if place is not None:
                    return place
                transaction.wait_for(key_lock(table, unique, key))
        return None

    def apply(
        self, q: Execution, table: Table, place: int, excluded: Values, touched: set[int]
    ) -> Values | None:
        """The changed row; None when nothing is to be done."""
        if self._changed is None:
            self._require_seen(q, table, place)
            return None
        if place in touched:
            raise errors.CardinalityViolation(
                "ON CONFLICT DO UPDATE command cannot affect row a second time"
            )
        transaction = q.transaction
        seen = self._require_seen(q, table, place)
        old = transaction.locked(table, seen)
        assert old is not None, "a row that is deleted has no key"
        row: Values = self._changed((old, excluded), q)
        table.shape.check(row)
        store(transaction, table, row, old)
        touched.add(place)
        return row

    def _require_seen(self, q: Execution, table: Table, place: int) -> Values:
        """The row that is in the way.

        :raises psycopg.errors.SerializationFailure: when the transaction's snapshot lacks it.
        """
        newest = seen = q.transaction.newest(table, place)
        if q.transaction.is_snapshot:
            rows = q.rows(table.shape.name)
            seen = next((each for each in rows if each[CTID] == place), None)
        if seen is None or seen is not newest:
            raise errors.SerializationFailure("could not serialize access due to concurrent update")
        return seen


class _ConflictScope(Scope):
    """A column without a qualifier is the table's."""

    def place(self, name: Any) -> int:
        return super().place(name) if name.qualifier else 0
