"""FROM, WHERE, ORDER BY and FOR UPDATE as plans that run over a statement's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from psycopg import errors

from processor.testing.postgres.execution import Execution, Result
from processor.testing.postgres.expressions import Compiled, Joined, Scope
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.locks import Blocked
from processor.testing.postgres.syntax import (
    Call,
    Expression,
    Name,
    Select,
    Source,
    Star,
)
from processor.testing.postgres.tables import Shape

Rows = Callable[[Execution], Iterable[Any]]
Environment = tuple[Any, ...]
"""A row of each source that is joined so far."""
CATALOGS = {
    "pg_control_system": ("system_identifier",),
    "pg_locks": ("locktype", "granted", "transactionid", "pid"),
    "pg_stat_activity": ("pid", "application_name", "datname", "state"),
}
Item = tuple[Expression, str | None]


@dataclass
class Schema:
    """What names of tables mean to one statement; ``uses`` gathers those that it asked for."""

    shapes: Mapping[str, Shape]
    results: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of the queries named by WITH."""
    uses: dict[str, Shape] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """:raises psycopg.errors.UndefinedTable: as it says."""
        if name not in self.shapes:
            raise errors.UndefinedTable(f'relation "{name}" does not exist')
        self.uses[name] = self.shapes[name]
        return self.shapes[name]


class Join:
    """An inner join of sources; each condition is asked as soon as its columns are there."""

    def __init__(
        self,
        schema: Schema,
        sources: Sequence[Source],
        conditions: Sequence[Expression],
        around: Scope | None = None,
    ) -> None:
        """:param around: of the query that it stands in, if it may name that one's columns."""
        self.joined: list[Joined] = list(around.joined) if around else []
        self.rows: list[Rows] = []
        for source in sources:
            self._add(schema, source)
        first = len(self.joined) - len(sources)
        self.scope = Scope(
            self.joined,
            lambda query: compile_subquery(query, schema),
            around=first,
            exists=lambda query, scope: compile_exists(query, schema, scope),
        )
        self.test = self._test(conditions)
        """All conditions."""
        levels: list[list[Expression]] = [[] for _ in range(max(len(sources), 1))]
        for condition in conditions:
            levels[max(self.scope.needs(condition) - 1 - first, 0)].append(condition)
        self._tests = [self._test(level) for level in levels]

    def _test(self, conditions: Sequence[Expression]) -> Compiled | None:
        if not conditions:
            return None
        return self.scope.function(" and ".join(self.scope.source(each) for each in conditions))

    def _add(self, schema: Schema, source: Source) -> None:
        name = source.name
        if source.arguments is not None:
            self._add_function(source, source.arguments)
        elif name in schema.results:
            self.joined.append(Joined(source.alias, schema.results[name]))
            self.rows.append(lambda q: q.results[name])
        elif name in CATALOGS:
            self.joined.append(Joined(source.alias, CATALOGS[name]))
            self.rows.append(lambda q: q.catalog(name))
        else:
            self.joined.append(Joined(source.alias, schema.shape(name).names, name))
            self.rows.append(lambda q: q.rows(name))

    def _add_function(self, source: Source, arguments: Sequence[Expression]) -> None:
        name = source.name
        if name == "unnest":
            columns = source.columns or tuple(f"unnest{n}" for n in range(len(arguments)))
            if len(columns) == 1 and not source.columns:
                columns = (source.alias,)
            arrays = [Scope().compile(argument) for argument in arguments]
            self.rows.append(lambda q: _unnested(columns, [array((), q) for array in arrays]))
        elif name in CATALOGS and not arguments:
            columns = CATALOGS[name]
            self.rows.append(lambda q: q.catalog(name))
        else:
            raise UnknownStatement(f"the function {name} in FROM")
        self.joined.append(Joined(source.alias, columns))

    def environments(self, q: Execution, around: Environment = ()) -> list[Environment]:
        found: list[Environment] = [around]
        if not self.rows:
            test = self._tests[0]
            return [e for e in found if test is None or test(e, q)]
        for rows, test in zip(self.rows, self._tests, strict=True):
            more = rows(q)
            if test is None:
                found = [(*e, row) for e in found for row in more]
            else:
                found = [n for e in found for row in more if test(n := (*e, row), q)]
        return found


