"""The processor's side: one pipeline for each kind of work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.work.bad import is_bad
from bench.work.events import Event, counters, done, metadata, rows
from processor import Message, Output, Pipeline, Transaction

INPUT = os.environ.get("BENCH_INPUT", "bench-input")
OUTPUT = os.environ.get("BENCH_OUTPUT", "bench-output")

transform = Pipeline("bench", outputs=[OUTPUT])
full = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
once = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
batch = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
slow = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
raising = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
refused = Pipeline("bench", outputs=[OUTPUT], tables=metadata)
refused_upsert = Pipeline("bench", outputs=[OUTPUT], tables=metadata)

TOO_LARGE = 2**63
"""For a bigint."""


@transform.handler(INPUT)
def transformed(event: Event, message: Message[Any]) -> Output:
    """Kafka to Kafka."""
    return Output(OUTPUT, key=message.key, value=done(event))


@full.handler(INPUT)
def kept(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """A row, a counter and an output for each message."""
    tx.insert(rows, row(event, message))
    tx.upsert(counters, counter(event), add=["messages", "amount"])
    return Output(OUTPUT, key=message.key, value=done(event))


@once.handler(INPUT, dedup="order")
def kept_once(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """The same work for the first message of an order."""
    return kept(event, message, tx)


@batch.batch_handler(INPUT)
def kept_together(messages: Sequence[Message[Event]], tx: Transaction) -> Iterator[Output]:
    """The same work, by partition."""
    for message in messages:
        event = message.value
        tx.insert(rows, row(event, message))
        tx.upsert(counters, counter(event), add=["messages", "amount"])
        yield Output(OUTPUT, key=message.key, value=done(event))


@slow.handler(INPUT)
def kept_slowly(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """The full work; one partition's messages ask somebody who takes a while."""
    if message.partition == 0:
        time.sleep(0.01)
    return kept(event, message, tx)


@raising.handler(INPUT)
def kept_or_raised(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """The full work; one message of a hundred fails when all of it is buffered."""
    output = kept(event, message, tx)
    if is_bad(message.partition, message.offset):
        raise ValueError("it is bad")
    return output


@refused.handler(INPUT)
def kept_or_refused(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """The full work; the row of one message of a hundred breaks a constraint, at the flush."""
    kind = None if is_bad(message.partition, message.offset) else event.kind
    tx.insert(rows, {**row(event, message), "kind": kind})
    tx.upsert(counters, counter(event), add=["messages", "amount"])
    return Output(OUTPUT, key=message.key, value=done(event))


@refused_upsert.handler(INPUT)
def kept_or_refused_merged(event: Event, message: Message[Any], tx: Transaction) -> Output:
    """The same of an upsert, of which Postgres does not say whose row it was."""
    amount = TOO_LARGE if is_bad(message.partition, message.offset) else event.amount
    tx.insert(rows, row(event, message))
    tx.upsert(counters, {**counter(event), "amount": amount}, add=["messages", "amount"])
    return Output(OUTPUT, key=message.key, value=done(event))


def row(event: Event, message: Message[Any]) -> dict[str, Any]:
    return {
        "partition": message.partition,
        "offset": message.offset,
        "user_id": event.user_id,
        "amount": event.amount,
        "kind": event.kind,
    }


def counter(event: Event) -> dict[str, Any]:
    return {"user_id": event.user_id, "messages": 1, "amount": event.amount}
