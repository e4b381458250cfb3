"""What is asked of Postgres before the handlers run: in bulk, of messages that are decoded.

For slices only that have something to ask: whose handlers know duplicates, whose keys may be
parked, or which are triggers of dead letters. Their messages are decoded first, a few questions go
to Postgres for all of the batch, and then the handlers take the messages one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from processor.dedup import BusinessKey
from processor.engine.batch import Partition, Slice
from processor.engine.decoding import Decoding
from processor.engine.dedup import Keys, TakenKeys
from processor.engine.messages import Decoded, text_of
from processor.engine.parking import Parking
from processor.engine.replays import Replays, StoredMessage, Task
from processor.engine.steps import Step, Steps
from processor.engine.triggers import replays_topic
from processor.errors import DecodeError, HandlerSignal, PipelineError, Reject
from processor.message import Message
from processor.transaction import Session


@dataclass(slots=True)
class Arrival:
    """A message before its turn."""

    decoded: Decoded | None
    error: Exception | None = None
    """Why it cannot be handled: it cannot be decoded (then there is no ``decoded``), or its key
    cannot be told."""
    task: Task | None = None
    """Of a trigger; ``decoded`` is its letter's message."""


@dataclass(slots=True)
class Arrived:
    """A slice's messages before their turns, by offset, and the keys of the whole batch."""

    messages: dict[int, Arrival]
    keys: TakenKeys | None = None
    parked: Mapping[bytes, int] = field(default_factory=dict)
    """Keys whose messages are parked, and the letter that each waits for."""

    def is_duplicate(self, decoded: Decoded) -> bool:
        key, keys = decoded.key, self.keys
        return key is not None and keys is not None and not keys.is_free(key)

    def use(self, decoded: Decoded) -> None:
        """It takes effect: a later message of its key does not."""
        if decoded.key is not None and self.keys is not None:
            self.keys.use(decoded.key)

    def mark(self) -> int:
        return 0 if self.keys is None else self.keys.mark()

    def back_to(self, mark: int) -> None:
        if self.keys is not None:
            self.keys.back_to(mark)


class Intake:
    """Asks for a run of a batch, and gives back at its end what was taken in vain."""

    def __init__(
        self,
        decoding: Decoding,
        steps: Steps,
        keys: Keys | None,
        parking: Parking,
        replays: Replays,
    ) -> None:
        """:param keys: where duplicates are looked for, if any handler knows them."""
        self._decoding = decoding
        self._routes = decoding.routes
        self._steps = steps
        self._keys = keys
        self._parking = parking
        self._replays = replays
        self._replays_topic = replays_topic(replays.group_id)

    def ask(
        self, slices: Sequence[Slice], session: Session, *, careful: bool
    ) -> dict[Partition, Arrived]:
        """What is known of the slices that have something to ask; first in their transaction.

        :param careful: a handler may fail without the others of its batch: later messages of its
            key may have to be parked.
        :raises Doubt: for every error of Postgres but those that are to be tried again.
        :raises Restart: for those.
        """
        triggers = [each for each in slices if each.partition.topic == self._replays_topic]
        others = [each for each in slices if each.partition.topic != self._replays_topic]
        concerned = {each.partition: self._parking.concerned(each) for each in others}
        arrived = {
            each.partition: Arrived(
                {raw.offset(): self._arrival(each.partition, raw) for raw in each.messages}
            )
            for each in others
            if concerned[each.partition] or self._asks(each.partition.topic, careful)
        }
        if not (arrived or triggers):
            return {}
        with self._steps.step(Step.ASK):
            # Always in this order, so that no two wait for each other.
            growing: set[int] = set()
            for partition, parked in self._parking.confirmed(session, concerned).items():
                arrived[partition].parked = parked
                growing.update(parked.values())
            arrived |= self._tasks(session, triggers, growing)
            self._take_keys(session, arrived)
        return arrived

    def close(self, arrived: Mapping[Partition, Arrived], session: Session) -> None:
        """The handlers are done: keys of messages that were set aside or not come to go back."""
        keys = next((each.keys for each in arrived.values() if each.keys is not None), None)
        if keys is not None and self._keys is not None:
            self._keys.give_back(session, keys)

    def _asks(self, topic: str, careful: bool) -> bool:
        route = self._routes[topic]
        return route.has_keys or (careful and route.parks)

    def _take_keys(self, session: Session, arrived: Mapping[Partition, Arrived]) -> None:
        wanted = {
            one.decoded.key
            for each in arrived.values()
            for one in each.messages.values()
            if one.decoded is not None and one.decoded.key is not None
        }
        if wanted and self._keys is not None:
            taken = self._keys.take(session, wanted)
            for each in arrived.values():
                each.keys = taken

    def _tasks(
        self, session: Session, triggers: Sequence[Slice], growing: Set[int]
    ) -> dict[Partition, Arrived]:
        if not triggers:
            return {}
        raws = [raw for each in triggers for raw in each.messages]
        tasks = iter(self._replays.read(session, raws, growing))
        return {
            each.partition: Arrived(
                {raw.offset(): self._letter(next(tasks), raw) for raw in each.messages}
            )
            for each in triggers
        }

    def _letter(self, task: Task, raw: Any) -> Arrival:
        """A letter's message, as its handler got it before."""
        letter = task.letter
        if letter is None:
            return Arrival(None, None, task)
        stored = StoredMessage(letter, raw)
        route = self._routes.get(letter.partition.topic)
        try:
            if route is None:
                raise DecodeError(f"topic {letter.partition.topic!r} has no handler any more")
            handler, event = route.decode(letter.value)
        except DecodeError as error:
            return Arrival(None, error, task)
        topic, number = letter.partition
        message = Message(
            topic, number, letter.offset, letter.key, event, letter.headers, letter.timestamp
        )
        decoded = Decoded(stored, handler, event, message, task=task)
        return self._with_key(letter.partition, decoded)

    def _arrival(self, partition: Partition, raw: Any) -> Arrival:
        try:
            decoded = self._decoding.read(partition, raw)
        except DecodeError as error:
            return Arrival(None, error)
        return self._with_key(partition, decoded)

    def _with_key(self, partition: Partition, decoded: Decoded) -> Arrival:
        key, task = decoded.handler.key, decoded.task
        if key is None:
            return Arrival(decoded, None, task)
        try:
            decoded.key = key.digest(self._source(key, partition, decoded))
        except DecodeError as error:
            return Arrival(None, error, task)
        except (HandlerSignal, PipelineError) as error:
            return Arrival(decoded, error, task)
        except Exception as error:
            return Arrival(decoded, _rejection(error), task)
        return Arrival(decoded, None, task)

    def _source(self, key: BusinessKey, partition: Partition, decoded: Decoded) -> Any:
        if key.wants == "event":
            return decoded.event
        if key.wants == "message":
            return decoded.message
        if decoded.task is not None:
            return decoded.raw.headers()
        return self._decoding.headers(partition, decoded.raw)


def _rejection(error: Exception) -> Reject:
    """The same message has the same key: another try would end the same way."""
    rejected = Reject(f"the key for dedup cannot be told: {text_of(error)}")
    rejected.__cause__ = error
    return rejected
