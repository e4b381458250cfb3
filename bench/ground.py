"""Where the benchmarks run: one Kafka, one Postgres, and topics filled beforehand."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import create_engine
from sqlalchemy.schema import CreateSchema

from bench.work.events import SCHEMA, event, metadata, order
from devstack import Stack
from devstack.kafka.jvm import OPTIONS_VARIABLE

COMPILED = "-XX:TieredStopAtLevel=4"
"""A broker that stops at the first compiler, as tests start it, is slower when warm."""
SECONDS = 30.0
OUTPUT_PARTITIONS = 12


class Shape(NamedTuple):
    """A topic that is full of messages when a round begins."""

    messages: int
    partitions: int = 12
    bytes: int = 200
    orders: bool = False
    """Every message has one; every fifth of them was there before."""

    @property
    def total(self) -> int:
        """Messages, as many on each partition."""
        return -(-self.messages // self.partitions) * self.partitions

    def __str__(self) -> str:
        return f"{self.messages:,} messages of {self.bytes:,} B on {self.partitions:,} partitions"


class Ground:
    """The servers, and what is on them."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.servers = stack.kafka.bootstrap_servers
        self.admin = AdminClient({"bootstrap.servers": self.servers})
        self._filled: dict[Shape, str] = {}
        self._numbers = itertools.count()

    @property
    def processes(self) -> dict[str, int]:
        """The servers' pids, by name."""
        return {
            "Kafka": self.stack.kafka.nodes[0].child.pid,
            "Postgres": self.stack.postgres.child.pid,
        }

    @property
    def postgres_version(self) -> str:
        with self.connect() as connection:
            [[version]] = connection.execute("SHOW server_version").fetchall()
        return str(version).split()[0]

    def log(self, name: str) -> Path:
        """A file for what a program says."""
        return self.folder / f"{name}.log"

    def name(self, kind: str) -> str:
        """One that was not used before."""
        return f"bench-{kind}-{next(self._numbers)}"

    def filled(self, shape: Shape) -> str:
        """A topic with these messages, filled once; every contender reads it from its start."""
        if shape not in self._filled:
            self._filled[shape] = self.topic("input", shape.partitions)
            fill(self.servers, self._filled[shape], shape)
        return self._filled[shape]

    def forget(self, shape: Shape) -> None:
        """Nobody reads it any more: its disk is given back."""
        topic = self._filled.pop(shape, None)
        if topic is not None:
            self.drop(topic)

    def topic(self, kind: str, partitions: int = OUTPUT_PARTITIONS) -> str:
        topic = self.name(kind)
        self.admin.create_topics([NewTopic(topic, partitions)])[topic].result(SECONDS)
        self.stack.kafka.wait_ready()
        return topic

    def drop(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(SECONDS)

    def empty_tables(self) -> None:
        with self.connect() as connection:
            connection.execute("TRUNCATE bench.rows, bench.counters")

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.stack.postgres.url, autocommit=True)


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Both servers, with the processor's schema and the benchmarks' tables."""
    os.environ[OPTIONS_VARIABLE] = COMPILED
    with Stack() as stack:
        subprocess.run(
            [sys.executable, "-m", "processor", "migrate"],
            env={**os.environ, **stack.environment},
            check=True,
            capture_output=True,
        )
        engine = create_engine(stack.postgres.url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(CreateSchema(SCHEMA))
            metadata.create_all(connection)
        engine.dispose()
        yield Ground(stack, folder)


def fill(servers: str, topic: str, shape: Shape, first: int = 0) -> None:
    """Message i of a partition is at offset i, and its key says so.

    :param first: where each partition goes on.
    """
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": 20,
            "compression.type": "lz4",
            # As many producers make them; one of a megabyte would be read in one piece.
            "batch.size": 65_536,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "enable.idempotence": True,
        }
    )
    encode = msgspec.json.Encoder().encode
    partitions = shape.partitions
    began = time.monotonic()
    for offset in range(first, first + shape.total // partitions):
        made = event(offset, shape.bytes)
        value = encode(made)
        for partition in range(partitions):
            if shape.orders:
                made.order = order(offset, partition, partitions)
                value = encode(made)
            produce(producer, topic, value, f"{partition}-{offset}", partition)
    if producer.flush(120):
        raise SystemExit(f"{topic} could not be filled")
    print(f"  filled {shape} in {time.monotonic() - began:.0f} s", file=sys.stderr)


def produce(producer: Producer, topic: str, value: bytes, key: str, partition: int) -> None:
    while True:
        try:
            producer.produce(topic, value, key, partition)
        except BufferError:
            producer.poll(0.05)
        else:
            return
