"""Which dead letters the triggers of a batch name, locked, and what each trigger sets off.

A letter that has been handled leaves the state ``pending`` in the transaction that holds what its
handler has done; whatever asks for it afterwards finds nothing to do.

Messages that are parked behind a letter follow it in order: each trigger of a queue takes the next
one, and the last of them asks for more. The key flows again only once a batch finds the queue empty
that has drained nothing of it itself: by then all that the queue has caused is published, because
a trigger can be read only after the batch that has sent it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from processor.engine.batch import Partition
from processor.engine.triggers import Trigger, queue_triggers, read_trigger
from processor.message import Headers
from processor.transaction import Session

CREATE_TIME, NO_TIME = 1, 0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that is to be handled again, as its message came or was repaired."""

    id: int
    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None
    queue: int
    """The letter that its key waits for: itself, or the one that it was parked behind."""
    holds_key: bool
    """Something may be parked behind it."""
    has_failed: bool = True
    """False of one that was parked only."""


class StoredMessage:
    """A letter in place of the client's message; its offset is that of the trigger."""

    __slots__ = ("_letter", "_trigger")

    def __init__(self, letter: Letter, trigger: Any) -> None:
        self._letter = letter
        self._trigger = trigger

    def offset(self) -> int:
        return int(self._trigger.offset())

    def leader_epoch(self) -> int | None:
        return self._trigger.leader_epoch()  # type: ignore[no-any-return]

    def key(self) -> bytes | None:
        return self._letter.key

    def value(self) -> bytes | None:
        return self._letter.value

    def headers(self) -> Headers:
        return self._letter.headers

    def timestamp(self) -> tuple[int, int]:
        when = self._letter.timestamp
        return (NO_TIME, -1) if when is None else (CREATE_TIME, when)


@dataclass(slots=True)
class Task:
    """What one trigger sets off."""

    letter: Letter | None = None
    queue: int | None = None
    """Nothing is done once a letter of this queue has failed."""
    sends: Sequence[tuple[bytes, bytes]] = ()
    """Keys and values of further triggers."""
    releases: bool = False
    """The queue is empty."""


@dataclass(slots=True)
class _Queue:
    letters: Iterator[Letter]
    moves: bool
    """Something of it is handled in this batch, or added to it."""
    left: int
    """Behind the letters of this batch."""


@dataclass(slots=True)
class Replays:
    """Reads for one group."""

    group_id: str

    def read(
        self, session: Session, triggers: Sequence[Any], growing: Collection[int] = ()
    ) -> list[Task]:
        """What each trigger sets off; letters and queues stay locked until the commit.

        :param triggers: as the client hands them over.
        :param growing: queues that this very batch adds to: they are not released by it.
        """
        named = [read_trigger(raw.value()) or Trigger() for raw in triggers]
        wanted = Counter(each.queue for each in named if each.queue is not None)
        queues = self._queues(session, wanted, growing)
        ids = sorted({each.letter for each in named if each.letter is not None})
        letters = self._letters(session, ids)
        tasks = []
        for raw, asked in zip(triggers, named, strict=True):
            key = raw.key() or b""
            if asked.letter is not None:
                tasks.append(_of_letter(letters.pop(asked.letter, None), key))
            elif asked.queue in queues:
                tasks.append(_of_queue(asked, queues[asked.queue], key))
            else:
                tasks.append(Task())
        return tasks

    def _letters(self, session: Session, ids: Sequence[int]) -> dict[int, Letter]:
        if not ids:
            return {}
        rows = session.ask(_PENDING, (self.group_id, list(ids)))
        queues = sorted({_queue_of(row) for row in rows})
        held = {row[0] for row in session.ask(_HELD, (queues,))} if queues else set()
        return {row[0]: _letter(row, held) for row in rows}

    def _queues(
        self, session: Session, wanted: Mapping[int, int], growing: Collection[int]
    ) -> dict[int, _Queue]:
        """Of those that exist, and in which no letter waits to be dealt with first."""
        if not wanted:
            return {}
        locked = [row[0] for row in session.ask(_LOCK_QUEUES, (sorted(wanted),))]
        if not locked:
            return {}
        rows = session.ask(_BLOCKED, (locked, locked))
        blocked = {number for row in rows for number in row}
        free = [each for each in locked if each not in blocked]
        return {each: _queue(session, each, wanted[each], each in growing) for each in free}


def _queue(session: Session, number: int, wanted: int, grows: bool) -> _Queue:
    rows = session.ask(_NEXT_PARKED, (number, wanted))
    left = 0
    if len(rows) == wanted:
        [[parked]] = session.ask(_PARKED_COUNT, (number,))
        left = parked - len(rows)
    letters = iter([replace(_letter(row, {number}), has_failed=False) for row in rows])
    return _Queue(letters, bool(rows) or grows, left)


def _of_letter(letter: Letter | None, key: bytes) -> Task:
    if letter is None:
        return Task()
    sends = queue_triggers(key, letter.queue, 0) if letter.holds_key else ()
    return Task(letter, letter.queue, sends)


def _of_queue(asked: Trigger, queue: _Queue, key: bytes) -> Task:
    assert asked.queue is not None, "it names a queue"
    letter = next(queue.letters, None)
    if not asked.last:
        return Task(letter, asked.queue)
    if queue.moves or queue.left:
        return Task(letter, asked.queue, queue_triggers(key, asked.queue, queue.left))
    return Task(None, asked.queue, releases=True)


def _queue_of(row: Sequence[Any]) -> int:
    number, parked_behind = row[0], row[8]
    return int(number if parked_behind is None else parked_behind)


def _letter(row: Sequence[Any], held: Collection[int]) -> Letter:
    number, topic, partition, offset, key, value, headers, timestamp = row[:8]
    pairs = [(name, content) for name, content in msgspec.msgpack.decode(headers)]
    place, queue = Partition(topic, partition), _queue_of(row)
    return Letter(number, place, offset, key, value, pairs, timestamp, queue, queue in held)


_PENDING = """
SELECT l.id, l.topic, l.partition, l."offset", l.key,
    CASE WHEN l.edited_at IS NULL THEN l.value ELSE l.replacement END,
    l.headers, l."timestamp", l.parked_behind
FROM processor.dead_letters l
WHERE l.group_id = %s AND l.id = ANY (%s) AND l.state = 'pending'
ORDER BY l.id FOR UPDATE
"""

_HELD = """
SELECT k.letter_id FROM processor.parked_keys k WHERE k.letter_id = ANY (%s)
"""

_LOCK_QUEUES = """
SELECT k.letter_id FROM processor.parked_keys k WHERE k.letter_id = ANY (%s)
ORDER BY k.progress_id, k.key_digest FOR UPDATE
"""

_BLOCKED = """
SELECT l.id, l.parked_behind FROM processor.dead_letters l
WHERE (l.id = ANY (%s) OR l.parked_behind = ANY (%s)) AND l.state IN ('failed', 'pending')
"""

_NEXT_PARKED = """
SELECT l.id, l.topic, l.partition, l."offset", l.key, l.value, l.headers, l."timestamp",
    l.parked_behind
FROM processor.dead_letters l WHERE l.parked_behind = %s AND l.state = 'parked'
ORDER BY l.id LIMIT %s
"""

_PARKED_COUNT = """
SELECT count(*) FROM processor.dead_letters l WHERE l.parked_behind = %s AND l.state = 'parked'
"""
