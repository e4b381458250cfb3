"""What the campaign's workers do: a row, a count and an output for each number."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table

from processor import Message, Output, Pipeline, Reject, Transaction
from tests.faults.chaos import planted

GROUP = "chaos"
NUMBERS, TOLD = "chaos-numbers", "chaos-told"
BUCKETS = 50
REJECTED_EVERY = 100_000
"""Now and then one message is bad, which makes its batch run message by message."""

DEFINITIONS = """
CREATE TABLE effects (
    id bigint GENERATED ALWAYS AS IDENTITY,
    partition int NOT NULL, "offset" bigint NOT NULL, number bigint NOT NULL
);
CREATE TABLE totals (
    partition int, bucket int, count bigint NOT NULL, PRIMARY KEY (partition, bucket)
);
"""
"""``id`` tells in which order effects were written; nothing refuses a second one."""

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("number", BigInteger),
)
totals = Table(
    "totals",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("count", BigInteger),
)

planted.plant()


class Number(msgspec.Struct):
    """A message, and what is told of it."""

    n: int


pipeline = Pipeline(GROUP, outputs=[TOLD])


@pipeline.handler(NUMBERS)
def handle(event: Number, message: Message[Number], tx: Transaction) -> Iterator[Output]:
    """Inserts where twice would be seen, counts where twice would be counted."""
    if is_bad(event.n):
        raise Reject("every so many are bad")
    row = {"partition": message.partition, "offset": message.offset, "number": event.n}
    tx.insert(effects, row)
    count = {"partition": message.partition, "bucket": bucket_of(event.n), "count": 1}
    tx.upsert(totals, count, add=["count"])
    yield Output(TOLD, key=message.key, value=event)


def is_bad(number: int) -> bool:
    return number % REJECTED_EVERY == REJECTED_EVERY - 1


def bucket_of(number: int) -> int:
    return number % BUCKETS
