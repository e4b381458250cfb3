"""The pipeline's proof: what was produced, against what both stores hold.

Reads the input topic, the tables and the output topics (read_committed, to their ends) and holds
each event against each store: there once, or not at all, or twice; in order; counted right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipelines.user_events.handlers import PROCESSED, RECEIPTS, USER_EVENTS, pipeline
from processor.errors import DecodeError

READ_SECONDS = 60.0
SHOWN = 5

Place = tuple[int, int]
"""A partition and an offset of the input topic."""


class _Reference(msgspec.Struct):
    """Where an output says that it comes from."""

    partition: int
    offset: int


@dataclass(slots=True)
class Verdict:
    """What the audit counted; fine when nothing is lost, doubled, invented or out of order."""

    produced: int = 0
    in_postgres: int = 0
    in_output: int = 0
    dead_letters: int = 0
    lost: int = 0
    duplicates: int = 0
    invented: int = 0
    disordered: int = 0
    miscounted: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not (self.lost + self.duplicates + self.invented + self.disordered + self.miscounted)

    def sentence(self) -> str:
        text = (
            f"produced {self.produced} · in Postgres {self.in_postgres}"
            f" · in output topic {self.in_output}"
        )
        if self.dead_letters:
            text += f" · dead letters {self.dead_letters}"
        text += f" · duplicates {self.duplicates} · lost {self.lost}"
        for name in ("invented", "disordered", "miscounted"):
            if getattr(self, name):
                text += f" · {name} {getattr(self, name)}"
        return text

    def blame(self, what: str, places: Iterable[object], kind: str) -> None:
        found = sorted(map(str, places))
        setattr(self, kind, getattr(self, kind) + len(found))
        self.examples += [f"{kind}: {what} {place}" for place in found[:SHOWN]]


@dataclass(slots=True)
class _Input:
    """What the input topic asks for."""

    good: dict[Place, bytes | None] = field(default_factory=dict)
    """Each event that can be decoded, with its key."""
    bad: set[Place] = field(default_factory=set)
    purchases: set[Place] = field(default_factory=set)
    views: Counter[int] = field(default_factory=Counter)


def audit(
    bootstrap_servers: str,
    database_url: str,
    *,
    input_topic: str = USER_EVENTS,
    processed_topic: str = PROCESSED,
    receipts_topic: str = RECEIPTS,
    progress: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Read both stores and compare.

    :raises TimeoutError: when a topic could not be read to its end.
    """
    verdict = Verdict()
    progress("reading the input topic")
    wanted = _read_input(bootstrap_servers, input_topic)
    verdict.produced = len(wanted.good) + len(wanted.bad)
    progress("reading Postgres")
    with psycopg.connect(database_url) as connection:
        _audit_tables(connection, input_topic, wanted, verdict)
    progress("reading the output topics")
    verdict.in_output = _audit_output(
        bootstrap_servers, processed_topic, set(wanted.good), wanted, verdict
    )
    _audit_output(bootstrap_servers, receipts_topic, wanted.purchases, wanted, verdict)
    return verdict


def _read_input(bootstrap_servers: str, topic: str) -> _Input:
    wanted = _Input()
    decode = pipeline.routes[USER_EVENTS].decode
    for message in read_topic(bootstrap_servers, topic):
        place = (message.partition(), message.offset())
        try:
            handler, event = decode(message.value())
        except DecodeError:
            wanted.bad.add(place)
            continue
        wanted.good[place] = message.key()
        if handler.name == "purchased":
            wanted.purchases.add(place)
        elif handler.name == "page_viewed":
            wanted.views[event.user_id] += 1
    return wanted


def _audit_tables(
    connection: psycopg.Connection[Any], topic: str, wanted: _Input, verdict: Verdict
) -> None:
    rows = _places(
        connection,
        'SELECT partition, "offset" FROM user_events.processed_events WHERE topic = %s',
        topic,
    )
    verdict.in_postgres = len(rows)
    _compare("processed_events", rows, set(wanted.good), verdict)
    rows = _places(
        connection, 'SELECT partition, "offset" FROM user_events.purchases WHERE topic = %s', topic
    )
    _compare("purchases", rows, wanted.purchases, verdict)
    rows = _places(
        connection,
        'SELECT partition, "offset" FROM processor.dead_letters WHERE topic = %s',
        topic,
    )
    verdict.dead_letters = len(rows)
    _compare("dead_letters", rows, wanted.bad, verdict)
    counted = dict(
        connection.execute("SELECT user_id, page_views FROM user_events.user_analytics").fetchall()
    )
    wrong = {
        u for u in counted.keys() | wanted.views.keys() if counted.get(u, 0) != wanted.views[u]
    }
    verdict.blame("page views of user", wrong, "miscounted")


def _places(connection: psycopg.Connection[Any], query: Any, topic: str) -> list[Place]:
    return [(row[0], row[1]) for row in connection.execute(query, (topic,)).fetchall()]


def _compare(what: str, found: list[Place], wanted: set[Place], verdict: Verdict) -> None:
    counts = Counter(found)
    verdict.blame(f"{what} lacks", wanted - counts.keys(), "lost")
    verdict.blame(f"{what} has", counts.keys() - wanted, "invented")
    verdict.blame(f"{what} repeats", {p for p, n in counts.items() if n > 1}, "duplicates")


def _audit_output(
    bootstrap_servers: str,
    topic: str,
    expected: set[Place],
    wanted: _Input,
    verdict: Verdict,
) -> int:
    """One output topic: each source once, and each key's in the order of the input."""
    found: list[Place] = []
    last: dict[tuple[int, bytes | None, int], int] = defaultdict(lambda: -1)
    disordered = []
    decode = msgspec.json.Decoder(_Reference).decode
    for message in read_topic(bootstrap_servers, topic):
        reference = decode(message.value())
        place = (reference.partition, reference.offset)
        found.append(place)
        lane = (message.partition(), message.key(), reference.partition)
        if reference.offset <= last[lane]:
            disordered.append(place)
        last[lane] = max(last[lane], reference.offset)
        if place in wanted.good and wanted.good[place] != message.key():
            disordered.append(place)
    _compare(topic, found, expected, verdict)
    verdict.blame(f"{topic} has out of order", set(disordered), "disordered")
    return len(found)


def read_topic(bootstrap_servers: str, topic: str) -> Iterator[Any]:
    """All committed messages of a topic, from its first to its present end.

    :raises TimeoutError: when the end was not reached in time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "user-events-audit",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        numbers = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        open_partitions = set(numbers)
        deadline = monotonic() + READ_SECONDS
        while open_partitions:
            if monotonic() > deadline:
                raise TimeoutError(f"the end of {topic} was not reached in {READ_SECONDS:.0f} s")
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
