"""The user-events pipeline without its servers: what is taken, refused, written and sent."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.user_events import pipeline, sample_events
from pipelines.user_events.events import OtherEvent, PageView, Purchase
from pipelines.user_events.tables import metadata
from processor import Message, Transaction
from processor.errors import DecodeError, UnknownType
from processor.writes import CopyWrite, UpsertWrite

EVENT_ID = UUID("0192c0de-0000-7000-8000-000000000001")
ENVELOPE = {
    "event_type": "page_view",
    "user_id": 42,
    "event_data": {"page": "/home", "duration": 12.5},
    "timestamp": "2025-03-01T12:00:00Z",
}
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def envelope(**changes: Any) -> dict[str, Any]:
    return ENVELOPE | changes


def purchase(**data: Any) -> dict[str, Any]:
    return envelope(event_type="purchase", event_data={"amount": 1} | data)


def decode(event: Any) -> Any:
    value = event if isinstance(event, bytes) else json.dumps(event).encode()
    return pipeline.routes["user-events"].decode(value)[1]


def reason(event: Any) -> str:
    """Why an event is refused; it is no type that nobody takes."""
    with pytest.raises(DecodeError) as raised:
        decode(event)
    assert not isinstance(raised.value, UnknownType)
    return str(raised.value)


class Written:
    """What one event wrote, by table, and what it sent, by topic."""

    def __init__(self, event: Any, *, offset: int = 7) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        handler, decoded = pipeline.routes["user-events"].decode(json.dumps(event).encode())
        message = Message("user-events", 3, offset, b"42", decoded)
        tx = Transaction(self)
        outputs = list(handler.call(decoded, message, tx))
        tx.flush()
        self.keys = {output.key for output in outputs}
        self.sent = {
            each.topic: json.loads(pipeline.outputs[each.topic].codec.encode(each.value))
            for each in outputs
        }
        assert len(self.sent) == len(outputs)

    def copy(self, write: CopyWrite | UpsertWrite) -> None:
        rows = self.rows.setdefault(write.table.name, [])
        rows += [dict(zip(write.columns, row, strict=True)) for row in write.rows]

    upsert = copy

    def execute(self, statement: Any, parameters: Any) -> int:
        raise AssertionError("the pipeline needs no statements")

    def fetch_one(self, statement: Any, parameters: Any) -> Any:
        raise AssertionError("the pipeline needs no queries")

    fetch_all = fetch_one


def test_the_type_decides() -> None:
    assert isinstance(decode(envelope()), PageView)
    assert isinstance(decode(purchase()), Purchase)
    other = decode(envelope(event_type="login"))
    assert isinstance(other, OtherEvent)
    assert [decode(each).event_type for each in (envelope(), purchase())] == [
        "page_view",
        "purchase",
    ]
    assert other.event_type == "login"


@pytest.mark.parametrize("event_type", ["page_view", "purchase", "login"])
@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        (42, 42),
        ("42", 42),
        ("0042", 42),
        ("-5", -5),
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (str(-(2**63)), -(2**63)),
    ],
)
def test_a_user_is_a_number_or_its_digits(event_type: str, user_id: Any, expected: int) -> None:
    event = envelope(event_type=event_type, user_id=user_id, event_data={"amount": 1})
    assert decode(event).user_id == expected


@pytest.mark.parametrize("event_type", ["page_view", "purchase", "login"])
@pytest.mark.parametrize(
    ("user_id", "complaint"),
    [
        ("abc", "user_id is not a whole number: 'abc'"),
        ("", "user_id is not a whole number: ''"),
        (" 42", "user_id is not a whole number: ' 42'"),
        ("4_2", "user_id is not a whole number"),
        ("42\n", "user_id is not a whole number"),
        ("٤٢", "user_id is not a whole number"),
        ("1" * 5_000, "user_id is not a whole number: '1111"),
        (2**63, "user_id is beyond 64 bits: 9223372036854775808"),
        (str(2**63), "user_id is beyond 64 bits: '9223372036854775808'"),
        (-(2**63) - 1, "user_id is beyond 64 bits"),
        (10**40, "user_id is beyond 64 bits"),
        (1.0, "Expected `int | str`, got `float` - at `$.user_id`"),
        (True, "Expected `int | str`, got `bool` - at `$.user_id`"),
        (None, "Expected `int | str`, got `null` - at `$.user_id`"),
    ],
)
def test_any_other_user_is_refused(event_type: str, user_id: Any, complaint: str) -> None:
    told = reason(envelope(event_type=event_type, user_id=user_id, event_data={"amount": 1}))
    assert complaint in told
    assert len(told) < 150


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-03-01T12:00:00Z", NOON),
        ("2025-03-01T12:00:00", NOON),
        ("2025-03-01 12:00:00", NOON),
        ("2025-03-01T12:00Z", NOON),
        ("2025-03-01T13:00:00+01:00", NOON),
        ("2025-03-01T06:30:00-0530", NOON),
        ("20250301T120000Z", NOON),
        ("2025-03-01T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("2025-03-01", NOON.replace(hour=0)),
    ],
)
def test_times_become_utc(text: str, expected: datetime) -> None:
    found = decode(envelope(timestamp=text)).timestamp
    assert found == expected
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize("event_type", ["page_view", "login"])
@pytest.mark.parametrize(
    "text",
    ["yesterday", "", "2025-13-01T00:00:00Z", "2025-03-01T25:00:00Z", "1740830400",
     "0001-01-01T00:00:00+05:00", "2025-03-01T12:00:00+99:00"],
)  # fmt: skip
def test_what_is_no_time_is_refused(event_type: str, text: str) -> None:
    told = reason(envelope(event_type=event_type, timestamp=text))
    assert f"timestamp is not a time in ISO 8601: {text!r}" in told


@pytest.mark.parametrize("value", [1740830400, None])
def test_a_time_is_text(value: Any) -> None:
    assert "Expected `str`" in reason(envelope(timestamp=value))


@pytest.mark.parametrize("name", ["user_id", "timestamp"])
@pytest.mark.parametrize("event_type", ["page_view", "login"])
def test_what_every_event_has_must_be_there(event_type: str, name: str) -> None:
    event = envelope(event_type=event_type)
    del event[name]
    assert f"missing required field `{name}`" in reason(event)


def test_an_event_must_have_a_type() -> None:
    event = envelope()
    del event["event_type"]
    assert "missing required field `event_type`" in reason(event)
    assert "Expected `str`" in reason(envelope(event_type=None))
    assert "Expected `str`, got `int` - at `$.event_type`" in reason(envelope(event_type=3))


def test_an_event_id_is_a_uuid_or_nothing() -> None:
    assert decode(envelope(event_id=str(EVENT_ID))).event_id == EVENT_ID
    assert decode(envelope()).event_id is None
    assert decode(envelope(event_id=None)).event_id is None
    assert "Invalid UUID - at `$.event_id`" in reason(envelope(event_id="seven"))


@pytest.mark.parametrize("event_type", ["page_view", "login"])
@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_event_data_is_an_object(event_type: str, data: Any) -> None:
    assert "Expected `object`" in reason(envelope(event_type=event_type, event_data=data))


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b"[]", b"{", b"\xff", b'{"event_type": "page_view", "user_id": 1,}', None],
)
def test_what_is_no_event_is_refused(value: bytes | None) -> None:
    with pytest.raises(DecodeError) as raised:
        pipeline.routes["user-events"].decode(value)
    assert not isinstance(raised.value, UnknownType)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        ({}, 0),
        ({"duration": None}, 0),
        ({"duration": 12}, 12),
        ({"duration": 12.5}, Decimal("12.5")),
        ({"duration": "12.5"}, Decimal("12.5")),
        ({"duration": 0.0004}, 0),
        ({"duration": 10**9}, 10**9),
    ],
)
def test_a_duration_is_kept_to_the_millisecond(data: dict[str, Any], seconds: Any) -> None:
    found = decode(envelope(event_data=data)).data.duration
    assert found == seconds
    assert found.as_tuple().exponent == -3


@pytest.mark.parametrize(
    ("duration", "complaint"),
    [
        ("NaN", "event_data: duration is not a number"),
        ("Infinity", "event_data: duration is not a number"),
        ("long", "event_data: duration is not a number"),
        (-1, "event_data: duration is not between 0 and 10^9 seconds: -1"),
        (10**9 + 1, "event_data: duration is not between 0 and 10^9 seconds"),
        (1e300, "event_data: duration is not a number of at most 18 digits"),
        (True, "event_data: Expected"),
        ([], "event_data: Expected"),
    ],
)
def test_any_other_duration_is_refused(duration: Any, complaint: str) -> None:
    assert complaint in reason(envelope(event_data={"duration": duration}))


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (19.99, "19.99"),
        (20, "20"),
        ("19.90", "19.90"),
        ("-5", "-5"),
        (0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-7, "1E-7"),
        (1e17, "1E+17"),
        ("999999999999999999." + "9" * 30, "999999999999999999." + "9" * 30),
    ],
)
def test_an_amount_is_exactly_what_was_written(amount: Any, expected: str) -> None:
    assert str(decode(purchase(amount=amount)).data.amount) == expected


@pytest.mark.parametrize(
    "amount",
    ["NaN", "sNaN", "Infinity", "-inf", "", "1,99", " 1", "1_000", "٣", "1e5", "0x1F", "1" * 19,
     "0." + "1" * 31, 10**18, 1e18, 1e300, 1e-300, -(10**18)],
)  # fmt: skip
def test_any_other_amount_is_refused(amount: Any) -> None:
    told = reason(purchase(amount=amount))
    assert "event_data: amount is not a number of at most 18 digits" in told
    assert len(told) < 250


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_no_number_for_is_refused(amount: str) -> None:
    value = json.dumps(purchase()).replace('"amount": 1', f'"amount": {amount}')
    assert "malformed" in reason(value.encode())


@pytest.mark.parametrize("value", [None, True, [], {}])
def test_an_amount_must_be_there(value: Any) -> None:
    assert "event_data: Expected" in reason(purchase(amount=value))
    assert "missing required field `amount`" in reason(purchase() | {"event_data": {}})


@pytest.mark.parametrize(
    ("data", "product"),
    [
        ({"product_id": 123}, "123"),
        ({"product_id": "P-1", "item": "book"}, "P-1"),
        ({"item": "book"}, "book"),
        ({}, None),
    ],
)
def test_a_product_has_an_id_or_a_name(data: dict[str, Any], product: str | None) -> None:
    assert decode(purchase(**data)).data.product == product


@pytest.mark.parametrize("quantity", [0, -1, 2**31, 10**30, 1.5, "2", True])
def test_a_quantity_is_a_whole_number_above_zero(quantity: Any) -> None:
    assert "event_data: Expected `int" in reason(purchase(quantity=quantity))


NUL_PLACES = [
    envelope(event_type="a\0b"),
    envelope(event_type="login", event_data={"page": "\0"}),
    envelope(event_type="login", event_data={"\0": 1}),
    envelope(event_type="login", event_data={"deep": [{"er": ["\\\0"]}]}),
    envelope(event_data={"page": "/\0"}),
    envelope(event_data={"unknown": "/\0"}),
    purchase(currency="\0"),
    purchase(item="\\\\\0"),
]


@pytest.mark.parametrize("event", NUL_PLACES, ids=range(len(NUL_PLACES)))
def test_a_nul_character_is_refused(event: dict[str, Any]) -> None:
    told = reason(event)
    assert "a text holds the character U+0000, which Postgres cannot store" in told


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000", "\\", "\x01\x1f", "é😀"])
def test_what_only_looks_like_a_nul_is_taken(text: str) -> None:
    event = decode(envelope(event_type="login", event_data={"text": text}))
    assert json.loads(event.json)["event_data"] == {"text": text}


texts = st.text(st.sampled_from('\0\\u"0é😀 '), max_size=8)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, any_json, max_size=3))
def test_a_nul_character_is_refused_wherever_it_is(data: dict[str, Any]) -> None:
    event = json.dumps(envelope(event_type="login", event_data=data)).encode()
    if holds_nul(data):
        assert "U+0000" in reason(event)
    else:
        assert json.loads(decode(event).json).get("event_data", {}) == data


def holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(holds_nul(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(map(holds_nul, value))
    return isinstance(value, str) and "\0" in value


def test_half_a_character_is_refused() -> None:
    value = json.dumps(envelope(event_type="login", event_data={"text": "x"}))
    assert "JSON is malformed" in reason(value.replace('"x"', '"\\ud800"').encode())


def test_a_page_view_is_counted() -> None:
    written = Written(envelope(event_id=str(EVENT_ID)))
    assert written.rows["user_analytics"] == [
        {
            "user_id": 42,
            "page_views": 1,
            "total_duration_seconds": Decimal("12.500"),
            "last_seen": NOON,
        }
    ]
    assert set(written.rows) == {"user_analytics", "processed_events"}
    assert set(written.sent) == {"processed-events"}


def test_page_views_are_merged() -> None:
    views = [
        envelope(timestamp=f"2025-03-01T{hour}:00:00Z", event_data={"duration": hour})
        for hour in (11, 13, 12)
    ]
    merged = Written.__new__(Written)
    merged.rows = {}
    tx = Transaction(merged)
    for view in views:
        handler, event = pipeline.routes["user-events"].decode(json.dumps(view).encode())
        list(handler.call(event, Message("user-events", 0, 0, None, event), tx))
    tx.flush()
    assert merged.rows["user_analytics"] == [
        {
            "user_id": 42,
            "page_views": 3,
            "total_duration_seconds": Decimal(36),
            "last_seen": NOON.replace(hour=13),
        }
    ]


def test_a_purchase_is_kept_and_has_its_receipt() -> None:
    event = purchase(amount="19.90", product_id=5, currency="EUR", quantity=2)
    written = Written(event | {"event_id": str(EVENT_ID)})
    place = {"topic": "user-events", "partition": 3, "offset": 7}
    told = {"user_id": 42, "product": "5", "quantity": 2, "currency": "EUR"}
    assert written.rows["purchases"] == [
        place | told | {"event_id": EVENT_ID, "amount": Decimal("19.90"), "purchased_at": NOON}
    ]
    assert written.sent["purchase-receipts"] == place | told | {
        "event_id": str(EVENT_ID),
        "amount": "19.90",
        "purchased_at": "2025-03-01T12:00:00Z",
    }
    assert set(written.rows) == {"purchases", "processed_events"}
    assert set(written.sent) == {"purchase-receipts", "processed-events"}
    assert written.keys == {b"42"}


def test_a_purchase_is_of_one_piece_unless_told() -> None:
    (row,) = Written(purchase()).rows["purchases"]
    assert (row["quantity"], row["product"], row["currency"], row["event_id"]) == (1, *[None] * 3)


@pytest.mark.parametrize("event_type", ["page_view", "purchase", "login", ""])
def test_every_event_leaves_a_row_and_a_record(event_type: str) -> None:
    event = envelope(
        event_type=event_type,
        user_id="0042",
        event_id=str(EVENT_ID),
        event_data={"amount": 1, "unknown": {"kept": [1, 2.5, None]}},
        unknown="ignored",
    )
    written = Written(event, offset=9)
    (row,) = written.rows["processed_events"]
    stored = json.loads(row.pop("event"))
    assert row == {
        "topic": "user-events",
        "partition": 3,
        "offset": 9,
        "event_type": event_type,
        "user_id": 42,
        "event_time": NOON,
    }
    assert stored == {
        "event_type": event_type,
        "user_id": 42,
        "event_id": str(EVENT_ID),
        "timestamp": "2025-03-01T12:00:00Z",
        "event_data": {"amount": 1, "unknown": {"kept": [1, 2.5, None]}},
    }
    assert written.sent["processed-events"] == {
        "topic": "user-events",
        "partition": 3,
        "offset": 9,
        "event_type": event_type,
        "event_id": str(EVENT_ID),
        "user_id": 42,
        "timestamp": "2025-03-01T12:00:00Z",
    }
    assert written.keys == {b"42"}


def test_what_is_stored_can_be_read_again() -> None:
    event = decode(purchase(amount="19.90", extra=[1]))
    assert decode(event.json) == event


def test_the_pipeline_declares_what_it_uses() -> None:
    pipeline.validate()
    assert pipeline.tables is metadata
    assert {table.schema for table in metadata.sorted_tables} == {"user_events"}
    assert set(pipeline.outputs) == {"purchase-receipts", "processed-events"}
    assert set(pipeline.routes) == {"user-events"}


def test_samples_are_events_of_the_pipeline() -> None:
    stream = sample_events(users=50, seed=1)
    events = [(key, decode(value)) for key, value in itertools.islice(stream, 2_000)]
    assert all(key == str(event.user_id).encode() for key, event in events)
    assert {event.user_id for _, event in events} == set(range(1, 51))
    assert len({event.event_id for _, event in events}) == 2_000
    types = Counter(type(event) for _, event in events)
    assert 1_500 < types[PageView] < 1_700
    assert types[PageView] + types[Purchase] == 2_000


def test_samples_have_the_asked_proportions() -> None:
    stream = sample_events(users=1, types={"login": 3, "purchase": 1, "page_view": 0}, seed=1)
    types = Counter(decode(value).event_type for _, value in itertools.islice(stream, 2_000))
    assert set(types) == {"login", "purchase"}
    assert 1_400 < types["login"] < 1_600


def test_a_seed_and_a_clock_make_the_same_bytes() -> None:
    def ten(seed: int | None) -> list[tuple[bytes, bytes]]:
        return list(itertools.islice(sample_events(seed=seed, clock=lambda: NOON), 10))

    assert ten(1) == ten(1)
    assert ten(1) != ten(2)
    assert ten(None) != ten(None)


@pytest.mark.parametrize(
    ("users", "types", "complaint"),
    [
        (0, None, "at least one user"),
        (1, {}, "the types need proportions"),
        (1, {"page_view": 0}, "the types need proportions"),
        (1, {"page_view": 1, "purchase": -1}, "the types need proportions"),
        (1, {"page_view": float("nan")}, "the types need proportions"),
    ],
)
def test_samples_of_nothing_are_refused(
    users: int, types: dict[str, float] | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        sample_events(users=users, types=types)


def test_an_event_made_in_python_obeys_the_same_rules() -> None:
    event = OtherEvent(
        user_id=1, event_type="login", timestamp=datetime(2025, 3, 1, 12), event_data={}
    )
    assert event.timestamp == NOON
    with pytest.raises(ValueError, match="beyond 64 bits"):
        OtherEvent(user_id=2**63, event_type="login", timestamp=NOON)
    assert msgspec.json.decode(event.json)["timestamp"] == "2025-03-01T12:00:00Z"
