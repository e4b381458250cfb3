"""The parts of a statement, as the parser leaves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from processor.testing.postgres.lexer import Token


class Expression:
    """Anything that has a value."""


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    value: Any


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    """``key`` is a position, or the name of ``%(name)s``."""

    key: int | str


@dataclass(frozen=True, slots=True)
class Name(Expression):
    """A column; ``qualifier`` is the table's alias, empty without one."""

    qualifier: str
    column: str


@dataclass(frozen=True, slots=True)
class Star(Expression):
    """``*``, as a column list or inside ``count``."""


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """``not``, ``-``, ``is null``, ``is not null``."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Call(Expression):
    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    operand: Expression
    kind: str


@dataclass(frozen=True, slots=True)
class Case(Expression):
    whens: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression


@dataclass(frozen=True, slots=True)
class Row(Expression):
    """``(a, b)``."""

    values: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Array(Expression):
    values: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Among(Expression):
    """``operand IN (query)`` or ``operand IN (values)``."""

    operand: Expression
    choices: Select | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Scalar(Expression):
    """A query in parentheses: its first column of its only row."""

    query: Select


@dataclass(frozen=True, slots=True)
class Exists(Expression):
    """``EXISTS (query)``; the query may name columns of the one around it."""

    query: Select


@dataclass(frozen=True, slots=True)
class Source:
    """What FROM names: a table, a WITH query, or a function (``arguments`` is not None)."""

    name: str
    alias: str
    arguments: tuple[Expression, ...] | None = None
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class Select:
    items: list[tuple[Expression, str | None]]
    sources: list[Source] = field(default_factory=list)
    conditions: list[Expression] = field(default_factory=list)
    """Joined by AND: those of WHERE and of every ON."""
    order: list[tuple[Expression, bool]] = field(default_factory=list)
    """Each with whether it descends."""
    limit: Expression | None = None
    locks: bool = False
    shares: bool = False
    """``FOR SHARE`` instead of ``FOR UPDATE``."""
    lock_aliases: tuple[str, ...] = ()
    """``FOR UPDATE OF``; all of its tables when empty."""
    nowait: bool = False


@dataclass(slots=True)
class Conflict:
    """``changes`` None: DO NOTHING. An empty target is any constraint."""

    target: tuple[str, ...]
    changes: list[tuple[str, Expression]] | None


@dataclass(slots=True)
class Insert:
    table: str
    alias: str
    columns: tuple[str, ...]
    source: list[list[Expression]] | Select
    is_overriding: bool = False
    """OVERRIDING SYSTEM VALUE."""
    conflict: Conflict | None = None
    returning: list[tuple[Expression, str | None]] = field(default_factory=list)


@dataclass(slots=True)
class Update:
    table: str
    alias: str
    changes: list[tuple[str, Expression]]
    sources: list[Source] = field(default_factory=list)
    conditions: list[Expression] = field(default_factory=list)
    returning: list[tuple[Expression, str | None]] = field(default_factory=list)


@dataclass(slots=True)
class Delete:
    table: str
    alias: str
    sources: list[Source] = field(default_factory=list)
    conditions: list[Expression] = field(default_factory=list)
    returning: list[tuple[Expression, str | None]] = field(default_factory=list)


Query = Select | Insert | Update | Delete


@dataclass(slots=True)
class With:
    """Named queries, then the one that uses them."""

    queries: list[tuple[str, Query]]
    main: Query


@dataclass(slots=True)
class Copy:
    """``COPY table (columns) FROM STDIN``."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """What is not about rows: transaction control, settings, definitions."""

    kind: str
    tokens: tuple[Token, ...]
    padded: str
    """Its words, with one space around each."""

    def has(self, *words: str) -> bool:
        """Whether these words follow each other in it."""
        return f" {' '.join(words)} " in self.padded

    def __str__(self) -> str:
        return " ".join(token.raw for token in self.tokens)


Statement = Query | With | Copy | Command
