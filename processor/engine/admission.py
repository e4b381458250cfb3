"""A message's turn: whether its handler runs, and what becomes of it otherwise."""

from __future__ import annotations

from typing import Any

from processor.engine.batch import Handled, Record, Stop
from processor.engine.decoding import Decoding
from processor.engine.intake import Arrival, Arrived
from processor.engine.messages import Decoded, timestamp_of
from processor.engine.replays import Task
from processor.engine.triage import Triage
from processor.errors import DecodeError, UnknownType

HALT_UNKNOWN_TYPE = "unknown-type"


class Admission:
    """Decides before a handler's call, and counts after it."""

    def __init__(self, decoding: Decoding, triage: Triage, replays_topic: str = "") -> None:
        self._decoding = decoding
        self._triage = triage
        self._replays_topic = replays_topic

    def admit(self, raw: Any, handled: Handled) -> Decoded | None:
        """What its handler is to be called with; None when the message is done without.

        This fails before anything is written, so it costs the one message alone.
        """
        if handled.arrived is not None:
            return self._arrived(raw, handled, handled.arrived)
        try:
            return self._decoding.read(handled.partition, raw)
        except DecodeError as error:
            self.refuse(raw, handled, error)
            return None

    def refuse(self, raw: Any, handled: Handled, error: DecodeError) -> None:
        """A message that cannot be decoded is dead-lettered, skipped, or halts the partition."""
        unknown = "dead-letter"
        if isinstance(error, UnknownType):
            unknown = self._decoding.routes[handled.partition.topic].unknown
        if unknown == "skip":
            handled.skipped += 1
        elif unknown == "halt":
            told = f"offset {raw.offset()}: {error}"
            handled.stop = Stop(HALT_UNKNOWN_TYPE, told, None)
        else:
            headers = self._decoding.headers_if_any(handled.partition, raw)
            self._triage.dead_letter(handled, raw, None, error, None, headers)

    def done(self, decoded: Decoded, handled: Handled) -> None:
        """Its handler has succeeded."""
        if handled.arrived is None:
            return
        handled.arrived.use(decoded)
        task = decoded.task
        if task is not None:
            assert task.letter is not None, "a handler has run for it"
            handled.replayed.append(task.letter.id)
            self._go_on(task, decoded.raw, handled)

    def _arrived(self, raw: Any, handled: Handled, arrived: Arrived) -> Decoded | None:
        """The turn of a message that was decoded before has come."""
        one = arrived.messages[raw.offset()]
        if one.task is not None and not self._is_due(one.task, raw, handled):
            return None
        if one.task is None and self._is_parked(raw, handled, arrived):
            self._park(one, raw, handled)
        elif one.decoded is None:
            self._refuse(one, raw, handled)
        elif one.error is not None:
            headers = self._decoding.headers_if_any(handled.partition, raw)
            self._triage.failed(one.decoded, handled, one.error, headers)
        elif arrived.is_duplicate(one.decoded):
            self._skip_duplicate(one, raw, handled)
        else:
            return one.decoded
        return None

    def _is_due(self, task: Task, raw: Any, handled: Handled) -> bool:
        """Whether there is a letter to be handled; a trigger that comes late has none."""
        if any(each.queue == task.queue for each in handled.returned):
            handled.skipped += 1
            return False
        if task.letter is None:
            handled.skipped += 1
            self._go_on(task, raw, handled)
            return False
        return True

    def _go_on(self, task: Task, raw: Any, handled: Handled) -> None:
        """What follows a trigger that is done."""
        timestamp = timestamp_of(raw) or 0
        for key, value in task.sends:
            handled.records.append(
                Record(self._replays_topic, key, value, (), timestamp, None, raw.offset())
            )
        if task.releases and task.queue is not None:
            handled.released.append(task.queue)

    def _is_parked(self, raw: Any, handled: Handled, arrived: Arrived) -> bool:
        if not (arrived.parked or handled.new_keys):
            return False
        key = raw.key()
        return key is not None and (key in arrived.parked or key in handled.new_keys)

    def _park(self, one: Arrival, raw: Any, handled: Handled) -> None:
        handler = None if one.decoded is None else one.decoded.handler
        headers = self._decoding.headers_if_any(handled.partition, raw)
        self._triage.park(handled, raw, handler, headers)

    def _refuse(self, one: Arrival, raw: Any, handled: Handled) -> None:
        assert isinstance(one.error, DecodeError), "it could not be decoded"
        if one.task is not None and one.task.letter is not None:
            self._triage.give_back(handled, raw, one.task.letter, None, one.error, 1)
        else:
            self.refuse(raw, handled, one.error)

    def _skip_duplicate(self, one: Arrival, raw: Any, handled: Handled) -> None:
        """A letter whose key another message has taken meanwhile is done as well."""
        if one.task is not None and one.task.letter is not None:
            handled.replayed.append(one.task.letter.id)
            self._go_on(one.task, raw, handled)
        handled.skipped += 1
        handled.duplicates += 1
