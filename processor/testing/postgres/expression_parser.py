"""Reads expressions, by precedence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processor.testing.postgres.lexer import END, Token, UnknownStatement
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

if TYPE_CHECKING:
    from processor.testing.postgres.syntax import Select

KEYWORDS = frozenset(
    {
        "select", "from", "where", "on", "join", "left", "order", "by", "limit", "for", "set",
        "values", "using", "returning", "and", "or", "not", "is", "in", "case", "when", "then",
        "else", "end", "as", "overriding", "conflict", "do", "like", "union", "group", "having",
        "with",
    }
)  # fmt: skip
"""What ends an expression or a list; never an alias."""
CONSTANTS = {"null": None, "true": True, "false": False}
COMPARISONS = ("=", "<>", "!=", "<", "<=", ">", ">=")
TYPE_WORDS = {"double": ("precision",), "timestamp": ("with", "time", "zone"), "bit": ("varying",)}


class ExpressionParser:
    """Reads tokens; the statements are read by the class that extends it."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def select(self) -> Select:
        raise NotImplementedError

    @property
    def _next(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else END

    def at(self, *texts: str) -> bool:
        return self._next.is_(*texts)

    def at_name(self) -> bool:
        token = self._next
        return token.kind == "name" or (token.kind == "word" and token.text not in KEYWORDS)

    def take(self, text: str) -> bool:
        found = self._next.is_(text)
        self._at += found
        return found

    def expect(self, *texts: str) -> None:
        for text in texts:
            if not self.take(text):
                raise UnknownStatement(f"{text!r} expected, not {self._next.raw!r},")

    def expect_end(self) -> None:
        if self._next is not END:
            raise UnknownStatement(f"{self._next.raw!r}")

    def name(self) -> str:
        token = self._next
        if token.kind not in ("word", "name"):
            raise UnknownStatement(f"a name expected, not {token.raw!r},")
        self._at += 1
        return token.text

    def qualified(self) -> str:
        name = self.name()
        while self.take("."):
            name += f".{self.name()}"
        return name.removeprefix("public.")

    def expression(self) -> Expression:
        left = self._conjunction()
        while self.take("or"):
            left = Binary("or", left, self._conjunction())
        return left

    def _conjunction(self) -> Expression:
        left = self.condition()
        while self.take("and"):
            left = Binary("and", left, self.condition())
        return left

    def condition(self) -> Expression:
        """What stands between two ANDs."""
        if self.take("not"):
            return Unary("not", self.condition())
        left = self._sum()
        while True:
            token = self._next
            if self.take("is"):
                negated = self.take("not")
                self.expect("null")
                left = Unary("is not null" if negated else "is null", left)
            elif self.take("in"):
                left = self._among(left)
            elif self.take("like"):
                left = Binary("like", left, self._sum())
            elif token.is_(*COMPARISONS):
                self._at += 1
                left = self._comparison(token.text, left)
            else:
                return left

    def _comparison(self, operator: str, left: Expression) -> Expression:
        if self.take("any"):
            if operator != "=":
                raise UnknownStatement(f"{operator} ANY")
            self.expect("(")
            array = self.expression()
            self.expect(")")
            return Binary("any", left, array)
        return Binary("<>" if operator == "!=" else operator, left, self._sum())

    def _among(self, left: Expression) -> Expression:
        self.expect("(")
        if self.take("select"):
            among = Among(left, self.select())
        else:
            among = Among(left, tuple(self._expressions()))
        self.expect(")")
        return among

    def _sum(self) -> Expression:
        left = self._product()
        while self.at("+", "-", "||", "->>"):
            operator = self._next.text
            self._at += 1
            left = Binary(operator, left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._cast()
        while self.at("*", "/"):
            operator = self._next.text
            self._at += 1
            left = Binary(operator, left, self._cast())
        return left

    def _cast(self) -> Expression:
        operand = self._primary()
        while self.take("::"):
            operand = Cast(operand, self.kind())
        return operand

    def kind(self) -> str:
        """A type's name, with ``(n)`` and ``[]`` as written."""
        name = self.name()
        for word in TYPE_WORDS.get(name, ()):
            if self.take(word):
                name += f" {word}"
        if self.take("("):
            name += f"({','.join(str(token) for token in self._numbers())})"
        if self.take("["):
            self.expect("]")
            name += "[]"
        return name

    def _numbers(self) -> list[int]:
        numbers = []
        while not self.take(")"):
            if self._next.kind == "number":
                numbers.append(self._next.value)
            self._at += 1
        return numbers

    def _primary(self) -> Expression:
        token = self._next
        self._at += 1
        if token.kind == "param":
            return Parameter(token.value)
        if token.kind in ("string", "number"):
            return Literal(token.value)
        if token.is_("*"):
            return Star()
        if token.is_("-"):
            return Unary("-", self._primary())
        if token.is_("("):
            return self._parenthesis()
        if token.is_("case"):
            return self._case()
        if token.is_("array"):
            self.expect("[")
            values = [] if self.at("]") else self._expressions()
            self.expect("]")
            return Array(tuple(values))
        if token.kind == "word" and token.text in CONSTANTS:
            return Literal(CONSTANTS[token.text])
        if token.kind == "name" or (token.kind == "word" and token.text not in KEYWORDS):
            return self._named(token.text)
        raise UnknownStatement(f"{token.raw!r}")

    def _named(self, name: str) -> Expression:
        if self.take("("):
            if name == "exists":
                return self._exists()
            arguments = [] if self.at(")") else self._expressions()
            self.expect(")")
            return Call(name, tuple(arguments))
        if self.take("."):
            return Name(name, self.name())
        return Name("", name)

    def _exists(self) -> Expression:
        self.expect("select")
        exists = Exists(self.select())
        self.expect(")")
        return exists

    def _parenthesis(self) -> Expression:
        if self.take("select"):
            inner: Expression = Scalar(self.select())
        else:
            values = self._expressions()
            inner = values[0] if len(values) == 1 else Row(tuple(values))
        self.expect(")")
        return inner

    def _case(self) -> Expression:
        whens = []
        while self.take("when"):
            condition = self.expression()
            self.expect("then")
            whens.append((condition, self.expression()))
        otherwise = self.expression() if self.take("else") else Literal(None)
        self.expect("end")
        return Case(tuple(whens), otherwise)

    def _expressions(self) -> list[Expression]:
        found = [self.expression()]
        while self.take(","):
            found.append(self.expression())
        return found
