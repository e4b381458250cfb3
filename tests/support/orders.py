"""A pipeline whose messages have a business key each, for the service under test.

Topics as in ``tests/support/pipelines.py``; ``ENGINE_TEST_RETENTION`` is in seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

from processor import Dedup, Header, Message, Output, Pipeline, Reject, Transaction
from tests.support.pipelines import ACTS, BATCHES, OUTPUT, RAW, Act, Told, effects, totals

orders = Pipeline(
    "orders",
    outputs=[OUTPUT],
    max_dead_letter_ratio=1,
    dedup_retention=timedelta(seconds=float(os.environ.get("ENGINE_TEST_RETENTION", "3600"))),
)
SHARED = Dedup("n", scope="orders")


@orders.handler(ACTS, dedup=SHARED)
def ordered(event: Act, message: Message[Act], tx: Transaction) -> Iterator[Output]:
    """A row for each, and one that all partitions write to."""
    if event.do == "reject":
        raise Reject("as it asks for")
    yield from taken(event.n, message, tx)


@orders.batch_handler(BATCHES, dedup=SHARED)
def ordered_together(messages: Sequence[Message[Act]], tx: Transaction) -> Iterator[Output]:
    for message in messages:
        if message.value.do == "reject":
            raise Reject("as it asks for")
        yield from taken(message.value.n, message, tx)


@orders.handler(RAW, dedup=Header("id"))
def echo(message: Message[bytes]) -> Output:
    return Output(OUTPUT, key=message.key, value=message.value)


def taken(n: int, message: Message[Act], tx: Transaction) -> Iterator[Output]:
    place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    tx.insert(effects, {**place, "n": n})
    tx.upsert(totals, {"name": "orders", "total": 1}, add=["total"])
    yield Output(OUTPUT, key=message.key, value=Told(n))
