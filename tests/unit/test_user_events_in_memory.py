"""The user-events pipeline as its users would test it: through the engine, without servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipelines.user_events import pipeline
from pipelines.user_events.tables import processed_events, purchases, user_analytics
from processor.testing import BATCH_STEPS, EDGES, PipelineTest, Step

EVENTS = [
    {
        "event_type": "page_view",
        "user_id": "42",
        "timestamp": "2025-03-01T12:00:00Z",
        "event_data": {"page": "/home", "duration": 1.5},
    },
    {
        "event_type": "purchase",
        "user_id": 42,
        "timestamp": "2025-03-01T12:05:00+01:00",
        "event_data": {"amount": "19.90", "currency": "EUR", "item": "book", "quantity": 2},
    },
    {
        "event_type": "page_view",
        "user_id": 42,
        "timestamp": "2025-03-01T11:00:00Z",
        "event_data": {"page": "/book", "duration": 3},
    },
    {"event_type": "login", "user_id": 42, "timestamp": "2025-03-01T12:06:00Z"},
]


def send_all(test: PipelineTest) -> None:
    for event in EVENTS:
        test.send("user-events", event, key="42")


@pytest.fixture
def test() -> Iterator[PipelineTest]:
    with PipelineTest(pipeline) as made:
        yield made


def test_views_are_added_up(test: PipelineTest) -> None:
    send_all(test)
    assert test.rows(user_analytics) == [
        {
            "user_id": 42,
            "page_views": 2,
            "total_duration_seconds": Decimal("4.500"),
            "last_seen": datetime(2025, 3, 1, 12, tzinfo=UTC),
        }
    ]


def test_a_purchase_is_kept_and_its_receipt_sent(test: PipelineTest) -> None:
    send_all(test)
    [row] = test.rows(purchases)
    assert (row["offset"], row["amount"], row["product"]) == (1, Decimal("19.90"), "book")
    [receipt] = test.outputs("purchase-receipts")
    assert receipt.key == b"42"
    assert receipt.json() == {
        "topic": "user-events",
        "partition": 0,
        "offset": 1,
        "event_id": None,
        "user_id": 42,
        "product": "book",
        "quantity": 2,
        "amount": "19.90",
        "currency": "EUR",
        "purchased_at": "2025-03-01T11:05:00Z",
    }


def test_every_event_leaves_a_row_and_a_record(test: PipelineTest) -> None:
    send_all(test)
    assert [row["event_type"] for row in test.rows(processed_events)] == [
        event["event_type"] for event in EVENTS
    ]
    assert [each.json()["offset"] for each in test.outputs("processed-events")] == [0, 1, 2, 3]
    assert test.rows(processed_events)[0]["event"]["event_data"]["page"] == "/home"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "Input data was truncated"),
        ({**EVENTS[0], "user_id": "abc"}, "user_id is not a whole number: 'abc'"),
        ({**EVENTS[1], "event_data": {"amount": "NaN"}}, "amount is not a number of at most 18"),
        (None, "null"),
    ],
)
def test_a_bad_event_is_set_aside_alone(test: PipelineTest, value: Any, reason: str) -> None:
    bad = test.send("user-events", value, key="42")
    send_all(test)
    [letter] = test.dead_letters()
    assert letter.offset == bad.offset
    assert reason in letter.reason
    assert len(test.rows(processed_events)) == len(EVENTS)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("step", BATCH_STEPS)
def test_a_crash_changes_nothing(step: Step, edge: str) -> None:
    with PipelineTest(pipeline) as calm, PipelineTest(pipeline) as test:
        test.crash_at(step, edge)
        for each in (calm, test):
            send_all(each)
        for table in (user_analytics, purchases, processed_events):
            assert test.rows(table) == calm.rows(table)
        for topic in pipeline.outputs:
            told = [(each.key, each.value) for each in test.outputs(topic)]
            assert told == [(each.key, each.value) for each in calm.outputs(topic)]
            assert told