def _unnested(columns: Sequence[str], arrays: Sequence[Any]) -> list[dict[str, Any]]:
    given = [() if array is None else array for array in arrays]
    return [dict(zip(columns, values, strict=True)) for values in zip_longest(*given)]


class Projection:
    """The columns of SELECT or RETURNING."""

    def __init__(self, items: Sequence[Item], scope: Scope) -> None:
        names: list[str] = []
        sources: list[str] = []
        for expression, alias in items:
            if isinstance(expression, Star):
                for at, joined in enumerate(scope.joined):
                    names += joined.columns
                    sources += [f"e[{at}][{column!r}]" for column in joined.columns]
            else:
                names.append(alias or _name_of(expression))
                sources.append(scope.source(expression))
        self.names = tuple(names)
        self.of = scope.function(f"({''.join(source + ', ' for source in sources)})")


def _name_of(expression: Expression) -> str:
    if isinstance(expression, Name):
        return expression.column
    return expression.function if isinstance(expression, Call) else "?column?"


class SelectPlan:
    """A query; with FOR UPDATE it locks its rows in the order in which it returns them."""

    tag = "SELECT"

    def __init__(self, select: Select, schema: Schema) -> None:
        self._select = select
        self._join = Join(schema, select.sources, select.conditions)
        scope = self._join.scope
        self._aggregates = [scope.aggregate(expression) for expression, _ in select.items]
        if any(self._aggregates):
            if not all(self._aggregates):
                raise UnknownStatement("aggregates beside columns")
            self.names = tuple(alias or _name_of(each) for each, alias in select.items)
        else:
            self._projection = Projection(select.items, scope)
            self.names = self._projection.names
        self._order = [(scope.compile(each), down) for each, down in select.order]
        self._limit = None if select.limit is None else scope.compile(select.limit)
        self._locked = self._locked_tables() if select.locks else []

    def _locked_tables(self) -> list[tuple[int, str]]:
        wanted = self._select.lock_aliases
        return [
            (at, each.table)
            for at, each in enumerate(self._join.joined)
            if each.table is not None and (not wanted or each.alias in wanted)
        ]

    def run(self, q: Execution) -> Result:
        found = self._join.environments(q)
        for key, down in reversed(self._order):
            keyed = [(((value := key(e, q)) is None, value), e) for e in found]
            keyed.sort(key=itemgetter(0), reverse=down)
            found = [e for _, e in keyed]
        if self._locked:
            found = [e for each in found if (e := self._lock(each, q)) is not None]
        if self._limit is not None:
            found = found[: self._limit((), q)]
        if any(self._aggregates):
            rows = [tuple(each(found, q) for each in self._aggregates if each)]
        else:
            of = self._projection.of
            rows = [of(e, q) for e in found]
        return Result("SELECT", len(rows), self.names, rows)

    def _lock(self, e: Environment, q: Execution) -> Environment | None:
        """With the newest versions; None when with them it does not belong any more."""
        before = e
        try:
            for at, name in self._locked:
                newest = q.transaction.locked(q.table(name), e[at], shares=self._select.shares)
                if newest is None:
                    return None
                if newest is not e[at]:
                    e = (*e[:at], newest, *e[at + 1 :])
        except Blocked:
            if self._select.nowait:
                raise errors.LockNotAvailable("could not obtain lock on row") from None
            raise
        if e is not before and self._join.test is not None and not self._join.test(e, q):
            return None
        return e


def compile_subquery(select: Select, schema: Schema) -> Callable[[Any], list[tuple[Any, ...]]]:
    """One that needs nothing of the query around it."""
    plan = SelectPlan(select, schema)
    return lambda q: plan.run(q).rows or []


def compile_exists(select: Select, schema: Schema, around: Scope) -> Compiled:
    """Whether it has a row, for each row of the query around it."""
    if any(each for each in (select.order, select.limit, select.locks)):
        raise UnknownStatement("EXISTS of a query with ORDER BY, LIMIT or FOR UPDATE")
    join = Join(schema, select.sources, select.conditions, around)
    if any(join.scope.aggregate(expression) for expression, _ in select.items):
        raise UnknownStatement("EXISTS of an aggregate")
    return lambda e, q: bool(join.environments(q, e))
