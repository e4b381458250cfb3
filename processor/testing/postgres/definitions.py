"""CREATE TABLE and DROP TABLE as text."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from processor.testing.postgres.expression_parser import ExpressionParser
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.syntax import Command
from processor.testing.postgres.tables import Column, Shape, Unique
from processor.testing.postgres.values import taker


@lru_cache(maxsize=1024)
def table_shape(command: Command) -> Shape:
    """Made once for each text, so that statements compiled for it serve every server.

    :raises UnknownStatement: for what it has not learned.
    """
    try:
        return _Parser(list(command.tokens)).shape()
    except UnknownStatement as error:
        raise UnknownStatement(f"{error} in: {command}") from None


def dropped_table(command: Command) -> tuple[str, bool]:
    """Its name, and whether it may be missing.

    :raises UnknownStatement: for what it has not learned.
    """
    try:
        return _Parser(list(command.tokens)).dropped()
    except UnknownStatement as error:
        raise UnknownStatement(f"{error} in: {command}") from None


class _Parser(ExpressionParser):
    def shape(self) -> Shape:
        self.expect("create", "table")
        self._name = self.qualified()
        self._columns: list[Column] = []
        self._uniques: list[Unique] = []
        self.expect("(")
        self._part()
        while self.take(","):
            self._part()
        self.expect(")")
        self.expect_end()
        return Shape(self._name, tuple(self._columns), tuple(self._uniques))

    def dropped(self) -> tuple[str, bool]:
        self.expect("drop", "table")
        may_be_missing = self.take("if")
        if may_be_missing:
            self.expect("exists")
        name = self.qualified()
        self.expect_end()
        return name, may_be_missing

    def _part(self) -> None:
        if self.take("constraint"):
            self.name()
        if self.take("primary"):
            self.expect("key")
            self._unique(self._names())
        elif self.take("unique"):
            self._unique(self._names())
        else:
            self._column()

    def _names(self) -> tuple[str, ...]:
        self.expect("(")
        names = [self.name()]
        while self.take(","):
            names.append(self.name())
        self.expect(")")
        return tuple(names)

    def _unique(self, columns: tuple[str, ...]) -> None:
        deferred = self.take("deferrable")
        if deferred:
            self.expect("initially", "deferred")
        self._uniques.append(Unique(columns, deferred))

    def _column(self) -> None:
        name = self.name()
        column = Column(name, taker(self.kind()))
        while not self.at(",", ")"):
            if self.take("primary"):
                self.expect("key")
                self._uniques.append(Unique((name,)))
                column = replace(column, required=True)
            elif self.take("unique"):
                self._unique((name,))
            elif self.take("not"):
                self.expect("null")
                column = replace(column, required=True)
            elif self.take("default"):
                column = replace(column, default=self._default())
            elif self.take("generated"):
                always = self.at("always")
                while not self.take("identity"):
                    self.name()
                column = replace(column, is_identity=True, is_always=always)
            else:
                raise UnknownStatement(f"{self._next.raw!r}")
        self._columns.append(column)

    def _default(self) -> str:
        token = self._next
        self._at += 1
        if token.is_("now"):
            self.expect("(", ")")
            return "now()"
        return str(token.value if token.value is not None else token.text)
