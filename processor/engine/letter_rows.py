"""What a batch writes of dead letters: new ones, those that were handled again, parked keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from processor.engine.batch import DeadLetter, Returned
from processor.engine.database import Connection, Cursor
from processor.engine.triggers import key_digest


@dataclass(frozen=True, slots=True)
class LetterChanges:
    """Of one partition; ``topic`` and ``topic_id`` are its own."""

    progress_id: int
    topic: str
    topic_id: str
    new: Sequence[DeadLetter]
    replayed: Sequence[int]
    returned: Sequence[Returned]
    released: Sequence[int]


@dataclass(frozen=True, slots=True)
class Expected:
    """A statement under way that has to hit so many rows."""

    cursor: Cursor
    rows: int
    what: str


def write_letters(
    connection: Connection, group_id: str, changes: Sequence[LetterChanges]
) -> list[Expected]:
    """Write them; what comes back is to be checked before the commit."""
    plain = [
        (group_id, each.topic, each.topic_id, *_columns(letter))
        for each in changes
        for letter in each.new
        if not (letter.holds_key or letter.is_parked)
    ]
    if plain:
        connection.cursor().executemany(_INSERT, plain)
    expected: list[Expected] = []
    for each in changes:
        expected += _write_parked(connection, group_id, each)
        expected += _write_replays(connection, each)
    return expected


def _write_parked(
    connection: Connection, group_id: str, changes: LetterChanges
) -> Iterator[Expected]:
    """In order: what is parked finds the letter that holds its key."""
    for letter in changes.new:
        if not (letter.holds_key or letter.is_parked):
            continue
        assert letter.key is not None, "without a key nothing is parked"
        place = (changes.progress_id, key_digest(letter.key))
        source = (group_id, changes.topic, changes.topic_id)
        if letter.holds_key:
            connection.execute(_INSERT, (*source, *_columns(letter)))
            at = (*source, letter.partition.number, letter.offset)
            yield Expected(connection.execute(_HOLD_KEY, (*place, *at)), 1, "a parked key")
        else:
            connection.execute(_COUNT_PARKED, place)
            values = (*source, *_columns(letter), *place)
            yield Expected(connection.execute(_INSERT_PARKED, values), 1, "a parked key")


def _write_replays(connection: Connection, changes: LetterChanges) -> Iterator[Expected]:
    if changes.replayed:
        numbers = list(changes.replayed)
        yield Expected(connection.execute(_REPLAYED, (numbers,)), len(numbers), "a letter")
    for each in changes.returned:
        yield Expected(connection.execute(_RETURNED, _returned(each)), 1, "a letter")
    if changes.released:
        connection.execute(_RELEASED, (list(changes.released),))


def _returned(each: Returned) -> Mapping[str, object]:
    return {
        "id": each.letter_id,
        "attempts": each.attempts,
        "handler": each.handler,
        "error": each.error,
        "reason": storable(each.reason),
        "trace": None if each.trace is None else storable(each.trace),
        "fingerprint": each.fingerprint,
    }


def _columns(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.partition.number,
        letter.offset,
        letter.key,
        letter.value,
        msgspec.msgpack.encode(list(letter.headers)),
        letter.timestamp,
        letter.handler,
        letter.error,
        storable(letter.reason),
        None if letter.trace is None else storable(letter.trace),
        letter.attempts,
        letter.fingerprint,
        timedelta(seconds=letter.failing_seconds),
    )


def storable(text: str) -> str:
    """Postgres text takes neither NUL nor lone surrogates; a reason may quote a message's."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


_INSERT = """
INSERT INTO processor.dead_letters
    (group_id, topic, topic_id, partition, "offset", key, value, headers, "timestamp",
     handler, error, reason, trace, attempts, fingerprint, first_failed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now() - %s::interval)
"""

# The latest, where a message has become one more than once.
_HOLD_KEY = """
INSERT INTO processor.parked_keys (progress_id, key_digest, letter_id)
SELECT %s::bigint, %s::text, l.id FROM processor.dead_letters l
WHERE l.group_id = %s AND l.topic = %s AND l.topic_id = %s AND l.partition = %s AND l."offset" = %s
ORDER BY l.id DESC LIMIT 1
"""

# A change, so that whoever releases the key by an older snapshot has to look again.
_COUNT_PARKED = """
UPDATE processor.parked_keys SET parked = parked + 1 WHERE progress_id = %s AND key_digest = %s
"""

_INSERT_PARKED = """
INSERT INTO processor.dead_letters
    (group_id, topic, topic_id, partition, "offset", key, value, headers, "timestamp",
     handler, error, reason, trace, attempts, fingerprint, first_failed_at, state, parked_behind)
SELECT %s::text, %s::text, %s::text, %s::int, %s::bigint, %s::bytea, %s::bytea, %s::bytea,
    %s::bigint, %s::text, %s::text, %s::text, %s::text, %s::int, %s::text, now() - %s::interval,
    'parked', k.letter_id
FROM processor.parked_keys k WHERE k.progress_id = %s AND k.key_digest = %s
"""

_REPLAYED = """
UPDATE processor.dead_letters SET state = 'replayed', replays = replays + 1,
    resolved_at = now(), resolved_by = COALESCE(requested_by, 'engine')
WHERE id = ANY (%s) AND state IN ('pending', 'parked')
"""

_RETURNED = """
UPDATE processor.dead_letters SET state = 'failed',
    replays = replays + CASE WHEN state = 'pending' THEN 1 ELSE 0 END,
    attempts = attempts + %(attempts)s, handler = COALESCE(%(handler)s, handler), error = %(error)s,
    reason = %(reason)s, trace = %(trace)s, fingerprint = %(fingerprint)s, last_failed_at = now(),
    first_failed_at = CASE WHEN state = 'pending' THEN first_failed_at ELSE now() END
WHERE id = %(id)s AND state IN ('pending', 'parked')
"""

_RELEASED = """
DELETE FROM processor.parked_keys WHERE letter_id = ANY (%s)
"""
