"""Operators and functions on values; NULL is None, and most of them pass it on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from uuid import UUID

from psycopg import errors

from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.values import taker


def equal(left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    if left == right:
        return True
    if type(left) is not type(right):
        _comparable(left, right)
    return False


def _comparable(left: Any, right: Any) -> None:
    """:raises psycopg.errors.UndefinedFunction: where Postgres has no such operator."""
    if isinstance(left, str) != isinstance(right, str):
        raise errors.UndefinedFunction(
            f"operator does not exist: {type(left).__name__} = {type(right).__name__}"
        )


def unequal(left: Any, right: Any) -> bool | None:
    found = equal(left, right)
    return None if found is None else not found


def less(left: Any, right: Any) -> bool | None:
    return None if left is None or right is None else left < right


def less_or_equal(left: Any, right: Any) -> bool | None:
    return None if left is None or right is None else left <= right


def any_of(value: Any, array: Iterable[Any] | None) -> bool | None:
    return None if value is None or array is None else value in array


def among(value: Any, choices: Iterable[Any]) -> bool | None:
    return None if value is None else value in choices


def conjunction(left: bool | None, right: bool | None) -> bool | None:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def disjunction(left: bool | None, right: bool | None) -> bool | None:
    if left or right:
        return True
    return None if left is None or right is None else False


def negation(value: Any) -> bool | None:
    return None if value is None else not value


def add(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left + right


def subtract(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left - right


def multiply(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left * right


def divide(left: Any, right: Any) -> Any:
    """:raises psycopg.errors.DivisionByZero: as it says."""
    if left is None or right is None:
        return None
    if right == 0:
        raise errors.DivisionByZero("division by zero")
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return left / right


def concatenate(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    if isinstance(left, bytes):
        return left + taker("bytea")(right)
    if isinstance(left, dict):
        return left | right
    if isinstance(left, list):
        return left + (right if isinstance(right, list) else [right])
    return str(left) + str(right)


def text_at(document: dict[str, Any] | None, key: str | None) -> str | None:
    """``->>``: a text, whatever stands there."""
    found = None if document is None or key is None else document.get(key)
    return found if found is None or isinstance(found, str) else json.dumps(found)


def json_object(*pairs: Any) -> dict[str, Any]:
    """``jsonb_build_object``: keys and values in turn."""
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def negative(value: Any) -> Any:
    return None if value is None else -value


def like(value: str | None, pattern: str | None) -> bool | None:
    return None if value is None or pattern is None else bool(_pattern(pattern).fullmatch(value))


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(sign, re.escape(sign)) for sign in pattern), re.S)


def coalesce(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    return None


def nullif(left: Any, right: Any) -> Any:
    return None if equal(left, right) else left


def greatest(*values: Any) -> Any:
    """NULLs are ignored."""
    return max((value for value in values if value is not None), default=None)


def least(*values: Any) -> Any:
    """NULLs are ignored."""
    return min((value for value in values if value is not None), default=None)


def lower(value: str | None) -> str | None:
    return None if value is None else value.lower()


def upper(value: str | None) -> str | None:
    return None if value is None else value.upper()


def length(value: str | bytes | None) -> int | None:
    return None if value is None else len(value)


def uuid_send(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


def encode(value: bytes | None, form: str) -> str | None:
    """:raises UnknownStatement: for another form than hex."""
    if form != "hex":
        raise UnknownStatement(f"encode to {form}")
    return None if value is None else value.hex()


def absolute(value: Any) -> Any:
    return None if value is None else abs(value)


def count(values: list[Any]) -> int:
    return sum(value is not None for value in values)


def maximum(values: list[Any]) -> Any:
    return greatest(*values)


def minimum(values: list[Any]) -> Any:
    return least(*values)


def total(values: list[Any]) -> Any:
    given = [value for value in values if value is not None]
    return sum(given) if given else None


def string_agg(values: list[tuple[Any, Any]]) -> str | None:
    given = [value for value in values if value[0] is not None]
    return given[0][1].join(str(value) for value, _ in given) if given else None


FUNCTIONS = {
    "jsonb_build_object": json_object,
    "coalesce": coalesce,
    "nullif": nullif,
    "greatest": greatest,
    "least": least,
    "lower": lower,
    "upper": upper,
    "length": length,
    "abs": absolute,
    "uuid_send": uuid_send,
    "encode": encode,
}
AGGREGATES = {"count": count, "max": maximum, "min": minimum, "sum": total}
OPERATORS = {
    "and": conjunction,
    "or": disjunction,
    "=": equal,
    "->>": text_at,
    "<>": unequal,
    "<": less,
    "<=": less_or_equal,
    "any": any_of,
    "like": like,
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "||": concatenate,
}
