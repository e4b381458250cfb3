"""UPDATE and DELETE: rows are locked, looked at again, and changed."""

from __future__ import annotations

from typing import Any

from processor.testing.postgres.execution import Execution, Result
from processor.testing.postgres.selecting import Join, Projection, Schema
from processor.testing.postgres.storing import changed, store
from processor.testing.postgres.syntax import Delete, Source, Update
from processor.testing.postgres.tables import CTID


class _Changing:
    """What UPDATE and DELETE share: each row that the join finds, locked, in its newest version."""

    def __init__(self, statement: Update | Delete, schema: Schema) -> None:
        self._name = statement.table
        self.shape = schema.shape(statement.table)
        target = Source(statement.table, statement.alias)
        self._join = Join(schema, [*statement.sources, target], statement.conditions)
        # RETURNING * would give the columns of all sources; the target's come first in Postgres.
        self.returning = Projection(statement.returning, self._join.scope)
        self.names = self.returning.names

    def _found(self, q: Execution) -> Any:
        """Each environment once for each row to be changed, which comes last in it."""
        table, test, transaction = q.table(self._name), self._join.test, q.transaction
        done = set()
        for e in self._join.environments(q):
            seen = e[-1]
            if seen[CTID] in done:
                continue
            newest = transaction.locked(table, seen)
            if newest is None:
                continue
            if newest is not seen:
                e = (*e[:-1], newest)
                if test is not None and not test(e, q):
                    continue
            done.add(seen[CTID])
            yield table, e

    def _result(self, tag: str, count: int, returned: list[Any]) -> Result:
        return Result(tag, count, self.names, returned if self.names else None)


class UpdatePlan(_Changing):
    def __init__(self, update: Update, schema: Schema) -> None:
        super().__init__(update, schema)
        self._changed = changed(self.shape, update.changes, self._join.scope, -1)
        keys = {name for unique in self.shape.uniques for name in unique.columns}
        keys |= {name for reference in self.shape.references for name in reference.columns}
        self._moves_keys = not keys.isdisjoint(name for name, _ in update.changes)

    def run(self, q: Execution) -> Result:
        returned: list[Any] = []
        count = 0
        for table, e in self._found(q):
            old = e[-1]
            row = self._changed(e, q)
            self.shape.check(row)
            if self._moves_keys:
                store(q.transaction, table, row, old)
            else:
                q.transaction.replace(table, row)
            count += 1
            if self.names:
                returned.append(self.returning.of((*e[:-1], row), q))
        return self._result("UPDATE", count, returned)


class DeletePlan(_Changing):
    def run(self, q: Execution) -> Result:
        returned: list[Any] = []
        count = 0
        for table, e in self._found(q):
            q.transaction.put(table, e[-1][CTID], None, e[-1])
            count += 1
            if self.names:
                returned.append(self.returning.of(e, q))
        return self._result("DELETE", count, returned)
