"""The loop that a user would write without any guarantee, doing the same work: at least once.

``python -m bench.baseline INPUT_TOPIC GROUP``: consume what has arrived, write rows and counters to
Postgres, produce the outputs, commit the offsets. A crash repeats or loses effects.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import msgspec
import psycopg
from confluent_kafka import Consumer, Producer

from pipelines.user_events.handlers import PROCESSED, RECEIPTS, pipeline
from processor.binding import Handler
from processor.engine.batch import Partition
from processor.engine.handling import Decoded, timestamp_of, to_message
from processor.engine.session import PostgresSession
from processor.transaction import Transaction

BATCH = 2_000
OUTPUTS = {"processed-events": PROCESSED, "purchase-receipts": RECEIPTS}


def main(topic: str, group: str) -> None:
    servers = os.environ["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"]
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "latest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    producer = Producer(
        {"bootstrap.servers": servers, "acks": "all", "linger.ms": 1, "compression.type": "lz4"}
    )
    connection = psycopg.connect(os.environ["PROCESSOR_DATABASE__URL"])
    consumer.subscribe([topic])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    encode = msgspec.json.Encoder().encode
    route = pipeline.routes["user-events"]
    session = PostgresSession(lambda: connection)
    while not stopped:
        messages = consumer.consume(1, 0.1)
        if messages:
            messages += consumer.consume(BATCH - 1, 0)
        batch = [message for message in messages if message.error() is None]
        if not batch:
            continue
        tx = Transaction(session)
        outputs = []
        for raw in batch:
            handler, event = route.decode(raw.value())
            outputs += list(called(handler, event, raw, tx))
        tx.flush()
        connection.commit()
        for output, when in outputs:
            producer.produce(output.topic, encode(output.value), output.key, timestamp=when or 0)
        producer.flush()
        consumer.commit(asynchronous=True)
    consumer.close()


def called(handler: Handler, event: Any, raw: Any, tx: Transaction) -> Any:
    decoded = Decoded(raw, handler, event, raw.headers() or ())
    message = to_message(Partition(raw.topic(), raw.partition()), decoded)
    for output in handler.call(event, message, tx) or ():
        yield output, timestamp_of(raw)


if __name__ == "__main__":
    main(*sys.argv[1:])
