"""Dead letters are sent to be handled again, or given up.

Postgres first: a letter is pending from then on. Its trigger follows; one that gets lost on the
way is sent again by the next command that names the letter, and one that comes twice does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from processor.engine.batch import Partition
from processor.engine.triggers import letter_trigger, queue_triggers, replays_topic, trigger_key
from processor.errors import ConfigurationError
from processor.operations.actor import this_actor
from processor.operations.database import Connection
from processor.operations.dead_letters.selection import OF_THESE, Selection
from processor.operations.sender import Sender

MOST_REPLAYS = 5
"""A letter that has come back so often needs more than another try."""
CHUNK = 500
MOST_AUDITED = 1_000
"""Numbers that an entry of the audit holds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Letters that are not replayed, and why."""

    why: str
    letters: int
    first: int
    """The number of one of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command would do."""

    ready: tuple[int, ...]
    """Numbers of letters, in order."""
    refused: tuple[Refused, ...]


class Redrive:
    """Acts on the letters of one group."""

    def __init__(self, connection: Connection, group: str, actor: str | None = None) -> None:
        self._connection = connection
        self._group = group
        self._actor = actor or this_actor()

    @property
    def topic(self) -> str:
        return replays_topic(self._group)

    def plan_replay(self, selection: Selection, most_replays: int = MOST_REPLAYS) -> Plan:
        """Which letters can be replayed now.

        :param most_replays: the guard against endless redrives.
        :raises ConfigurationError: for a number that no letter has.
        """
        found = self._connection.execute(_CANDIDATES, selection.values()).fetchall()
        self._require(selection, [row[0] for row in found])
        ready: list[int] = []
        refused: dict[str, list[int]] = {}
        for number, state, replays, is_published in found:
            why = _refusal(state, replays, is_published, most_replays)
            if why is None:
                ready.append(number)
            else:
                refused.setdefault(why, []).append(number)
        return _plan(ready, refused)

    def plan_discard(self, selection: Selection) -> Plan:
        """Which letters wait, for whatever it is."""
        found = self._connection.execute(_STATES, selection.values()).fetchall()
        self._require(selection, [row[0] for row in found])
        ready: list[int] = []
        refused: dict[str, list[int]] = {}
        for number, state in found:
            if state in ("replayed", "discarded"):
                refused.setdefault(f"it is {state} already", []).append(number)
            else:
                ready.append(number)
        return _plan(ready, refused)

    def edit(self, number: int, value: bytes | None) -> None:
        """Have a letter replayed with another value, which is kept beside the original.

        :raises ConfigurationError: for a letter that does not wait to be replayed.
        """
        with self._connection.transaction():
            done = self._connection.execute(
                "UPDATE processor.dead_letters SET replacement = %s, edited_at = now()"
                " WHERE group_id = %s AND id = %s AND state = 'failed'",
                (value, self._group, number),
            )
            if done.rowcount != 1:
                raise ConfigurationError(
                    f"group {self._group} has no dead letter {number} that has failed and waits"
                )
            self._audit("dead-letter-edit", [number], {})

    def replay(
        self,
        numbers: Sequence[int],
        sender: Sender,
        rate: float = 0.0,
        told: Callable[[int], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Mark letters pending and send their triggers; how many.

        :param rate: triggers a second; 0 for as fast as it goes.
        :param told: how many have been sent by now.
        :raises ProcessorError: when Kafka does not take the triggers: they are pending all the
            same, and the command can be repeated.
        """
        began, sent = time.monotonic(), 0
        size = CHUNK if not rate else max(1, min(CHUNK, int(rate / 4)))
        for at in range(0, len(numbers), size):
            if stopping():
                break
            for source, key, number in self._mark(numbers[at : at + size]):
                if rate:
                    time.sleep(max(0.0, sent / rate - (time.monotonic() - began)))
                self._send(sender, *letter_trigger(source, key, number))
                sent += 1
            told(sent)
        if sent:
            self._audit("dead-letter-replay", numbers[:sent], {"letters": sent})
        self._nudge(sender)
        _finish(sender)
        return sent

    def discard(self, numbers: Sequence[int], sender: Sender | None, reason: str | None) -> int:
        """Give letters up; what is parked behind them goes on. How many.

        :param sender: None where the group has no topic of replays.
        """
        with self._connection.transaction():
            done = self._connection.execute(
                "UPDATE processor.dead_letters SET state = 'discarded', resolved_by = %s,"
                " resolved_at = now() WHERE group_id = %s AND id = ANY (%s)"
                " AND state IN ('failed', 'parked', 'pending')",
                (self._actor, self._group, list(numbers)),
            )
            detail = {"letters": done.rowcount, "reason": reason}
            self._audit("dead-letter-discard", numbers, detail)
        if sender is not None:
            self._nudge(sender)
            _finish(sender)
        return done.rowcount

    def states(self, numbers: Sequence[int]) -> dict[str, int]:
        """How many of these letters are in each state."""
        return dict(
            self._connection.execute(
                "SELECT state, count(*) FROM processor.dead_letters"
                " WHERE group_id = %s AND id = ANY (%s) GROUP BY state",
                (self._group, list(numbers)),
            ).fetchall()
        )

    def has_queues(self) -> bool:
        """Whether anything is parked behind a letter."""
        found = self._connection.execute(
            "SELECT EXISTS (SELECT FROM processor.parked_keys k"
            " JOIN processor.progress p ON p.id = k.progress_id WHERE p.group_id = %s)",
            (self._group,),
        ).fetchone()
        return bool(found and found[0])

    def _require(self, selection: Selection, found: Sequence[int]) -> None:
        """:raises ConfigurationError: when a letter that was named is not there."""
        missing = sorted(set(selection.ids or ()) - set(found))
        if missing:
            numbers = ", ".join(map(str, missing))
            raise ConfigurationError(f"group {self._group} has no dead letter {numbers}")

    def _mark(self, numbers: Sequence[int]) -> Iterator[tuple[Partition, bytes | None, int]]:
        with self._connection.transaction():
            marked = self._connection.execute(
                _MARK, (self._actor, self._group, list(numbers))
            ).fetchall()
        for number, topic, partition, key in sorted(marked):
            yield Partition(topic, partition), key, number

    def _nudge(self, sender: Sender) -> None:
        """Queues whose first letter is dealt with go on; a trigger too much does nothing."""
        for number, topic, partition, key in self._connection.execute(_IDLE_QUEUES, [self._group]):
            for each in queue_triggers(trigger_key(Partition(topic, partition), key), number, 0):
                self._send(sender, *each)

    def _send(self, sender: Sender, key: bytes, value: bytes) -> None:
        while not sender.broken and not sender.send(key, value):
            pass
        sender.poll(0)
        if sender.broken:
            _finish(sender)

    def _audit(self, action: str, numbers: Sequence[int], detail: dict[str, Any]) -> None:
        from psycopg.types.json import Jsonb

        told = {**detail, "ids": list(numbers[:MOST_AUDITED])}
        self._connection.execute(
            "INSERT INTO processor.audit (group_id, action, actor, detail) VALUES (%s, %s, %s, %s)",
            (self._group, action, self._actor, Jsonb(told)),
        )


