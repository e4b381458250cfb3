"""Business keys: what makes two messages one, whichever partition and topic they come on.

>>> key = bind_key("order_id", "orders/ordered", (dict,))
>>> key.digest({"order_id": 7}) == key.digest({"order_id": 7, "sent": "again"})
True
>>> key.digest({"order_id": None}) is None
True
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from types import NoneType
from typing import Any, Literal, get_origin, get_type_hints
from uuid import UUID

import msgspec

from processor.errors import PipelineError
from processor.message import Headers, Message

DIGEST_BYTES = 16
MIN_RETENTION_SECONDS, MAX_RETENTION_SECONDS = 1.0, 3_650 * 86_400.0

Wants = Literal["event", "message", "headers"]


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the message by its name; of several the last."""

    name: str


By = str | Header | Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Dedup:
    """Which messages are the same, and among which ones that is asked.

    :param by: a field of the event, a :class:`Header`, or a function of the event, or of the
        :class:`Message` where its parameter says so. None means that the message has no key: it is
        handled.
    :param scope: handlers of one scope share their keys, whatever they are called and whatever
        topic they take. Each has its own, by topic and name, unless given.
    """

    by: By
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class BusinessKey:
    """How a handler's messages get their keys; bound once, at registration."""

    scope: bytes
    wants: Wants
    read: Callable[[Any], Any]
    """Of the event, the message, or its headers."""

    def digest(self, source: Any) -> str | None:
        """The key as it is kept, 32 hexadecimal digits; None for a message without one.

        :raises TypeError: for a value that is no key.
        """
        value = self.read(source)
        if value is None:
            return None
        return blake2b(self.scope + encoded(value), digest_size=DIGEST_BYTES).hexdigest()


def bind_key(dedup: By | Dedup, place: str, kinds: Sequence[Any]) -> BusinessKey:
    """:param place: topic and name of the handler: the scope unless there is another.
    :param kinds: the event types that the handler takes.
    :raises PipelineError: for a field that an event lacks, or a function of another form.
    """
    given = dedup if isinstance(dedup, Dedup) else Dedup(dedup)
    wants, read = _reader(given.by, place, kinds)
    # Named apart: a scope that somebody gives is never one that a handler has by itself.
    scope = f"handler:{place}" if given.scope is None else f"scope:{given.scope}"
    return BusinessKey(blake2b(scope.encode(), digest_size=DIGEST_BYTES).digest(), wants, read)


def encoded(value: Any) -> bytes:
    """Different bytes for different keys; text is its UTF-8, so that a header may be a field.

    :raises TypeError: for a value that is no key.

    >>> encoded("7") == encoded(b"7"), encoded("7") == encoded(7)
    (True, False)
    >>> encoded(("a", "bc")) == encoded(("ab", "c"))
    False
    """
    if isinstance(value, str):
        return b"b" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b"b" + bytes(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return b"i%d" % value
    if isinstance(value, UUID):
        return b"u" + value.bytes
    if isinstance(value, tuple):
        return b"t" + b"".join(b"%d:%b" % (len(e), e) for e in map(_element, value))
    raise TypeError(
        f"a key is text, bytes, an integer, a UUID or a tuple of those, not {type(value).__name__}"
    )


def _element(value: Any) -> bytes:
    return b"n" if value is None else encoded(value)


def _reader(by: By, place: str, kinds: Sequence[Any]) -> tuple[Wants, Callable[[Any], Any]]:
    if isinstance(by, Header):
        return "headers", _header(by.name)
    if isinstance(by, str):
        return "event", _field(by, place, kinds)
    if callable(by):
        return _function(by, place), by
    raise PipelineError(
        f"{place}: dedup is {by!r}, neither a field's name nor a Header nor a function"
    )


def _header(name: str) -> Callable[[Headers], bytes | None]:
    def read(headers: Headers) -> bytes | None:
        return next((value for each, value in reversed(headers) if each == name), None)

    return read


def _field(name: str, place: str, kinds: Sequence[Any]) -> Callable[[Any], Any]:
    by_item = [_is_mapping(kind, name, place) for kind in kinds if kind is not NoneType]
    if not by_item:
        raise PipelineError(f"{place}: a tombstone has no field {name!r}; dedup by a function")
    if not any(by_item) and NoneType not in kinds:
        return attrgetter(name)

    def read(event: Any) -> Any:
        return event.get(name) if isinstance(event, dict) else getattr(event, name, None)

    return read


def _is_mapping(kind: Any, name: str, place: str) -> bool:
    """Whether the field is an item of it.

    :raises PipelineError: when it has no such field.
    """
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, (msgspec.inspect.AnyType, msgspec.inspect.DictType)):
        return True
    fields = getattr(info, "fields", None)
    if fields is None:
        raise PipelineError(f"{place}: {kind!r} has no fields; dedup by a function")
    if name not in {field.name for field in fields}:
        known = ", ".join(field.name for field in fields)
        raise PipelineError(f"{place}: dedup={name!r} is no field of {kind.__name__} ({known})")
    return isinstance(info, msgspec.inspect.TypedDictType)


def _function(function: Callable[[Any], Any], place: str) -> Wants:
    """What it is a function of, by its parameter's annotation.

    :raises PipelineError: unless it can be called with one value.
    """
    if inspect.iscoroutinefunction(function):
        raise PipelineError(f"{place}: the function of dedup is async; it must be a plain one")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "event"  # one of C, without a signature
    try:
        signature.bind(None)
    except TypeError as error:
        raise PipelineError(
            f"{place}: the function of dedup takes one value, the event: {error}"
        ) from None
    try:
        hints = get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        hints = {}
    hint = hints.get(next(iter(signature.parameters), ""))
    return "message" if (get_origin(hint) or hint) is Message else "event"
