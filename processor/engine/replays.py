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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
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
    drains: bool
    """Something of it is handled in this batch."""
    left: int
    """Behind the letters of this batch."""


@dataclass(slots=True)
class Replays:
    """Reads for one group."""

    group_id: str

    def read(
        self, session: Session, triggers: Sequence[Any], growing: Set[int] = frozenset()
    ) -> list[Task]:
        """What each trigger sets off; letters and queues stay locked until the commit.

        :param triggers: as the client hands them over.
        :param growing: queues that this batch parks more messages in. No lock parts it from
            itself: it must not find them empty.
        """
        named = [read_trigger(raw.value()) or Trigger() for raw in triggers]
        wanted = Counter(each.queue for each in named if each.queue is not None)
        queues = self._queues(session, wanted, growing)
        ids = sorted({each.letter for each in named if each.letter is not None})
        letters = self._letters(session, ids)
        held = [each.queue for each in letters.values() if each.holds_key]
        parked = _counts(session, held)
        tasks = []
        for raw, asked in zip(triggers, named, strict=True):
            key = raw.key() or b""
            if asked.letter is not None:
                tasks.append(_of_letter(letters.pop(asked.letter, None), parked, key))
            elif asked.queue in queues:
                tasks.append(_of_queue(asked, queues[asked.queue], key))
            else:
                tasks.append(Task())
        return tasks

    def _letters(self, session: Session, ids: Sequence[int]) -> dict[int, Letter]:
        if not ids:
            return {}
        rows = session.ask(_PENDING, (self.group_id, list(ids)))
        return {row[0]: _letter(row) for row in rows}

    def _queues(
        self, session: Session, wanted: Mapping[int, int], growing: Set[int]
    ) -> dict[int, _Queue]:
        """Of those that exist, and in which no letter waits to be dealt with first."""
        if not wanted:
            return {}
        locked = [row[0] for row in session.ask(_LOCK_QUEUES, (sorted(wanted),))]
        if not locked:
            return {}
        blocked = {row[0] for row in session.ask(_BLOCKED, (locked,))}
        queues = {}
        for each in locked:
            if each not in blocked:
                rows = session.ask(_NEXT_PARKED, (each, wanted[each]))
                left = (rows[0][-1] - len(rows) if rows else 0) + (each in growing)
                queues[each] = _Queue(iter([_letter(row) for row in rows]), bool(rows), left)
        return queues


def _counts(session: Session, queues: Iterable[int]) -> dict[int, int]:
    """How many are parked in each."""
    wanted = sorted(queues)
    return dict(session.ask(_PARKED_COUNTS, (wanted,))) if wanted else {}


def _of_letter(letter: Letter | None, parked: Mapping[int, int], key: bytes) -> Task:
    if letter is None:
        return Task()
    sends: Sequence[tuple[bytes, bytes]] = ()
    if letter.holds_key:
        sends = queue_triggers(key, letter.queue, parked.get(letter.queue, 0))
    return Task(letter, letter.queue, sends)


def _of_queue(asked: Trigger, queue: _Queue, key: bytes) -> Task:
    assert asked.queue is not None, "it names a queue"
    letter = next(queue.letters, None)
    if not asked.last:
        return Task(letter, asked.queue)
    if queue.drains or queue.left:
        return Task(letter, asked.queue, queue_triggers(key, asked.queue, queue.left))
    return Task(None, asked.queue, releases=True)


def _letter(row: Sequence[Any]) -> Letter:
    number, topic, partition, offset, key, value, headers, timestamp, queue, holds_key = row[:10]
    pairs = [(name, content) for name, content in msgspec.msgpack.decode(headers)]
    place = Partition(topic, partition)
    return Letter(number, place, offset, key, value, pairs, timestamp, queue, holds_key)


_PENDING = """
SELECT l.id, l.topic, l.partition, l."offset", l.key,
    CASE WHEN l.edited_at IS NULL THEN l.value ELSE l.replacement END,
    l.headers, l."timestamp", COALESCE(l.parked_behind, l.id),
    EXISTS (
        SELECT FROM processor.parked_keys k WHERE k.letter_id = COALESCE(l.parked_behind, l.id)
    )
FROM processor.dead_letters l
WHERE l.group_id = %s AND l.id = ANY (%s) AND l.state = 'pending'
ORDER BY l.id FOR UPDATE OF l
"""

_LOCK_QUEUES = """
SELECT k.letter_id FROM processor.parked_keys k WHERE k.letter_id = ANY (%s)
ORDER BY k.progress_id, k.key_digest FOR UPDATE
"""

_BLOCKED = """
SELECT q.id FROM unnest(%s::bigint[]) AS q (id)
WHERE EXISTS (
    SELECT FROM processor.dead_letters l WHERE (l.id = q.id OR l.parked_behind = q.id)
        AND l.state IN ('failed', 'pending')
)
"""

_NEXT_PARKED = """
SELECT l.id, l.topic, l.partition, l."offset", l.key, l.value, l.headers, l."timestamp",
    l.parked_behind, true, count(*) OVER ()
FROM processor.dead_letters l WHERE l.parked_behind = %s AND l.state = 'parked'
ORDER BY l.id LIMIT %s
"""

_PARKED_COUNTS = """
SELECT l.parked_behind, count(*) FROM processor.dead_letters l
WHERE l.parked_behind = ANY (%s) AND l.state = 'parked' GROUP BY l.parked_behind
"""
