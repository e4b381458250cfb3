"""Pipelines for the service under test; each message says what its handler is to do.

Topics come from the environment, so that each service has its own: ``ENGINE_TEST_TOPICS`` is
``acts,raw,batches,output,keyed,dead``.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from processor import Halt, Message, Output, Pipeline, Reject, Retry, Transaction

ACTS, RAW, BATCHES, OUTPUT, KEYED, DEAD = os.environ.get(
    "ENGINE_TEST_TOPICS", "acts,raw,batches,output,keyed,dead"
).split(",")

DEFINITIONS = """
CREATE TABLE effects (topic text, partition int, "offset" bigint, n bigint);
CREATE TABLE once (n bigint PRIMARY KEY);
CREATE TABLE late (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE switches (name text PRIMARY KEY);
CREATE TABLE totals (name text PRIMARY KEY, total bigint NOT NULL);
"""

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("n", BigInteger),
)
once = Table("once", metadata, Column("n", BigInteger, primary_key=True))
late = Table("late", metadata, Column("n", BigInteger))
totals = Table(
    "totals",
    metadata,
    Column("name", Text, primary_key=True),
    Column("total", BigInteger, nullable=False),
)
missing = Table("missing", metadata, Column("n", BigInteger))


class Act(msgspec.Struct, tag_field="type", tag="act"):
    """What a message asks for: ``do`` names one of :data:`DEEDS`."""

    n: int
    do: str = "write"
    text: str = ""


class Told(msgspec.Struct):
    """What an output says."""

    n: int
    more: Any = None


acts = Pipeline("acts", outputs=[OUTPUT])
letters = Pipeline(
    "letters", outputs=[OUTPUT], max_dead_letter_ratio=1, dead_letter_topic=DEAD, tables=metadata
)
"""With a topic of dead letters, and keys that are parked."""

_tries: dict[tuple[int, int], list[float]] = defaultdict(list)


def tell(message: Message[Any], n: int, more: Any = None, **fields: Any) -> Output:
    return Output(OUTPUT, key=message.key, value=Told(n, more), **fields)


@letters.handler(ACTS)
@letters.handler(KEYED, on_failure="park-key")
@acts.handler(ACTS)
def act(event: Act, message: Message[Act], tx: Transaction) -> Iterator[Output]:
    where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    tx.insert(effects, where | {"n": event.n})
    deed = DEEDS.get(event.do)
    told = None if deed is None else deed(event, message, tx)
    if isinstance(told, Output):
        yield told
    elif event.do != "quiet":
        yield tell(message, event.n, told)


def fail(event: Act, message: Message[Act], tx: Transaction) -> None:
    raise ValueError(event.text or "it failed")


def mended(event: Act, message: Message[Act], tx: Transaction) -> None:
    """Fails until the file that the text names is there."""
    if not Path(event.text).exists():
        raise ValueError(f"message {event.n} is not mended")


def asked(event: Act, message: Message[Act], tx: Transaction) -> None:
    """As :func:`mended`, but Postgres is asked, and has something written before."""
    tx.execute("INSERT INTO totals VALUES (%s, 1)", [f"{message.offset} of {message.topic}"])
    if tx.fetch_one("SELECT 1 FROM switches WHERE name = %s", [event.text]) is None:
        raise ValueError(f"message {event.n} is not mended")


def reject(event: Act, message: Message[Act], tx: Transaction) -> None:
    raise Reject("rejected")


def retry(event: Act, message: Message[Act], tx: Transaction) -> list[float]:
    """Succeeds at the third try at the latest; tells when it was tried."""
    tries = _tries[message.partition, message.offset]
    tries.append(time.monotonic())
    if tries[-1] - tries[0] < 1.0:
        raise Retry("later", after=1.0)
    return tries


def later(event: Act, message: Message[Act], tx: Transaction) -> None:
    """Never; the file that the text names tells when it was tried."""
    with Path(event.text).open("a") as file:
        file.write(f"{time.time()}\n")
    raise Retry("later", after=1.5)


def halt(event: Act, message: Message[Act], tx: Transaction) -> None:
    if tx.fetch_one("SELECT 1 FROM switches WHERE name = %s", [event.text]) is None:
        raise Halt("the switch is off")


def undeclared(event: Act, message: Message[Act], tx: Transaction) -> Output:
    return Output("undeclared", value=b"")


def refused(event: Act, message: Message[Act], tx: Transaction) -> None:
    tx.insert(missing, {"n": event.n})


def constraint(event: Act, message: Message[Act], tx: Transaction) -> None:
    tx.insert(once, {"n": event.n})


def deferred(event: Act, message: Message[Act], tx: Transaction) -> None:
    tx.insert(late, {"n": event.n})


def large(event: Act, message: Message[Act], tx: Transaction) -> str:
    return "x" * 3_000_000


def text(event: Act, message: Message[Act], tx: Transaction) -> None:
    tx.execute("SELECT %s::text", [event.text])


def total(event: Act, message: Message[Act], tx: Transaction) -> int:
    """Reads, then writes what depends on it."""
    found = tx.fetch_one("SELECT total FROM totals WHERE name = %s", [event.text])
    now = event.n + (found[0] if found else 0)
    tx.execute(
        "INSERT INTO totals VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET total = %s",
        [event.text, now, now],
    )
    return now


def swallow(event: Act, message: Message[Act], tx: Transaction) -> None:
    try:
        tx.execute("SELECT 1 / 0")
    except Exception:
        return


def slow(event: Act, message: Message[Act], tx: Transaction) -> None:
    time.sleep(0.05)


def hang(event: Act, message: Message[Act], tx: Transaction) -> None:
    """The first time, for far too long; the file that the text names remembers it."""
    mark = Path(event.text)
    if not mark.exists():
        mark.touch()
        time.sleep(60)


def linger(event: Act, message: Message[Act], tx: Transaction) -> None:
    """Works on after a statement, while the file that the text names is there."""
    tx.fetch_one("SELECT 1")
    if Path(event.text).exists():
        time.sleep(1.5)


def odd(event: Act, message: Message[Act], tx: Transaction) -> Output:
    """Outputs that Kafka or its client would not take; the text names the field."""
    fields: dict[str, dict[str, Any]] = {
        "partition": {"partition": 10_000},
        "timestamp": {"timestamp": 1.5},
        "early": {"timestamp": -5},
        "header": {"headers": [("name", 5)]},
        "surrogate": {"headers": [("\ud800", b"")]},
        "key": {"key": 5},
    }
    return Output(OUTPUT, value=Told(event.n), **fields[event.text])


DEEDS: dict[str, Any] = {
    "fail": fail,
    "mended": mended,
    "later": later,
    "asked": asked,
    "reject": reject,
    "retry": retry,
    "halt": halt,
    "undeclared": undeclared,
    "refused": refused,
    "constraint": constraint,
    "deferred": deferred,
    "large": large,
    "text": text,
    "total": total,
    "swallow": swallow,
    "slow": slow,
    "odd": odd,
    "hang": hang,
    "linger": linger,
}


@acts.handler(RAW)
def echo(message: Message[bytes]) -> Iterator[Output]:
    """Passes a message on as it came."""
    yield Output(OUTPUT, key=message.key, value=message.value, headers=message.headers)


@letters.batch_handler(BATCHES)
@acts.batch_handler(BATCHES)
def together(messages: Sequence[Message[Act]], tx: Transaction) -> Iterator[Output]:
    for message in messages:
        where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        tx.insert(effects, where | {"n": message.value.n})
        if message.value.do == "fail":
            raise ValueError("it failed")
    yield tell(messages[-1], len(messages), [message.offset for message in messages])
