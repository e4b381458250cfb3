"""The events on the topic ``user-events``: one envelope, told apart by ``event_type``.

Whatever Postgres would refuse is refused here, with a reason, so that a bad event is
dead-lettered alone:

>>> import msgspec
>>> event = msgspec.json.decode(
...     b'{"event_type": "page_view", "user_id": "7", "timestamp": "2025-03-01T12:00:00",'
...     b' "event_data": {"page": "/home", "duration": 1.5}}',
...     type=PageView,
... )
>>> event.user_id, event.timestamp.isoformat(), event.data.duration
(7, '2025-03-01T12:00:00+00:00', Decimal('1.500'))
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

if TYPE_CHECKING:  # what a field holds
    UserId = int
    Timestamp = datetime
    Number = Decimal
    Seconds = Decimal
else:  # what JSON may bring; __post_init__ makes the above of it
    UserId = int | str
    Timestamp = str
    Number = int | float | str
    Seconds = Number | None

Data = TypeVar("Data")

BIGINT = range(-(2**63), 2**63)
INTEGER_MAX = 2**31 - 1
NUMBER_LIMIT = 10**18
NUMBER_SMALLEST = 1e-12
DURATION_MAX_SECONDS = 10**9
MILLISECOND = Decimal("0.001")

_WHOLE = re.compile(r"-?[0-9]{1,100}")
_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,30})?")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""U+0000 as JSON writes it; behind an odd number of backslashes it is a text about it."""


class Event(Struct, kw_only=True, dict=True, omit_defaults=True):
    """What all events have in common.

    ``user_id`` comes as a whole number or as its digits; ``timestamp`` as ISO 8601, in UTC where
    it names no zone. Unknown fields of the envelope are ignored, those of ``event_data`` kept.
    """

    user_id: UserId
    timestamp: Timestamp
    event_data: dict[str, Any] = msgspec.field(default_factory=dict)
    event_id: UUID | None = None

    def __post_init__(self) -> None:
        """:raises ValueError: for what could not be stored; msgspec makes it its own error."""
        self.user_id = whole_number("user_id", self.user_id)
        self.timestamp = in_utc(self.timestamp)
        refuse_nul(self.json)

    @property
    def event_type(self) -> str:
        """The tag."""
        return str(self.__struct_config__.tag)

    @property
    def json(self) -> bytes:
        """The event as it is stored: what came in, with user and time in their one form."""
        return msgspec.json.encode(self)


class PageViewData(Struct):
    """``duration`` is in seconds, kept to the millisecond."""

    page: str | None = None
    url: str | None = None
    duration: Seconds = Decimal(0)

    def __post_init__(self) -> None:
        self.duration = seconds("duration", self.duration)


class PageView(Event, tag_field="event_type", tag="page_view"):
    """A user looked at a page."""

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        self.__dict__["data"] = typed(self.event_data, PageViewData)

    @property
    def data(self) -> PageViewData:
        """``event_data`` with its types."""
        data: PageViewData = self.__dict__["data"]
        return data


class PurchaseData(Struct):
    """``amount`` is the whole purchase's, in ``currency``, not the price of one piece."""

    amount: Number
    currency: str | None = None
    product_id: int | str | None = None
    item: str | None = None
    quantity: Annotated[int, Meta(ge=1, le=INTEGER_MAX)] | None = None

    def __post_init__(self) -> None:
        self.amount = decimal("amount", self.amount)

    @property
    def product(self) -> str | None:
        """The product's id, else the item's name."""
        return self.item if self.product_id is None else str(self.product_id)


class Purchase(Event, tag_field="event_type", tag="purchase"):
    """A user bought something."""

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        self.__dict__["data"] = typed(self.event_data, PurchaseData)

    @property
    def data(self) -> PurchaseData:
        """``event_data`` with its types."""
        data: PurchaseData = self.__dict__["data"]
        return data


class OtherEvent(Event):
    """An event of any other type."""

    event_type: str  # a field here, the tag in its sisters


UserEvent = PageView | Purchase | OtherEvent


def whole_number(name: str, value: int | str) -> int:
    """A bigint, from a number or its digits.

    >>> whole_number("user_id", "0042")
    42

    :raises ValueError: when it is neither, or beyond a bigint.
    """
    if type(value) is not int and not (isinstance(value, str) and _WHOLE.fullmatch(value)):
        raise ValueError(f"{name} is not a whole number: {shortened(value)}")
    number = int(value)
    if number not in BIGINT:
        raise ValueError(f"{name} is beyond 64 bits: {shortened(value)}")
    return number


def decimal(name: str, value: Any) -> Decimal:
    """The number that was written, exactly, from a number or its digits.

    >>> decimal("amount", 19.99), decimal("amount", "19.90")
    (Decimal('19.99'), Decimal('19.90'))

    :raises ValueError: for NaN, infinity and other text, and for what is out of all proportion:
        10^18 and more, or a binary fraction that is not 0 and below 10^-12.
    """
    if isinstance(value, str):
        fits = _DECIMAL.fullmatch(value) is not None
    else:
        fits = value == 0 or NUMBER_SMALLEST <= abs(value) < NUMBER_LIMIT
    if not fits:
        raise ValueError(
            f"{name} is not a number of at most 18 digits before the point"
            f" and 30 after it: {shortened(value)}"
        )
    return Decimal(str(value))


def seconds(name: str, value: Any) -> Decimal:
    """A duration to the millisecond; 0 where there is none.

    :raises ValueError: when it is no number, negative, or longer than 10^9 seconds.
    """
    number = decimal(name, 0 if value is None else value)
    if not 0 <= number <= DURATION_MAX_SECONDS:
        raise ValueError(f"{name} is not between 0 and 10^9 seconds: {shortened(value)}")
    return number.quantize(MILLISECOND)


def in_utc(value: str | datetime) -> datetime:
    """An aware time in UTC, from ISO 8601; without a zone it is UTC already.

    >>> in_utc("2025-03-01T12:00+02:00").isoformat()
    '2025-03-01T10:00:00+00:00'

    :raises ValueError: when the text is no such time.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"timestamp is not a time in ISO 8601: {shortened(value)}") from None


def refuse_nul(json: bytes) -> None:
    """:raises ValueError: when a text holds U+0000, which neither text nor jsonb can store."""
    if b"\\u0000" in json and _NUL.search(json):
        raise ValueError("a text holds the character U+0000, which Postgres cannot store")


def typed(data: dict[str, Any], kind: type[Data]) -> Data:
    """:raises ValueError: when the event's data does not have the type's form."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"event_data: {error}") from None


def shortened(value: object) -> str:
    """At most 40 characters of a value, for a reason that is read by a person."""
    return f"{value!r:.40}"
