"""The loops that a user would write by hand, with the same decode, encode and tables.

``python -m bench.work.floors WORK``, ended by SIGTERM:

``raw``            Kafka to Kafka in transactions, one producer, nothing checked, no recovery.
``at-least-once``  row, counter and output; offsets committed behind them: a crash repeats effects.
``per-message``    the same, correct: one Postgres transaction and one Kafka transaction a message.
``copy``           rows into Postgres, no Kafka.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

import msgspec
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.work.events import Event, done

SERVERS = os.environ["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"]
DATABASE = os.environ["PROCESSOR_DATABASE__URL"]
INPUT, OUTPUT, GROUP = (os.environ[f"BENCH_{n}"] for n in ("INPUT", "OUTPUT", "GROUP"))
BOUND = int(os.environ["BENCH_BOUND"])

COPY_ROWS: LiteralString = 'COPY bench.rows (partition, "offset", user_id, amount, kind) FROM STDIN'

WRITE_ONCE = """
WITH new AS (
    INSERT INTO bench.rows (partition, "offset", user_id, amount, kind)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING user_id, amount
)
INSERT INTO bench.counters AS c (user_id, messages, amount) SELECT user_id, 1, amount FROM new
ON CONFLICT (user_id) DO UPDATE
SET messages = c.messages + 1, amount = c.amount + excluded.amount
"""
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode
stopped: list[int] = []


def consumer() -> Consumer:
    """As the processor's own is set: nothing lingers."""
    made = Consumer(
        {
            "bootstrap.servers": SERVERS,
            "group.id": GROUP,
            "group.instance.id": f"{GROUP}-0",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    made.subscribe([INPUT])
    return made


def batches(source: Consumer, bound: int = BOUND) -> Any:
    """What has arrived, up to the bound."""
    while not stopped:
        messages = source.consume(1, 0.1)
        if messages and bound > 1:
            messages += source.consume(bound - 1, 0)
        batch = [message for message in messages if message.error() is None]
        if batch:
            yield batch
    source.close()


Decoded = list[tuple[Any, Event]]


def decoded(batch: Sequence[Any]) -> Decoded:
    return [(message, decode(message.value())) for message in batch]


def raw() -> None:
    source = consumer()
    producer = transactional()
    for batch in batches(source):
        producer.begin_transaction()
        send(producer, decoded(batch))
        producer.send_offsets_to_transaction(after(batch), source.consumer_group_metadata())
        producer.commit_transaction()


def transactional() -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": SERVERS,
            "transactional.id": GROUP,
            "compression.type": "lz4",
            "linger.ms": 1,
            "retry.backoff.ms": 1,
            "retry.backoff.max.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions()
    return producer


def at_least_once() -> None:
    source = consumer()
    producer = Producer(
        {
            "bootstrap.servers": SERVERS,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 1,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    with psycopg.connect(DATABASE) as connection:
        for batch in batches(source):
            events = decoded(batch)
            write(connection, events)
            connection.commit()
            send(producer, events)
            producer.flush()
            source.commit(offsets=after(batch), asynchronous=not stopped)


def per_message() -> None:
    """The row is the proof: what is read again after a crash changes nothing in the database, and
    its output takes effect with its offset. Right only while outputs do not depend on the database.
    """
    source = consumer()
    producer = transactional()
    with psycopg.connect(DATABASE) as connection:
        for batch in batches(source, 1):
            [(message, event)] = events = decoded(batch)
            producer.begin_transaction()
            send(producer, events)
            place = (message.partition(), message.offset())
            connection.execute(WRITE_ONCE, (*place, event.user_id, event.amount, event.kind))
            producer.send_offsets_to_transaction(after(batch), source.consumer_group_metadata())
            connection.commit()
            producer.commit_transaction()


def write(connection: psycopg.Connection, events: Decoded) -> None:
    """COPY for the rows, one statement for the counters."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    with connection.cursor() as cursor:
        with cursor.copy(COPY_ROWS) as copy:
            for message, event in events:
                copy.write_row(
                    (message.partition(), message.offset(), event.user_id, event.amount, event.kind)
                )
                total = sums[event.user_id]
                total[0] += 1
                total[1] += event.amount
        users = sorted(sums)
        cursor.execute(
            "INSERT INTO bench.counters AS c (user_id, messages, amount)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])"
            " ON CONFLICT (user_id) DO UPDATE"
            " SET messages = c.messages + excluded.messages, amount = c.amount + excluded.amount",
            (users, [sums[u][0] for u in users], [sums[u][1] for u in users]),
        )


def send(producer: Producer, events: Decoded) -> None:
    for message, event in events:
        value = encode(done(event))
        producer.produce(OUTPUT, value, message.key(), timestamp=message.timestamp()[1])


def after(batch: Sequence[Any]) -> list[TopicPartition]:
    """Where to go on, by partition."""
    ends = {message.partition(): message.offset() + 1 for message in batch}
    return [TopicPartition(INPUT, number, end) for number, end in ends.items()]


def copy() -> None:
    """As many rows as go, in batches of the bound; the total after each."""
    total = 0
    with psycopg.connect(DATABASE) as connection:
        while not stopped:
            with (
                connection.cursor() as cursor,
                cursor.copy(COPY_ROWS) as rows,
            ):
                for number in range(total, total + BOUND):
                    rows.write_row((0, number, number % 1_000, number % 100, "purchase"))
            connection.commit()
            total += BOUND
            print(total, flush=True)


WORKS: dict[str, Callable[[], None]] = {
    "raw": raw,
    "at-least-once": at_least_once,
    "per-message": per_message,
    "copy": copy,
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    WORKS[sys.argv[1]]()
