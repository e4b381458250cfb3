"""``processor outbox``: what is committed in Postgres and kept until Kafka has it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Cursor
from psycopg.rows import class_row

from processor.engine.batch import Record
from processor.engine.outbox import OutboxDamaged, decode_entry
from processor.errors import ConfigurationError
from processor.operations.database import Connection


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the outbox: what the messages of [first, next) of a partition caused."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    outputs: int
    bytes: int
    created_at: datetime
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Output:
    """A stored output; what is not UTF-8 is shown as ``base64:…``."""

    topic: str
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str | None], ...]
    timestamp: int
    partition: int | None
    source_offset: int | None


def entries(connection: Connection, group: str) -> list[Entry]:
    """A group's rows in the outbox, by partition and offset."""
    with Cursor(connection, row_factory=class_row(Entry)) as cursor:
        return cursor.execute(_ENTRIES, [group]).fetchall()


def outputs(
    connection: Connection, group: str, topic: str, partition: int, first_offset: int
) -> list[Output]:
    """The outputs of one row.

    :raises ConfigurationError: when there is no such row, or it is damaged.
    """
    place = f"{topic}/{partition} at {first_offset}"
    found = connection.execute(_PAYLOAD, [group, topic, partition, first_offset]).fetchone()
    if found is None:
        raise ConfigurationError(f"the outbox of group {group} has no row of {place}")
    try:
        return [_output(record) for record in decode_entry(*found).records]
    except OutboxDamaged as error:
        raise ConfigurationError(f"the outbox row of {place} is damaged: {error}") from error


def _output(record: Record) -> Output:
    return Output(
        record.topic,
        readable(record.key),
        readable(record.value),
        tuple(_headers(record)),
        record.timestamp,
        record.partition,
        record.source_offset,
    )


def _headers(record: Record) -> Iterator[tuple[str, str | None]]:
    return ((name, readable(value)) for name, value in record.headers)


def readable(value: Any) -> str | None:
    """Bytes as text where they are text without control characters.

    >>> readable(b"caf\\xc3\\xa9"), readable(b"\\xff"), readable(None)
    ('café', 'base64:/w==', None)
    """
    if value is None:
        return None
    data = bytes(value)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if "".join(text.split()).isprintable() and (text or not data):
        return text
    return "base64:" + base64.b64encode(data).decode()


_ENTRIES = """
SELECT p.topic, p.partition, o.first_offset, o.next_offset, o.output_count AS outputs,
    length(o.payload) AS bytes, o.created_at,
    extract(epoch FROM now() - o.created_at)::float8 AS age_seconds
FROM processor.outbox o JOIN processor.progress p ON p.id = o.progress_id
WHERE p.group_id = %s
ORDER BY p.topic, p.partition, p.id, o.first_offset
"""

_PAYLOAD = """
SELECT o.progress_id, o.first_offset, o.next_offset, o.output_count, o.checksum, o.payload
FROM processor.outbox o JOIN processor.progress p ON p.id = o.progress_id
WHERE p.group_id = %s AND p.topic = %s AND p.partition = %s AND o.first_offset = %s
ORDER BY p.superseded_at NULLS FIRST
"""
