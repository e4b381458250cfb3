"""Dead letters as they stand in Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import msgspec
from psycopg import Cursor
from psycopg.rows import class_row, dict_row

from processor.errors import ConfigurationError
from processor.operations.database import Connection
from processor.operations.dead_letters.selection import OF_THESE, Selection
from processor.operations.outbox import readable


@dataclass(frozen=True, slots=True)
class Letter:
    id: int
    topic: str
    partition: int
    offset: int
    key: str | None
    """What is not UTF-8 is shown as ``base64:…``."""
    handler: str | None
    error: str
    reason: str
    attempts: int
    state: str
    """``failed``; ``parked`` behind another one; ``pending``: to be replayed; ``replayed``;
    ``discarded``."""
    fingerprint: str
    """The same for errors of one kind."""
    first_failed_at: datetime
    last_failed_at: datetime
    replays: int
    parked_behind: int | None
    """The letter that its key waits for."""


@dataclass(frozen=True, slots=True)
class WholeLetter(Letter):
    """With the message."""

    value: str | None
    decoded: Any
    """The value's JSON or MessagePack; None where it is neither."""
    headers: tuple[tuple[str, str | None], ...]
    timestamp: int | None
    """Of the message, in milliseconds since the epoch."""
    trace: str | None
    replacement: str | None
    """A repaired value, which a replay takes instead."""
    edited_at: datetime | None
    requested_by: str | None
    requested_at: datetime | None
    resolved_by: str | None
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Letters of one fingerprint."""

    fingerprint: str
    topic: str
    handler: str | None
    error: str
    reason: str
    """Of the last one."""
    letters: int
    first_failed_at: datetime
    last_failed_at: datetime


def letters(connection: Connection, selection: Selection, limit: int) -> list[Letter]:
    """The latest first."""
    with Cursor(connection, row_factory=dict_row) as cursor:
        found = cursor.execute(_LETTERS, {**selection.values(), "limit": limit}).fetchall()
    return [Letter(**{**row, "key": readable(row["key"])}) for row in found]


def kinds(connection: Connection, selection: Selection, limit: int) -> list[Kind]:
    """The most frequent first."""
    with Cursor(connection, row_factory=class_row(Kind)) as cursor:
        return cursor.execute(_KINDS, {**selection.values(), "limit": limit}).fetchall()


def letter(connection: Connection, group: str, number: int) -> WholeLetter:
    """:raises ConfigurationError: when the group has no such letter."""
    with Cursor(connection, row_factory=dict_row) as cursor:
        found = cursor.execute(_LETTER, [group, number]).fetchone()
    if found is None:
        raise ConfigurationError(f"group {group} has no dead letter {number}")
    return _whole(found)


def _whole(found: Mapping[str, Any]) -> WholeLetter:
    headers = msgspec.msgpack.decode(found["headers"])
    return WholeLetter(
        **{
            **found,
            "key": readable(found["key"]),
            "value": readable(found["value"]),
            "decoded": _decoded(found["value"]),
            "replacement": readable(found["replacement"]),
            "headers": tuple((name, readable(value)) for name, value in headers),
        }
    )


def _decoded(value: bytes | None) -> Any:
    """A number alone is what any few bytes may mean in MessagePack."""
    if not value:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        found = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, (dict, list)) else None


_COLUMNS: LiteralString = """
    l.id, l.topic, l.partition, l."offset", l.key, l.parked_behind, l.handler, l.error, l.reason,
    l.attempts, l.state, l.fingerprint, l.first_failed_at, l.last_failed_at, l.replays
"""

_LETTERS: LiteralString = (
    "SELECT " + _COLUMNS + OF_THESE
    + " ORDER BY l.id DESC LIMIT %(limit)s"
)  # fmt: skip

_LETTER: LiteralString = (
    "SELECT " + _COLUMNS + """,
    l.value, l.headers, l."timestamp", l.trace, l.replacement, l.edited_at,
    l.requested_by, l.requested_at, l.resolved_by, l.resolved_at
FROM processor.dead_letters l WHERE l.group_id = %s AND l.id = %s
"""
)  # fmt: skip

_KINDS: LiteralString = (
    """
SELECT l.fingerprint, l.topic, l.handler, l.error,
    (array_agg(l.reason ORDER BY l.id DESC))[1] AS reason,
    count(*) AS letters,
    min(l.first_failed_at) AS first_failed_at, max(l.last_failed_at) AS last_failed_at
""" + OF_THESE + """
GROUP BY l.fingerprint, l.topic, l.handler, l.error
ORDER BY count(*) DESC, max(l.id) LIMIT %(limit)s
"""
)  # fmt: skip
