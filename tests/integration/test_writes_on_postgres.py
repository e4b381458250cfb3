"""Buffered writes on the real Postgres: merged as one by one, and nothing that it refuses."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, DateTime, Float, Integer, MetaData, Numeric, Table, Text

from pipelines.user_events import pipeline, sample_events
from pipelines.user_events import tables as user_events
from processor import Message, Transaction
from processor.engine.session import PostgresSession

metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("mail", Text, unique=True),
    Column("views", BigInteger, server_default="0"),
    Column("score", Numeric, server_default="7"),
    Column("seen", DateTime(timezone=True)),
    Column("name", Text),
    Column("ratio", Float),
    Column("level", Integer),
)
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
VALUES: dict[str, list[Any]] = {
    "views": [None, 0, 1, -3, 2**40],
    "score": [None, Decimal("0.01"), Decimal("1e29"), Decimal(-5), 3],
    "seen": [None, NOON, NOON + timedelta(hours=1), NOON - timedelta(days=1)],
    "name": [None, "a", "B", "b", "ä", ""],
    "ratio": [None, 0.5, -2.0, float("nan"), float("inf")],
    "level": [None, 1, 2],
}
OPERATIONS = {
    "views": ["add", "max", "min", "set"],
    "score": ["add", "max", "min", "set"],
    "seen": ["max", "min", "set"],
    "name": ["max", "min", "set"],
    "ratio": ["max", "min", "set"],
    "level": ["add", "set"],
}


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as setting_up:
        metadata.create_all(setting_up)
        setting_up.execute(sa.schema.CreateSchema(user_events.SCHEMA))
        user_events.metadata.create_all(setting_up)
    engine.dispose()
    with psycopg.connect(database) as connection:
        yield connection


@pytest.mark.parametrize("seed", range(12))
def test_merged_upserts_leave_what_the_calls_one_by_one_leave(
    connection: psycopg.Connection[tuple[Any, ...]], seed: int
) -> None:
    calls = list(itertools.islice(upserts(random.Random(seed)), 60))

    def left(flush_each: bool) -> list[tuple[Any, ...]]:
        tx = Transaction(PostgresSession(lambda: connection))
        for row, how in calls:
            tx.upsert(accounts, row, **how)
            if flush_each:
                tx.flush()
        tx.flush()
        rows = connection.execute("SELECT a.*, a::text FROM accounts a ORDER BY id").fetchall()
        connection.rollback()
        return [tuple(map(str, row)) for row in rows]

    expected = left(flush_each=True)
    assert len(expected) == 4
    assert left(flush_each=False) == expected


def upserts(random: random.Random) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Calls for four accounts, by either of the two keys, with any mix of operations."""
    while True:
        who = random.randint(1, 4)
        row: dict[str, Any] = {"id": who, "mail": f"{who}@example.org"}
        how: dict[str, Any] = {"add": [], "max": [], "min": [], "set": []}
        how["key"] = [random.choice(["id", "mail"])]
        how["set"] += [name for name in row if name not in how["key"]]
        for column in random.sample(sorted(VALUES), random.randint(0, 3)):
            row[column] = random.choice(VALUES[column])
            how[random.choice(OPERATIONS[column])].append(column)
        yield row, how


Apply = Callable[..., None]


@pytest.fixture
def apply(connection: psycopg.Connection[tuple[Any, ...]]) -> Apply:
    """Handles values, as the messages of one partition, and writes what the handlers wrote."""
    offsets = itertools.count()

    def handle(*values: bytes) -> None:
        tx = Transaction(PostgresSession(lambda: connection))
        for value in values:
            handler, event = pipeline.routes["user-events"].decode(value)
            message = Message("user-events", 0, next(offsets), b"1", event)
            list(handler.call(event, message, tx))
        tx.flush()

    return handle


def envelope(**changes: Any) -> bytes:
    event = {"event_type": "login", "user_id": 1, "timestamp": "2025-03-01T12:00:00Z"}
    return json.dumps(event | changes).encode()


def test_samples_add_up(connection: psycopg.Connection[tuple[Any, ...]], apply: Apply) -> None:
    values = [value for _, value in itertools.islice(sample_events(users=20, seed=3), 2_000)]
    apply(*values[:1_500])
    apply(*values[1_500:])
    events = [json.loads(value) for value in values]
    views = [each for each in events if each["event_type"] == "page_view"]
    bought = [each for each in events if each["event_type"] == "purchase"]
    counted = connection.execute(
        "SELECT sum(page_views), sum(total_duration_seconds), max(last_seen), count(*)"
        " FROM user_events.user_analytics"
    ).fetchone()
    assert counted == (
        len(views),
        sum(Decimal(str(each["event_data"]["duration"])) for each in views),
        max(datetime.fromisoformat(each["timestamp"]) for each in views),
        20,
    )
    paid = connection.execute(
        'SELECT sum(amount), count(DISTINCT event_id), min("offset") >= 0'
        " FROM user_events.purchases"
    ).fetchone()
    assert paid == (
        sum(Decimal(each["event_data"]["amount"]) for each in bought),
        len(bought),
        True,
    )
    stored = connection.execute(
        'SELECT event FROM user_events.processed_events ORDER BY "offset"'
    ).fetchall()
    assert [event for (event,) in stored] == events


@pytest.mark.parametrize(
    "value",
    [
        envelope(user_id=2**63 - 1),
        envelope(user_id=str(-(2**63))),
        envelope(event_type=""),
        envelope(event_type="\x01\n\t\\N\\.\\u0000"),
        envelope(event_type="x" * 100_000),
        envelope(timestamp="0001-01-01T00:00:00Z"),
        envelope(timestamp="9999-12-31T23:59:59.999999Z"),
        envelope(event_data={"": None, "text": "\\u0000 \\. \t\r\n \x7f é 😀 \u2028"}),
        envelope(event_data={"numbers": [1e308, -1e-308, 10**300, 0.1, -0.0]}),
        envelope(event_data={"key" + str(n): n for n in range(5_000)}),
        b'{"event_type":"login","user_id":1,"timestamp":"2025-03-01",'
        b'"event_data":{"n":[1e-20000,0e400],"twice":1,"twice":2}}',
        b'{"event_type":"login","user_id":1,"timestamp":"2025-03-01","event_data":{"deep":'
        + b"[" * 500 + b"]" * 500 + b"}}",
        envelope(event_type="page_view", event_data={"duration": 10**9}),
        envelope(event_type="purchase", event_data={"amount": 1e17, "item": "\\N"}),
        envelope(event_type="purchase", event_data={"amount": "-0." + "0" * 29 + "1"}),
        envelope(
            event_type="purchase",
            event_data={"amount": 1e-12, "product_id": 10**100, "quantity": 2**31 - 1},
        ),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_what_decodes_can_be_stored(
    connection: psycopg.Connection[tuple[Any, ...]], apply: Apply, value: bytes
) -> None:
    apply(value)
    (event,) = pipeline.routes["user-events"].decode(value)[1:]
    row = connection.execute(
        "SELECT user_id, event_type, event_time::text, event FROM user_events.processed_events"
    ).fetchone()
    assert row is not None
    assert row[:2] == (event.user_id, event.event_type)
    assert in_floats(row[3]) == in_floats(json.loads(event.json))
    if event.event_type == "purchase":
        amounts = connection.execute("SELECT amount FROM user_events.purchases").fetchall()
        assert amounts == [(event.data.amount,)]


def in_floats(value: Any) -> Any:
    """With all numbers of one kind: jsonb gives 1e+308 back as 309 digits."""
    return json.loads(json.dumps(value), parse_int=float)
