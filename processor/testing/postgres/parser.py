"""Reads the part of SQL that the engine and the contract tests speak; nothing else is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from psycopg import errors

from processor.testing.postgres.expression_parser import ExpressionParser
from processor.testing.postgres.lexer import Token, UnknownStatement, split, tokens_of
from processor.testing.postgres.syntax import (
    Binary,
    Command,
    Conflict,
    Copy,
    Delete,
    Expression,
    Insert,
    Query,
    Select,
    Source,
    Statement,
    Update,
    With,
)

T = TypeVar("T")
COMMANDS = (
    "begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "set", "reset",
    "create", "drop", "alter", "do", "truncate",
)  # fmt: skip
UNKNOWN_COMMANDS = (
    "analyze", "call", "close", "comment", "declare", "execute", "explain", "fetch", "grant",
    "listen", "lock", "merge", "notify", "prepare", "refresh", "revoke", "show", "table", "vacuum",
    "values",
)  # fmt: skip
"""Of Postgres, not of this fake: no errors of syntax."""
QUERIES = ("select", "insert", "update", "delete", "with", "copy")


def parse(text: str) -> list[Statement]:
    """The statements of a text.

    :raises psycopg.errors.SyntaxError: for what begins with no command of SQL.
    :raises UnknownStatement: for what this fake has not learned; it names the statement.
    """
    parsed: list[Statement] = []
    for tokens in split(tokens_of(text)):
        first = tokens[0].text
        if first in COMMANDS:
            words = " ".join(token.text for token in tokens)
            parsed.append(Command(first, tuple(tokens), f" {words} "))
        elif first in QUERIES:
            parsed.append(_parsed(tokens, text))
        elif first in UNKNOWN_COMMANDS:
            raise UnknownStatement(f"{tokens[0].raw!r} in: {text}")
        else:
            raise errors.SyntaxError(f'syntax error at or near "{tokens[0].raw}"')
    return parsed


def _parsed(tokens: list[Token], text: str) -> Statement:
    try:
        parser = Parser(tokens)
        statement = parser.statement()
        parser.expect_end()
    except UnknownStatement as error:
        raise UnknownStatement(f"{error} in: {text}") from None
    return statement


class Parser(ExpressionParser):
    """One statement, by recursive descent."""

    def statement(self) -> Statement:
        if self.take("with"):
            queries = self._list(self._named_query)
            return With(queries, self.query())
        if self.take("copy"):
            table = self.qualified()
            columns = self._names_in_parentheses()
            self.expect("from", "stdin")
            return Copy(table, columns)
        return self.query()

    def query(self) -> Query:
        if self.take("select"):
            return self.select()
        if self.take("insert"):
            return self._insert()
        if self.take("update"):
            return self._update()
        self.expect("delete")
        return self._delete()

    def _named_query(self) -> tuple[str, Query]:
        name = self.name()
        self.expect("as", "(")
        query = self.query()
        self.expect(")")
        return name, query

    def select(self) -> Select:
        select = Select([] if self.at("from") else self._list(self._item))
        if self.take("from"):
            self._sources(select.sources, select.conditions)
        self._where(select.conditions)
        if self.take("order"):
            self.expect("by")
            select.order = self._list(self._ordering)
        if self.take("limit"):
            select.limit = self.expression()
        if self.take("for"):
            select.locks = True
            select.shares = self.take("share")
            if not select.shares:
                self.expect("update")
            if self.take("of"):
                select.lock_aliases = tuple(self._list(self.name))
            select.nowait = self.take("nowait")
        return select

    def _ordering(self) -> tuple[Expression, bool]:
        return self.expression(), self.take("desc")

    def _item(self) -> tuple[Expression, str | None]:
        expression = self.expression()
        return expression, self.name() if self.take("as") else None

    def _sources(self, sources: list[Source], conditions: list[Expression]) -> None:
        sources.append(self._source())
        while True:
            if self.take(","):
                sources.append(self._source())
            elif self.take("join"):
                sources.append(self._source())
                self.expect("on")
                self._conjuncts(conditions)
            else:
                return

    def _source(self) -> Source:
        name = self.qualified()
        arguments = None
        if self.take("("):
            arguments = () if self.take(")") else tuple(self._list(self.expression))
            if arguments:
                self.expect(")")
        alias = self._alias(name)
        columns = self._names_in_parentheses() if self.at("(") else ()
        return Source(name, alias, arguments, columns)

    def _alias(self, name: str) -> str:
        if self.take("as") or self.at_name():
            return self.name()
        return name.rpartition(".")[2]

    def _where(self, conditions: list[Expression]) -> None:
        if self.take("where"):
            self._conjuncts(conditions)

    def _conjuncts(self, conditions: list[Expression]) -> None:
        conditions.extend(_conjuncts_of(self.expression()))

    def _insert(self) -> Insert:
        self.expect("into")
        table = self.qualified()
        alias = self._alias(table)
        columns = self._names_in_parentheses() if self.at("(") else ()
        overriding = self.take("overriding")
        if overriding:
            self.expect("system", "value")
        if self.take("values"):
            insert = Insert(table, alias, columns, self._list(self._values))
        else:
            self.expect("select")
            insert = Insert(table, alias, columns, self.select())
        insert.is_overriding = overriding
        if self.take("on"):
            insert.conflict = self._conflict()
        insert.returning = self._returning()
        return insert

    def _values(self) -> list[Expression]:
        self.expect("(")
        values = self._list(self.expression)
        self.expect(")")
        return values

    def _conflict(self) -> Conflict:
        self.expect("conflict")
        target = self._names_in_parentheses() if self.at("(") else ()
        self.expect("do")
        if self.take("nothing"):
            return Conflict(target, None)
        self.expect("update", "set")
        return Conflict(target, self._list(self._change))

    def _change(self) -> tuple[str, Expression]:
        column = self.name()
        self.expect("=")
        return column, self.expression()

    def _update(self) -> Update:
        table = self.qualified()
        alias = table.rpartition(".")[2] if self.at("set") else self._alias(table)
        self.expect("set")
        update = Update(table, alias, self._list(self._change))
        if self.take("from"):
            self._sources(update.sources, update.conditions)
        self._where(update.conditions)
        update.returning = self._returning()
        return update

    def _delete(self) -> Delete:
        self.expect("from")
        table = self.qualified()
        delete = Delete(table, self._alias(table))
        if self.take("using"):
            self._sources(delete.sources, delete.conditions)
        self._where(delete.conditions)
        delete.returning = self._returning()
        return delete

    def _returning(self) -> list[tuple[Expression, str | None]]:
        return self._list(self._item) if self.take("returning") else []

    def _names_in_parentheses(self) -> tuple[str, ...]:
        self.expect("(")
        names = tuple(self._list(self.name))
        self.expect(")")
        return names

    def _list(self, each: Callable[[], T]) -> list[T]:
        found = [each()]
        while self.take(","):
            found.append(each())
        return found


def _conjuncts_of(expression: Expression) -> list[Expression]:
    """What is joined by AND, each of which can be asked by itself."""
    if isinstance(expression, Binary) and expression.operator == "and":
        return [*_conjuncts_of(expression.left), *_conjuncts_of(expression.right)]
    return [expression]
