"""What the campaign's workers do, and the ways in which a message can be bad.

Two topics: numbers, of which each is for itself, and steps, which take effect in the order of their
key (``park-key``). What fails at first can be mended: the code by a file, the data by a row, the
schema by dropping its constraints, the message itself by an edit.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from processor import Message, Output, Pipeline, Transaction

GROUP = "poison"
NUMBERS, STEPS = "poison-numbers", "poison-steps"
TOLD, STEPPED, DEAD = "poison-told", "poison-stepped", "poison-dead"
BUCKETS = 50
MOST_BYTES = 65_536
"""Of a record, by the output topics' configuration."""
SLOW_SECONDS = 0.01
MENDED = Path(os.environ.get("POISON_MENDED", "mended"))
"""The code is mended once a file of this name and a kind's is there."""

DEFINITIONS = """
CREATE TABLE effects (
    id bigint GENERATED ALWAYS AS IDENTITY,
    partition int NOT NULL, "offset" bigint NOT NULL, number bigint NOT NULL,
    weight int NOT NULL CONSTRAINT not_light CHECK (weight >= 0)
);
CREATE TABLE totals (
    partition int, bucket int, count bigint NOT NULL,
    lightest int NOT NULL CONSTRAINT none_light CHECK (lightest >= 0),
    PRIMARY KEY (partition, bucket)
);
CREATE TABLE stepped (
    id bigint GENERATED ALWAYS AS IDENTITY,
    key text NOT NULL, seq bigint NOT NULL, before bigint NOT NULL,
    weight int NOT NULL CONSTRAINT no_light_step CHECK (weight >= 0)
);
CREATE TABLE latest (key text PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE switches (name text PRIMARY KEY);
"""
"""``id`` tells in which order effects were written; nothing refuses a second one."""

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("number", BigInteger),
    Column("weight", Integer),
)
totals = Table(
    "totals",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("count", BigInteger),
    Column("lightest", Integer),
)
stepped = Table(
    "stepped",
    metadata,
    Column("key", Text),
    Column("seq", BigInteger),
    Column("before", BigInteger),
    Column("weight", Integer),
)
latest = Table("latest", metadata, Column("key", Text, primary_key=True), Column("seq", BigInteger))


class Kind(StrEnum):
    """What a message is; all but the first are bad."""

    GOOD = "good"
    UNDECODABLE = "undecodable"
    RAISES = "raises"
    CONSTRAINT = "constraint"
    """Only Postgres finds it, at the flush: in a COPY, or in an upsert of many rows."""
    TOO_LARGE = "too large"
    SLOW = "slow"
    """It asks Postgres, takes its time, and fails then."""
    LATE = "late"
    """As one that raises; among steps only, and mended long after the others."""


BAD = tuple(kind for kind in Kind if kind not in (Kind.GOOD, Kind.LATE))


class Number(msgspec.Struct):
    """A message for itself."""

    n: int
    kind: Kind = Kind.GOOD


class Told(msgspec.Struct):
    """What an output says of the number that it comes from."""

    n: int
    partition: int
    offset: int
    padding: str = ""


class Step(msgspec.Struct):
    """The next message of its key."""

    seq: int
    kind: Kind = Kind.GOOD


class Stepped(msgspec.Struct):
    """What an output says of the step that it comes from; its key is the step's."""

    seq: int
    padding: str = ""


pipeline = Pipeline(
    GROUP, outputs=[TOLD, STEPPED], dead_letter_topic=DEAD, max_dead_letter_ratio=0.5
)


@pipeline.handler(NUMBERS)
def numbered(event: Number, message: Message[Number], tx: Transaction) -> Output:
    """Inserts where twice would be seen, counts where twice would be counted."""
    by_copy = by_upsert = 0
    if event.kind == Kind.CONSTRAINT:
        by_copy, by_upsert = (-1, 0) if event.n % 2 else (0, -1)
    place = {"partition": message.partition, "offset": message.offset}
    tx.insert(effects, {**place, "number": event.n, "weight": by_copy})
    bucket = {"partition": message.partition, "bucket": bucket_of(event.n)}
    tx.upsert(
        totals, {**bucket, "count": 1, "lightest": by_upsert}, add=["count"], min=["lightest"]
    )
    fail(event.kind, tx)
    told = Told(event.n, message.partition, message.offset, padding_of(event.kind))
    return Output(TOLD, key=message.key, value=told)


@pipeline.handler(STEPS, on_failure="park-key")
def step(event: Step, message: Message[Step], tx: Transaction) -> Output:
    """Reads what the step before has left, and leaves its own."""
    key = name_of(message)
    found = tx.fetch_one("SELECT seq FROM latest WHERE key = %s", [key])
    weight = -1 if event.kind == Kind.CONSTRAINT else 0
    before = found[0] if found else -1
    tx.insert(stepped, {"key": key, "seq": event.seq, "before": before, "weight": weight})
    tx.upsert(latest, {"key": key, "seq": event.seq}, set=["seq"])
    fail(event.kind, tx)
    value = Stepped(event.seq, padding_of(event.kind))
    return Output(STEPPED, key=message.key, value=value)


def fail(kind: Kind, tx: Transaction) -> None:
    """:raises ValueError: for what is bad, until it is mended."""
    if kind in (Kind.RAISES, Kind.LATE) and not mark_of(MENDED, kind).exists():
        raise ValueError(f"this code cannot do {kind}")
    if kind == Kind.SLOW and tx.fetch_one("SELECT FROM switches WHERE name = 'slow'") is None:
        time.sleep(SLOW_SECONDS)
        raise ValueError("the switch is off")


def padding_of(kind: Kind) -> str:
    return "x" * (2 * MOST_BYTES) if kind == Kind.TOO_LARGE else ""


def mark_of(mended: Path, kind: Kind) -> Path:
    """The file that says that the code is mended."""
    return mended.with_name(f"{mended.name}-{kind}")


def name_of(message: Message[Any]) -> str:
    assert message.key is not None, "steps have keys"
    return message.key.decode()


def bucket_of(number: int) -> int:
    return number % BUCKETS
