"""Both stores, read whole from their ends into the checker's history."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from processor.engine.outbox import PROVENANCE_HEADER, read_provenance
from tests.faults.chaos.pipeline import NUMBERS, TOLD, Number, bucket_of, is_bad
from tests.support.checker import Violation, check
from tests.support.history import Effect, History, Input, Letter, Output, Sample

READ_SECONDS = 300.0
FETCH_ROWS = 50_000

_decode = msgspec.json.Decoder(Number).decode


class UnauditableError(Exception):
    """What happened cannot be judged, and no figure may be told of it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in both stores."""

    messages: int
    effects: int
    outputs: int
    dead_letters: int
    violations: Sequence[Violation]
    miscounted: int
    """Counters in Postgres that do not say how many messages they stand for."""


def audit(
    servers: str, url: str, sent: int, samples: Sequence[Sample], ends: dict[int, int]
) -> Verdict:
    """Read everything, and compare.

    :param sent: how many numbers Kafka has confirmed, beginning with 0.
    :raises UnauditableError: when the input topic does not hold each of them once.
    """
    inputs = [_input(message) for message in read_topic(servers, NUMBERS)]
    if sorted(each.number for each in inputs) != list(range(sent)):
        raise UnauditableError(
            f"the input topic holds {len(inputs)} messages, {sent} were confirmed"
        )
    history = History(inputs, samples=samples, ends=ends)
    history.outputs = [_output(message) for message in read_topic(servers, TOLD)]
    with psycopg.connect(url) as connection:
        history.effects = [Effect(*row) for row in _rows(connection, _EFFECTS)]
        history.letters = [Letter(p, at, tuple(c)) for p, at, *c in _rows(connection, _LETTERS)]
        totals = {(row[0], row[1]): row[2] for row in _rows(connection, _TOTALS)}
    return Verdict(
        len(inputs),
        len(history.effects),
        len(history.outputs),
        len(history.letters),
        check(history),
        _miscounted(inputs, totals),
    )


def _input(message: Any) -> Input:
    number = _decode(message.value()).n
    bad, key, stamp = is_bad(number), message.key(), message.timestamp()[1]
    letter = (key, message.value(), stamp) if bad else None
    return Input(message.partition(), message.offset(), number, not bad, (key, stamp), letter)


def _output(message: Any) -> Output:
    header = dict(message.headers())[PROVENANCE_HEADER]
    source = read_provenance(header)
    return Output(
        source.partition,
        -1 if source.source_offset is None else source.source_offset,
        _decode(message.value()).n,
        message.partition(),
        source.first,
        source.next,
        source.ordinal,
        source.count,
        (message.key(), message.timestamp()[1]),
    )


def _miscounted(inputs: Iterable[Input], totals: dict[tuple[int, int], int]) -> int:
    wanted = Counter((each.partition, bucket_of(each.number)) for each in inputs if each.good)
    return sum(wanted[place] != totals.get(place, 0) for place in wanted.keys() | totals.keys())


def _rows(connection: psycopg.Connection[Any], query: bytes) -> Iterator[tuple[Any, ...]]:
    with connection.cursor("audit") as cursor:
        cursor.itersize = FETCH_ROWS
        yield from cursor.execute(query)


def read_topic(servers: str, topic: str) -> Iterator[Any]:
    """All committed messages up to the present end, each partition's in order.

    :raises UnauditableError: when the end is not reached in time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "chaos-audit",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )
    try:
        left = set(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        deadline = time.monotonic() + READ_SECONDS
        while left:
            if time.monotonic() > deadline:
                raise UnauditableError(f"the end of {topic} was not reached")
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif not error.retriable():
                    raise KafkaException(error)
    finally:
        consumer.close()


_EFFECTS = b'SELECT partition, "offset", number FROM effects ORDER BY id'
_LETTERS = b'SELECT partition, "offset", key, value, "timestamp" FROM processor.dead_letters'
_TOTALS = b"SELECT partition, bucket, count FROM totals"
