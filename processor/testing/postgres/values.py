"""Types: how Postgres takes a value into a column or a cast, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from uuid import UUID

from psycopg import errors
from psycopg.types.json import Json, Jsonb

from processor.testing.postgres.lexer import UnknownStatement

Taker = Callable[[Any], Any]
"""Makes a column's value of a given one; None stays None.

:raises psycopg.DataError: for one that does not fit (SQLSTATE class 22).
"""

_KIND = re.compile(r"(?P<name>[a-z][a-z0-9 ]*?)(?:\((?P<numbers>[\d, ]+)\))?(?P<array>(?:\[\])?)$")
_INTEGERS = {"smallint": 16, "integer": 32, "int": 32, "bigint": 64, "int4": 32, "int8": 64}
_TRUE = frozenset({"t", "true", "on", "yes", "1"})
_FALSE = frozenset({"f", "false", "off", "no", "0"})


@lru_cache(maxsize=1024)
def taker(kind: str, *, is_cast: bool = False) -> Taker:
    """Of a type by its SQL name.

    :param is_cast: an explicit cast cuts a text that is too long; a column refuses it.
    :raises UnknownStatement: for a type that the fake does not know.
    """
    match = _KIND.match(kind.lower())
    if match is None:
        raise UnknownStatement(f"the type {kind}")
    numbers = [int(number) for number in (match["numbers"] or "").split(",") if number]
    take = _scalar(match["name"].strip(), numbers, is_cast)
    name = match["name"].strip()
    if not match["array"]:
        return take
    return _integers(name, take) if name in _INTEGERS else _array(take)


def _scalar(name: str, numbers: list[int], is_cast: bool) -> Taker:
    if name in _INTEGERS:
        return _integer(name, _INTEGERS[name])
    if name in ("varchar", "character varying", "char", "character") and numbers:
        return _limited(numbers[0], padded=not name.endswith(("varchar", "varying")), cut=is_cast)
    if name in ("numeric", "decimal"):
        return _numeric(numbers[1] if len(numbers) > 1 else None)
    if name not in _TAKERS:
        raise UnknownStatement(f"the type {name}")
    return _TAKERS[name]


def _refused(kind: str, value: object) -> Exception:
    return errors.InvalidTextRepresentation(f'invalid input syntax for type {kind}: "{value}"')


def _integer(kind: str, bits: int) -> Taker:
    limit = 1 << (bits - 1)

    def take(value: Any) -> Any:
        if type(value) is not int:
            value = _to_integer(kind, value)
        if value is not None and not -limit <= value < limit:
            raise errors.NumericValueOutOfRange(f"{kind} out of range")
        return value

    return take


def _to_integer(kind: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool):
        raise errors.DatatypeMismatch(f"column is of type {kind} but expression is boolean")
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise _refused(kind, value) from None
    return int(Decimal(value).to_integral_value())


def _text(value: Any) -> Any:
    if type(value) is str or value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        raise errors.DatatypeMismatch("column is of type text but expression is of type bytea")
    return str(value)


def _limited(length: int, *, padded: bool, cut: bool) -> Taker:
    def take(value: Any) -> Any:
        value = _text(value)
        if value is None:
            return None
        if len(value.rstrip(" ") if padded else value) > length and not cut:
            raise errors.StringDataRightTruncation(
                f"value too long for type character varying({length})"
            )
        return value[:length].ljust(length) if padded else value[:length]

    return take


def _numeric(scale: int | None) -> Taker:
    def take(value: Any) -> Any:
        if value is None:
            return None
        try:
            number = Decimal(repr(value) if isinstance(value, float) else value)
        except InvalidOperation:
            raise _refused("numeric", value) from None
        if scale is None:
            return number
        return number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)

    return take


def _bytes(value: Any) -> Any:
    if type(value) is bytes or value is None:
        return value
    if isinstance(value, str):
        try:
            return bytes.fromhex(value[2:]) if value.startswith("\\x") else value.encode()
        except ValueError:
            raise _refused("bytea", value) from None
    return bytes(value)


def _boolean(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _refused("boolean", value)


def _json(value: Any) -> Any:
    if isinstance(value, (Json, Jsonb)):
        return value.obj
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise _refused("json", value) from None


def _double(value: Any) -> Any:
    try:
        return None if value is None else float(value)
    except ValueError:
        raise _refused("double precision", value) from None


def _from_text(kind: str, wanted: type, parse: Callable[[str], Any]) -> Taker:
    def take(value: Any) -> Any:
        if value is None or isinstance(value, wanted):
            return value
        try:
            return parse(str(value))
        except ValueError:
            raise _refused(kind, value) from None

    return take


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _interval(value: Any) -> Any:
    """:raises UnknownStatement: for a text: the fake reads none."""
    if value is None or isinstance(value, timedelta):
        return value
    raise UnknownStatement(f"the interval {value}")


_TAKERS: dict[str, Taker] = {
    "text": _text,
    "varchar": _text,
    "regclass": _text,
    "bytea": _bytes,
    "boolean": _boolean,
    "bool": _boolean,
    "json": _json,
    "jsonb": _json,
    "double precision": _double,
    "float": _double,
    "float8": _double,
    "real": _double,
    "uuid": _from_text("uuid", UUID, UUID),
    "date": _from_text("date", date, date.fromisoformat),
    "time without time zone": _from_text("time", time, time.fromisoformat),
    "timestamp": _from_text("timestamp", datetime, datetime.fromisoformat),
    "timestamp without time zone": _from_text("timestamp", datetime, datetime.fromisoformat),
    "timestamptz": _from_text("timestamptz", datetime, _instant),
    "interval": _interval,
    "timestamp with time zone": _from_text("timestamptz", datetime, _instant),
}


def _array(take: Taker) -> Taker:
    """Of a list, or of text without quotes, which is how the engine writes numbers."""

    def take_all(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            return [take(each) for each in value]
        if '"' in value or not value.startswith("{"):
            raise UnknownStatement(f"the array {value}")
        return [None if each == "NULL" else take(each) for each in value[1:-1].split(",") if each]

    return take_all


def _integers(kind: str, take: Taker) -> Taker:
    """As the general one, faster."""
    limit = 1 << (_INTEGERS[kind] - 1)
    take_all = _array(take)

    def take_integers(value: Any) -> Any:
        if type(value) is not str or "N" in value or value == "{}":
            return take_all(value)
        try:
            numbers = [int(each) for each in value[1:-1].split(",")]
        except ValueError:
            raise _refused(f"{kind}[]", value) from None
        if max(numbers) >= limit or min(numbers) < -limit:
            raise errors.NumericValueOutOfRange(f"{kind} out of range")
        return numbers

    return take_integers
