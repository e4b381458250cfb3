"""What a contender has left behind, counted: each message below its offsets, once, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench.work.bad import none_bad
from bench.work.events import order

IsBad = Callable[[int, int], bool]

EMPTY_SECONDS = 30.0


def audit_outputs(
    servers: str, topic: str, done: Mapping[int, int], is_bad: IsBad = none_bad
) -> list[str]:
    """Faults of an output topic, in sentences; ``done``: how many messages of each partition."""
    found = keys(servers, topic)
    expected = {
        b"%d-%d" % (number, at)
        for number, end in done.items()
        for at in range(end)
        if not is_bad(number, at)
    }
    if len(found) == len(expected) and set(found) == expected:
        return []
    return _faults(found, done, is_bad)


def _faults(found: Iterable[bytes], done: Mapping[int, int], is_bad: IsBad) -> list[str]:
    seen: dict[int, set[int]] = {number: set() for number in done}
    extra: Counter[str] = Counter()
    for key in found:
        partition, _, offset = key.decode().partition("-")
        where, number = seen.setdefault(int(partition), set()), int(offset)
        if number in where:
            extra["doubled"] += 1
        elif number >= done.get(int(partition), 0):
            extra["ahead of the offsets"] += 1
        elif is_bad(int(partition), number):
            extra["of bad messages"] += 1
        where.add(number)
    lost = sum(
        at not in seen[partition] and not is_bad(partition, at)
        for partition, end in done.items()
        for at in range(end)
    )
    if lost:
        extra["lost"] = lost
    return [f"outputs: {count:,} {what}" for what, count in extra.items()]


def keys(servers: str, topic: str) -> list[bytes]:
    """Of all committed records."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench-audit",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    found: list[bytes] = []
    try:
        numbers = set(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        while numbers:
            # Of many it would wait for all of them, also where there are no more.
            messages = consumer.consume(1, EMPTY_SECONDS)
            if not messages:
                raise SystemExit(f"{topic} cannot be read to its end: no figure")
            messages += consumer.consume(10_000, 0)
            for message in messages:
                if message.error() is None:
                    found.append(message.key())
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    numbers.discard(message.partition())
    finally:
        consumer.close()
    return found


def audit_tables(
    connection: psycopg.Connection,
    done: Mapping[int, int],
    is_bad: IsBad = none_bad,
    *,
    counters: bool = True,
) -> list[str]:
    """Faults of the rows and, unless nobody was to keep them, of the counters."""
    faults = []
    rows = connection.execute(
        'SELECT partition, count(*), max("offset") + 1 FROM bench.rows GROUP BY partition'
    ).fetchall()
    found = {partition: (count, end) for partition, count, end in rows}
    for partition, end in done.items():
        good = [at for at in range(end) if not is_bad(partition, at)]
        expected = (len(good), good[-1] + 1) if good else None
        if found.get(partition) != expected:
            faults.append(f"rows of {partition}: {found.get(partition)} instead of {expected}")
    faults += [
        f"rows of {partition}, of which nothing was done"
        for partition in found.keys() - done.keys()
    ]
    return faults + (audit_counters(connection) if counters else [])


def audit_once(
    connection: psycopg.Connection,
    servers: str,
    topic: str,
    done: Mapping[int, int],
    partitions: int,
) -> list[str]:
    """Faults where each order was to take effect once, whichever of its messages came first."""
    rows = connection.execute('SELECT partition, "offset" FROM bench.rows').fetchall()
    return faults_of_orders(rows, keys(servers, topic), done, partitions) + audit_counters(
        connection
    )


def faults_of_orders(
    rows: Iterable[tuple[int, int]],
    told: Iterable[bytes],
    done: Mapping[int, int],
    partitions: int,
) -> list[str]:
    """:param rows: partition and offset of each message that took effect.
    :param told: the keys of the outputs.
    """
    rows = list(rows)
    expected = {order(at, number, partitions) for number, end in done.items() for at in range(end)}
    found = Counter(order(at, number, partitions) for number, at in rows)
    extra = {
        "orders: {:,} took effect more than once": sum(n > 1 for n in found.values()),
        "orders: {:,} lost": len(expected - found.keys()),
        "orders: {:,} ahead of the offsets": len(found.keys() - expected),
    }
    faults = [text.format(count) for text, count in extra.items() if count]
    if Counter(told) != Counter(b"%d-%d" % row for row in rows):
        faults.append("outputs: not those of the rows")
    return faults


def audit_letters(
    connection: psycopg.Connection, group: str, done: Mapping[int, int], is_bad: IsBad = none_bad
) -> list[str]:
    """Faults of the dead letters: each bad message is one, and no other."""
    found = Counter(
        connection.execute(
            'SELECT partition, "offset" FROM processor.dead_letters WHERE group_id = %s', [group]
        ).fetchall()
    )
    expected = {(n, at) for n, end in done.items() for at in range(end) if is_bad(n, at)}
    told = {
        "lost": len(expected - found.keys()),
        "doubled": sum(count > 1 for count in found.values()),
        "of good messages": len(found.keys() - expected),
    }
    return [f"dead letters: {count:,} {what}" for what, count in told.items() if count]


def audit_counters(connection: psycopg.Connection) -> list[str]:
    [sums] = connection.execute(
        "SELECT coalesce(sum(messages), 0), coalesce(sum(amount), 0) FROM bench.counters"
    ).fetchall()
    expected = connection.execute(
        "SELECT count(*), coalesce(sum(amount), 0) FROM bench.rows"
    ).fetchone()
    return [f"counters: {sums} instead of {expected}"] if sums != expected else []
