"""What a pipeline's service needs on real servers: its topics and tables, and nobody beside it."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import psycopg
from sqlalchemy import NullPool, Table, create_engine, text

from processor.dsn import psycopg_url
from processor.operations.broker import Broker, Place
from processor.testing.results import PipelineTestError

ONE_REPLICA = 1
LOCK_CLASS = 0x70726F63
"""Of the advisory locks, so that they are nobody else's."""


@contextmanager
def claimed(url: str, topics: Collection[str]) -> Iterator[None]:
    """Tests that use one of these topics take turns, in whichever process they run.

    :param url: of a database that all of them know: advisory locks are one database's.
    """
    with psycopg.connect(psycopg_url(url), autocommit=True) as connection:
        for topic in sorted(topics):
            key = zlib.crc32(topic.encode()) - 2**31
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, key))
        yield


def create_topics(broker: Broker, partitions: Mapping[str, int]) -> dict[str, int]:
    """Create what is missing; how many partitions each has. What is there is left as it is."""
    for name, topic in broker.topics(partitions).items():
        if topic is None:
            broker.create(name, partitions[name], ONE_REPLICA, {})
    found = {}
    for name, topic in broker.topics(partitions).items():
        if topic is None:
            raise PipelineTestError(f"topic {name!r} was created, and is not there")
        found[name] = topic.partitions
    return found


def create_tables(url: str, tables: Collection[Table]) -> None:
    """Create the tables, with their schemas, as SQLAlchemy does."""
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(psycopg_url(url)),
        poolclass=NullPool,
    )
    with engine.begin() as connection:
        for schema in sorted({table.schema for table in tables if table.schema}):
            quoted = connection.dialect.identifier_preparer.quote_schema(schema)
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted}"))
        for table in tables:
            table.create(connection)
    engine.dispose()


def places_of(topics: Collection[str], partitions: Mapping[str, int]) -> list[Place]:
    return [(name, number) for name in topics for number in range(partitions[name])]
