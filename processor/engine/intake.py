"""What is asked of Postgres before the handlers run: in bulk, of messages that are decoded.

For topics only that have something to ask. Their messages are decoded first, one question goes to
Postgres for all of the batch, and then the handlers take the messages one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processor.dedup import BusinessKey
from processor.engine.batch import Partition, Slice
from processor.engine.dedup import Keys, TakenKeys
from processor.engine.messages import Decoded, text_of
from processor.engine.steps import Step, Steps
from processor.errors import DecodeError, HandlerSignal, PipelineError, Reject
from processor.message import Headers
from processor.routing import Route
from processor.transaction import Session


@dataclass(slots=True)
class Arrival:
    """A message before its turn."""

    decoded: Decoded | None
    error: Exception | None = None
    """Why it cannot be handled: it cannot be decoded (then there is no ``decoded``), or its key
    cannot be told."""


@dataclass(slots=True)
class Arrived:
    """A slice's messages before their turns, by offset, and the keys of the whole batch."""

    messages: dict[int, Arrival]
    keys: TakenKeys | None = None

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
        routes: Mapping[str, Route],
        read: Callable[[Partition, Any], Decoded],
        headers: Callable[[Partition, Any], Headers],
        keys: Keys,
        steps: Steps,
    ) -> None:
        """:param read: decodes a message; raises DecodeError.
        :param headers: of a message; raises DecodeError.
        """
        self._routes = routes
        self._read = read
        self._headers = headers
        self._keys = keys
        self._steps = steps

    def ask(self, slices: Sequence[Slice], session: Session) -> dict[Partition, Arrived]:
        """What is known of the slices that have something to ask; first in their transaction.

        :raises Doubt: for every error of Postgres but those that are to be tried again.
        :raises Restart: for those.
        """
        arrived = {
            each.partition: Arrived(
                {raw.offset(): self._arrival(each, raw) for raw in each.messages}
            )
            for each in slices
            if self._routes[each.partition.topic].has_keys
        }
        wanted = {
            one.decoded.key
            for each in arrived.values()
            for one in each.messages.values()
            if one.decoded is not None and one.decoded.key is not None
        }
        if wanted:
            with self._steps.step(Step.TAKE_KEYS):
                taken = self._keys.take(session, wanted)
            for each in arrived.values():
                each.keys = taken
        return arrived

    def close(self, arrived: Mapping[Partition, Arrived], session: Session) -> None:
        """The handlers are done: keys of messages that were set aside or not come to go back."""
        keys = next((each.keys for each in arrived.values()), None)
        if keys is not None:
            self._keys.give_back(session, keys)

    def _arrival(self, each: Slice, raw: Any) -> Arrival:
        try:
            decoded = self._read(each.partition, raw)
        except DecodeError as error:
            return Arrival(None, error)
        key = decoded.handler.key
        if key is None:
            return Arrival(decoded)
        try:
            decoded.key = key.digest(self._source(key, each.partition, decoded))
        except DecodeError as error:
            return Arrival(None, error)
        except (HandlerSignal, PipelineError) as error:
            return Arrival(decoded, error)
        except Exception as error:
            return Arrival(decoded, _rejection(error))
        return Arrival(decoded)

    def _source(self, key: BusinessKey, partition: Partition, decoded: Decoded) -> Any:
        if key.wants == "event":
            return decoded.event
        if key.wants == "message":
            return decoded.message
        return self._headers(partition, decoded.raw)


def _rejection(error: Exception) -> Reject:
    """The same message has the same key: another try would end the same way."""
    rejected = Reject(f"the key for dedup cannot be told: {text_of(error)}")
    rejected.__cause__ = error
    return rejected
