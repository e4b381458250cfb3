"""Expressions become Python functions, by way of Python's own compiler.

A function takes ``e``, the rows that FROM has joined so far, and ``q``, the running statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg import errors

from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.operators import (
    AGGREGATES,
    FUNCTIONS,
    OPERATORS,
    among,
    negation,
    negative,
    string_agg,
)
from processor.testing.postgres.syntax import (
    Among,
    Array,
    Binary,
    Call,
    Case,
    Cast,
    Exists,
    Expression,
    Literal,
    Name,
    Parameter,
    Row,
    Scalar,
    Star,
    Unary,
)
from processor.testing.postgres.values import taker

if TYPE_CHECKING:
    from processor.testing.postgres.syntax import Select
    from processor.testing.postgres.tables import Shape, Values

Compiled = Callable[[tuple[Any, ...], Any], Any]
SYSTEM_COLUMNS = ("xmax", "ctid")
OF_SESSION = (
    "now", "clock_timestamp", "current_setting", "set_config", "pg_backend_pid",
    "pg_terminate_backend", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared",
    "current_database", "to_regclass",
)  # fmt: skip
"""Functions that ask the running statement's session."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One source of FROM: its alias, its columns, and the table that it is, if it is one."""

    alias: str
    columns: tuple[str, ...]
    table: str | None = None