def _finish(sender: Sender) -> None:
    sender.finish()
    sender.raise_failure()


def _refusal(state: str, replays: int, is_published: bool, most_replays: int) -> str | None:
    if state == "parked":
        return "it is parked: it follows the letter that it waits for"
    if state not in ("failed", "pending"):
        return f"it is {state} already"
    if not is_published:
        return "its partition has not published up to it yet: try again in a few seconds"
    if state == "failed" and replays >= most_replays:
        return f"it came back {most_replays} times: --most-replays allows more"
    return None


def _plan(ready: list[int], refused: dict[str, list[int]]) -> Plan:
    told = (Refused(why, len(numbers), numbers[0]) for why, numbers in refused.items())
    return Plan(tuple(ready), tuple(told))


# Published up to it, so that what its key has caused before is in the output topics first.
_CANDIDATES: LiteralString = (
    """
SELECT l.id, l.state, l.replays, NOT EXISTS (
    SELECT FROM processor.progress p
    WHERE p.group_id = l.group_id AND p.topic = l.topic AND p.topic_id = l.topic_id
        AND p.partition = l.partition AND p.superseded_at IS NULL
        AND p.published_offset <= l."offset"
)
""" + OF_THESE + "ORDER BY l.id"
)  # fmt: skip

_STATES: LiteralString = "SELECT l.id, l.state" + OF_THESE + "ORDER BY l.id"

_MARK = """
UPDATE processor.dead_letters SET state = 'pending',
    requested_by = CASE WHEN state = 'failed' THEN %s ELSE requested_by END,
    requested_at = CASE WHEN state = 'failed' THEN now() ELSE requested_at END
WHERE group_id = %s AND id = ANY (%s) AND state IN ('failed', 'pending')
RETURNING id, topic, partition, key
"""

_IDLE_QUEUES = """
SELECT l.id, l.topic, l.partition, l.key
FROM processor.parked_keys k
JOIN processor.progress p ON p.id = k.progress_id
JOIN processor.dead_letters l ON l.id = k.letter_id
WHERE p.group_id = %s AND NOT EXISTS (
    SELECT FROM processor.dead_letters w
    WHERE (w.id = k.letter_id OR w.parked_behind = k.letter_id)
        AND w.state IN ('failed', 'pending')
)
ORDER BY l.id
"""
