"""``processor dead-letters``: messages that were set aside, with the reason. Reading only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from psycopg import Cursor
from psycopg.rows import class_row, dict_row

from processor.errors import ConfigurationError
from processor.operations.database import Connection
from processor.operations.outbox import readable


@dataclass(frozen=True, slots=True)
class Letter:
    id: int
    topic: str
    partition: int
    offset: int
    handler: str | None
    error: str
    reason: str
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WholeLetter(Letter):
    """With the message; what is not UTF-8 is shown as ``base64:…``."""

    key: str | None
    value: str | None
    headers: tuple[tuple[str, str | None], ...]
    timestamp: int | None
    """Of the message, in milliseconds since the epoch."""
    trace: str | None


def letters(connection: Connection, group: str, limit: int) -> list[Letter]:
    """A group's dead letters, the latest first."""
    with Cursor(connection, row_factory=class_row(Letter)) as cursor:
        return cursor.execute(_LETTERS, [group, limit]).fetchall()


def letter(connection: Connection, group: str, number: int) -> WholeLetter:
    """:raises ConfigurationError: when the group has no such letter."""
    with Cursor(connection, row_factory=dict_row) as cursor:
        found = cursor.execute(_LETTER, [group, number]).fetchone()
    if found is None:
        raise ConfigurationError(f"group {group} has no dead letter {number}")
    headers = msgspec.msgpack.decode(found["headers"])
    return WholeLetter(
        **{
            **found,
            "key": readable(found["key"]),
            "value": readable(found["value"]),
            "headers": tuple((name, readable(value)) for name, value in headers),
        }
    )


_LETTERS = """
SELECT id, topic, partition, "offset", handler, error, reason, attempts, created_at
FROM processor.dead_letters WHERE group_id = %s ORDER BY id DESC LIMIT %s
"""

_LETTER = """
SELECT id, topic, partition, "offset", handler, error, reason, attempts, created_at,
    key, value, headers, "timestamp", trace
FROM processor.dead_letters WHERE group_id = %s AND id = %s
"""
