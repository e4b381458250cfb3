"""Statements, compiled once for all servers whose tables have the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from processor.testing.postgres.changing import DeletePlan, UpdatePlan
from processor.testing.postgres.execution import Execution, Result
from processor.testing.postgres.inserting import CopyPlan, InsertPlan
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.parser import parse
from processor.testing.postgres.selecting import Schema, SelectPlan
from processor.testing.postgres.syntax import (
    Command,
    Copy,
    Delete,
    Insert,
    Query,
    Select,
    Statement,
    Update,
    With,
)
from processor.testing.postgres.tables import Shape


class Plan(Protocol):
    names: tuple[str, ...]

    def run(self, q: Execution) -> Result:
        """From the beginning: after :class:`Blocked` it is run again."""


class WithPlan:
    """Queries in their order, each seeing the results of those before it."""

    def __init__(self, statement: With, schema: Schema) -> None:
        self._queries: list[tuple[str, Plan]] = []
        for name, query in statement.queries:
            plan = _query_plan(query, schema)
            schema.results[name] = plan.names
            self._queries.append((name, plan))
        self._main = _query_plan(statement.main, schema)
        self.names = self._main.names

    def run(self, q: Execution) -> Result:
        for name, plan in self._queries:
            result = plan.run(q)
            q.results[name] = [
                dict(zip(result.names, row, strict=True)) for row in result.rows or []
            ]
        return self._main.run(q)


def _query_plan(query: Query, schema: Schema) -> Plan:
    if isinstance(query, Select):
        return SelectPlan(query, schema)
    if isinstance(query, Insert):
        return InsertPlan(query, schema)
    return UpdatePlan(query, schema) if isinstance(query, Update) else DeletePlan(query, schema)


def _plan(statement: Statement, schema: Schema) -> Plan:
    if isinstance(statement, With):
        return WithPlan(statement, schema)
    if isinstance(statement, Copy):
        return CopyPlan(statement, schema)
    assert isinstance(statement, (Select, Insert, Update, Delete))
    return _query_plan(statement, schema)


class Prepared:
    """One statement of a text; its plan is made anew when a table that it names has changed."""

    def __init__(self, statement: Statement, text: str) -> None:
        self.statement = statement
        self.text = text
        self.kind = _kind(statement)
        self._plan: Plan | None = None
        self._uses: list[tuple[str, Shape]] = []

    def plan(self, shapes: Mapping[str, Shape]) -> Plan:
        """:raises psycopg.Error: for names that the database does not have.

        :raises UnknownStatement: naming the statement.
        """
        plan = self._plan
        if plan is not None:
            for name, shape in self._uses:
                if shapes.get(name) is not shape:
                    break
            else:
                return plan
        schema = Schema(shapes)
        try:
            plan = _plan(self.statement, schema)
        except UnknownStatement as error:
            raise UnknownStatement(f"{error} in: {self.text}") from None
        self._plan, self._uses = plan, list(schema.uses.items())
        return plan


class Refused:
    """A text that is no statement: the server answers it with an error."""

    kind = "REFUSED"
    statement = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    def plan(self, _: Mapping[str, Shape]) -> Plan:
        raise self._error


def _kind(statement: Statement) -> str:
    """What the network calls it."""
    if isinstance(statement, Command):
        back = statement.kind == "rollback" and statement.has("to")
        return "ROLLBACK TO" if back else statement.kind.upper()
    if isinstance(statement, With):
        return _kind(statement.main)
    return type(statement).__name__.upper()


@lru_cache(maxsize=4096)
def prepared(text: str) -> tuple[Prepared, ...]:
    """The statements of a text.

    :raises psycopg.errors.SyntaxError: see :func:`parse`.
    :raises UnknownStatement: see there.
    """
    return tuple(Prepared(statement, text) for statement in parse(text))
