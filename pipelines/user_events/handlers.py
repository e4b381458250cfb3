"""What becomes of a user's events.

Each handler does what is particular to its type and ends with ``processed``, which is the same
for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from pipelines.user_events.events import OtherEvent, PageView, Purchase, UserEvent
from pipelines.user_events.tables import metadata, processed_events, purchases, user_analytics
from processor import Message, Output, Pipeline, Transaction

USER_EVENTS = "user-events"
RECEIPTS = "purchase-receipts"
PROCESSED = "processed-events"

pipeline = Pipeline("user-events", outputs=[RECEIPTS, PROCESSED], tables=metadata)


class Receipt(Struct):
    """The value on ``purchase-receipts``; the amount is written as text, no digit is lost."""

    topic: str
    partition: int
    offset: int
    event_id: UUID | None
    user_id: int
    product: str | None
    quantity: int
    amount: Decimal
    currency: str | None
    purchased_at: datetime


class Processed(Struct):
    """The value on ``processed-events``: which message it was and what it told."""

    topic: str
    partition: int
    offset: int
    event_type: str
    event_id: UUID | None
    user_id: int
    timestamp: datetime


@pipeline.handler(USER_EVENTS)
def page_viewed(event: PageView, message: Message[Any], tx: Transaction) -> Iterator[Output]:
    """Count the view for its user."""
    tx.upsert(
        user_analytics,
        {
            "user_id": event.user_id,
            "page_views": 1,
            "total_duration_seconds": event.data.duration,
            "last_seen": event.timestamp,
        },
        add=["page_views", "total_duration_seconds"],
        max=["last_seen"],
    )
    yield processed(event, message, tx)


@pipeline.handler(USER_EVENTS)
def purchased(event: Purchase, message: Message[Any], tx: Transaction) -> Iterator[Output]:
    """Keep the purchase and send its receipt."""
    receipt = Receipt(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        event_id=event.event_id,
        user_id=event.user_id,
        product=event.data.product,
        quantity=event.data.quantity or 1,
        amount=event.data.amount,
        currency=event.data.currency,
        purchased_at=event.timestamp,
    )
    tx.insert(purchases, msgspec.structs.asdict(receipt))
    yield Output(RECEIPTS, key=message.key, value=receipt)
    yield processed(event, message, tx)


@pipeline.handler(USER_EVENTS)
def happened(event: OtherEvent, message: Message[Any], tx: Transaction) -> Iterator[Output]:
    """Nothing particular: an event of a type that has no handler of its own."""
    yield processed(event, message, tx)


def processed(event: UserEvent, message: Message[Any], tx: Transaction) -> Output:
    """What every event leaves behind: a row, and the record that this returns."""
    tx.insert(
        processed_events,
        {
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "event_type": event.event_type,
            "user_id": event.user_id,
            "event_time": event.timestamp,
            "event": event.json.decode(),
        },
    )
    return Output(
        PROCESSED,
        key=message.key,
        value=Processed(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            event_type=event.event_type,
            event_id=event.event_id,
            user_id=event.user_id,
            timestamp=event.timestamp,
        ),
    )