@dataclass
class Scope:
    """What the names in an expression can mean."""

    joined: Sequence[Joined] = ()
    subquery: Callable[[Select], Callable[[Any], list[tuple[Any, ...]]]] | None = None
    constants: dict[str, Any] = field(default_factory=dict)
    around: int = 0
    """How many of the sources, the first ones, are those of the query around it."""
    exists: Callable[[Select, Scope], Compiled] | None = None

    def compile(self, expression: Expression) -> Compiled:
        return self.function(self.source(expression))

    def function(self, source: str) -> Compiled:
        compiled: Compiled = eval(f"lambda e, q: {source}", self.constants)  # noqa: S307
        return compiled

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def call(self, function: Any, *arguments: Expression) -> str:
        given = ", ".join(self.source(argument) for argument in arguments)
        return f"{self.constant(function)}({given})"

    def place(self, name: Name) -> int:
        """Which of the sources a column is of.

        :raises psycopg.errors.UndefinedColumn: when it is of none.
        """
        found = self._places(name, range(self.around, len(self.joined)))
        found = found or self._places(name, range(self.around))
        if not found:
            raise errors.UndefinedColumn(f'column "{name.column}" does not exist')
        if len(found) > 1:
            raise errors.AmbiguousColumn(f'column reference "{name.column}" is ambiguous')
        return found[0]

    def _places(self, name: Name, among: range) -> list[int]:
        return [
            at
            for at in among
            if name.qualifier in ("", self.joined[at].alias)
            and (name.column in self.joined[at].columns or name.column in SYSTEM_COLUMNS)
        ]

    def needs(self, expression: Expression) -> int:
        """How many of the sources must have been joined before it has a value."""
        if isinstance(expression, Exists):
            return len(self.joined)
        if isinstance(expression, Name):
            return self.place(expression) + 1
        return max((self.needs(each) for each in parts(expression)), default=0)

    def source(self, expression: Expression) -> str:
        """Its Python."""
        kind = type(expression).__name__.lower()
        write = getattr(self, f"_{kind}", None)
        if write is None:
            raise UnknownStatement(f"{expression}")
        return str(write(expression))

    def sources(self, expressions: Sequence[Expression]) -> str:
        """Each with a comma behind it, so that one alone in parentheses is a tuple."""
        return "".join(f"{self.source(expression)}, " for expression in expressions)

    def _literal(self, literal: Literal) -> str:
        return repr(literal.value)

    def _parameter(self, parameter: Parameter) -> str:
        return f"q.parameters[{parameter.key!r}]"

    def _name(self, name: Name) -> str:
        at = self.place(name)
        if name.column == "xmax":
            return f"q.locker({self.joined[at].table!r}, e[{at}])"
        return f"e[{at}][{name.column!r}]"

    def _cast(self, cast: Cast) -> str:
        return f"{self.constant(taker(cast.kind, is_cast=True))}({self.source(cast.operand)})"

    def _unary(self, unary: Unary) -> str:
        if unary.operator.startswith("is"):
            return f"({self.source(unary.operand)} {unary.operator.replace('null', 'None')})"
        return self.call(negation if unary.operator == "not" else negative, unary.operand)

    def _binary(self, binary: Binary) -> str:
        operator, left, right = binary.operator, binary.left, binary.right
        if operator in (">", ">="):
            return self.call(OPERATORS[operator.replace(">", "<")], right, left)
        return self.call(OPERATORS[operator], left, right)

    def _row(self, row: Row) -> str:
        return f"({self.sources(row.values)})"

    def _array(self, array: Array) -> str:
        return f"[{self.sources(array.values)}]"

    def _case(self, case: Case) -> str:
        source = self.source(case.otherwise)
        for condition, value in reversed(case.whens):
            source = f"({self.source(value)} if {self.source(condition)} else {source})"
        return source

    def _call(self, call: Call) -> str:
        if call.function in FUNCTIONS:
            return self.call(FUNCTIONS[call.function], *call.arguments)
        if call.function in OF_SESSION:
            return f"q.{call.function}({self.sources(call.arguments)})"
        raise UnknownStatement(f"the function {call.function}")

    def _scalar(self, scalar: Scalar) -> str:
        return f"(({self._query(scalar.query)} or [(None,)])[0][0])"

    def _exists(self, exists: Exists) -> str:
        if self.exists is None:
            raise UnknownStatement("EXISTS here")
        return f"{self.constant(self.exists(exists.query, self))}(e, q)"

    def _among(self, among_: Among) -> str:
        choices = among_.choices
        if isinstance(choices, tuple):
            found = f"[{self.sources(choices)}]"
        elif isinstance(among_.operand, Row):
            found = self._query(choices)
        else:
            found = f"[row[0] for row in {self._query(choices)}]"
        return f"{self.constant(among)}({self.source(among_.operand)}, {found})"

    def _query(self, query: Select) -> str:
        assert self.subquery is not None, "no query stands here"
        return f"{self.constant(self.subquery(query))}(q)"

    def aggregate(self, expression: Expression) -> Callable[[list[Any], Any], Any] | None:
        """Of all joined rows, where the expression is an aggregate."""
        if isinstance(expression, Cast):
            inner, take = self.aggregate(expression.operand), taker(expression.kind, is_cast=True)
            return inner and (lambda rows, q: take(inner(rows, q)))
        if not isinstance(expression, Call):
            return None
        if expression.arguments == (Star(),):
            return lambda rows, _: len(rows)
        if expression.function == "string_agg":
            both = self.compile(Row(expression.arguments))
            return lambda rows, q: string_agg([both(e, q) for e in rows])
        if expression.function not in AGGREGATES:
            return None
        combine = AGGREGATES[expression.function]
        value = self.compile(expression.arguments[0])
        return lambda rows, q: combine([value(e, q) for e in rows])


def parts(expression: Expression) -> Sequence[Expression]:
    """What an expression is directly made of."""
    match expression:
        case Unary(_, operand) | Cast(operand, _):
            return (operand,)
        case Binary(_, left, right):
            return (left, right)
        case Case(whens, otherwise):
            return [each for when in whens for each in when] + [otherwise]
        case Row(values) | Array(values) | Call(_, values):
            return values
        case Among(operand, choices):
            return (operand, *choices) if isinstance(choices, tuple) else (operand,)
    return ()


def compiled_check(shape: Shape, text: str) -> Callable[[Values], bool | None]:
    """A CHECK constraint's expression, of one row."""
    from processor.testing.postgres.lexer import tokens_of
    from processor.testing.postgres.parser import Parser

    scope = Scope([Joined(shape.name, shape.names)])
    compiled = scope.compile(Parser(tokens_of(text)).expression())
    return lambda row: compiled((row,), None)
