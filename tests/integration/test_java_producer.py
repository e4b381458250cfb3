"""A Java producer and ours agree where a key belongs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from devstack import Kafka
from devstack.java_file import run_java_file

SOURCE = Path(__file__).with_name("java") / "ProduceEvents.java"
PARTITIONS = 12
# More than once: a key that one side does not hash, but sends anywhere, then shows itself.
ROUNDS = 3
KEYS = [
    b"",
    b"a",
    b"user-1",
    "Jürgen".encode(),
    "利用者".encode(),
    "🙂".encode(),
    b"\x00\xff\xfe",
    b"x" * 1000,
    *(str(number).encode() for number in range(200)),
]


def test_the_same_key_lands_in_the_same_partition(kafka: Kafka, topic: Callable[..., str]) -> None:
    name = topic("events", partitions=PARTITIONS)
    produce_by_java(kafka.bootstrap_servers, name)
    produce_by_python(kafka.bootstrap_servers, name)

    seen = read(kafka.bootstrap_servers, name, 2 * ROUNDS * len(KEYS))

    by_java, by_python = seen[b"java"], seen[b"python"]
    assert by_java.keys() == set(KEYS)
    assert by_python == by_java
    assert {len(partitions) for partitions in by_java.values()} == {1}
    assert set().union(*by_java.values()) == set(range(PARTITIONS))


def produce_by_java(servers: str, topic: str) -> None:
    lines = [f"{key.hex()},{b'java'.hex()}\n" for key in KEYS * ROUNDS]
    printed = run_java_file(SOURCE, [servers, topic], "".join(lines))
    assert len(printed.splitlines()) == len(lines)


def produce_by_python(servers: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
    for key in KEYS * ROUNDS:
        producer.produce(topic, key=key, value=b"python")
    assert producer.flush(30) == 0


def read(servers: str, topic: str, count: int) -> dict[bytes, dict[bytes, set[int]]]:
    """By who sent it, then by key: the partitions."""
    seen: dict[bytes, dict[bytes, set[int]]] = defaultdict(lambda: defaultdict(set))
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    try:
        for message in consumer.consume(count, 30):
            assert message.error() is None
            key, sender, partition = message.key(), message.value(), message.partition()
            assert isinstance(key, bytes)
            assert isinstance(sender, bytes)
            assert isinstance(partition, int)
            seen[sender][key].add(partition)
    finally:
        consumer.close()
    return seen
