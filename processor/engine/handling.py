"""Handlers are called here: a whole batch at once, or one message at a time.

The fast path runs every handler, then flushes once. When anything in it fails, the batch's
transaction is rolled back and isolation runs it again message by message.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Handled, Partition, Slice, Stop
from processor.engine.sealing import Sealer, size_of
from processor.engine.steps import Step, Steps
from processor.engine.store import Store
from processor.errors import DecodeError, UnknownType
from processor.message import Message
from processor.routing import Route
from processor.transaction import Transaction

HALT_UNKNOWN_TYPE = "unknown-type"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message with its handler and event."""

    raw: Any
    handler: Handler
    event: Any


class Handling:
    """Runs the pipeline's handlers over slices; all in one Postgres transaction."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        sealer: Sealer,
        store: Store,
        steps: Steps,
        max_output_bytes: int,
        limit_seconds: float,
    ) -> None:
        self.routes = routes
        self.sealer = sealer
        self.store = store
        self._steps = steps
        self._max_output_bytes = max_output_bytes
        self.limit_seconds = limit_seconds

    def run(self, slices: Sequence[Slice]) -> list[Handled]:
        """The fast path: every message once, one flush at the end.

        Stops early, leaving the rest of the slices, when the outputs grow too large. Any exception
        means that nothing of it may be kept.
        """
        tx = Transaction(self.store.session)
        room = self._max_output_bytes
        done = []
        with self._steps.step(Step.HANDLE, self.limit_seconds):
            for each in slices:
                handled = start(each)
                if room > 0 and self.routes[each.partition.topic].batch:
                    room -= self._run_batch(each, handled, tx)
                elif room > 0:
                    room = self._run_messages(each, handled, tx, room)
                else:
                    handled.rest = each.messages
                done.append(handled)
        with self._steps.step(Step.FLUSH):
            tx.flush()
        if self.store.session.failure is not None:
            raise self.store.session.failure  # a handler swallowed it
        return done

    def _run_messages(self, each: Slice, handled: Handled, tx: Transaction, room: int) -> int:
        for index, raw in enumerate(each.messages):
            if room <= 0 or handled.stop is not None:
                handled.rest = each.messages[index:]
                return room
            decoded = self.decode(raw, handled)
            if decoded is not None:
                room -= self.call(decoded, handled, tx)
            if handled.stop is None:
                step_past(raw, handled)
        return room

    def _run_batch(self, each: Slice, handled: Handled, tx: Transaction) -> int:
        decoded = self.decode_batch(each.messages, handled)
        if handled.stop is not None:
            return 0
        if decoded:
            return self.call_batch(decoded, handled, tx)
        return 0

    def decode_batch(self, messages: Sequence[Any], handled: Handled) -> list[Decoded]:
        """The messages that can be decoded; stops at one whose type halts the partition."""
        decoded = []
        for index, raw in enumerate(messages):
            one = self.decode(raw, handled)
            if handled.stop is not None:
                handled.rest = list(messages[index:])
                break
            if one is not None:
                decoded.append(one)
            step_past(raw, handled)
        return decoded

    def decode(self, raw: Any, handled: Handled) -> Decoded | None:
        """Handler and event; None when the message is dead-lettered, skipped or halts.

        This fails before anything is written, so it costs the one message alone.
        """
        route = self.routes[handled.partition.topic]
        try:
            handler, event = route.decode(raw.value())
        except UnknownType as error:
            if route.unknown == "skip":
                handled.skipped += 1
            elif route.unknown == "halt":
                handled.stop = Stop(HALT_UNKNOWN_TYPE, str(error), None)
            else:
                reject(handled, raw, None, error, attempts=1)
            return None
        except DecodeError as error:
            reject(handled, raw, None, error, attempts=1)
            return None
        return Decoded(raw, handler, event)

    def call(self, decoded: Decoded, handled: Handled, tx: Transaction) -> int:
        """Run one message's handler and seal its outputs; their size in bytes."""
        raw, handler = decoded.raw, decoded.handler
        message = to_message(handled.partition, decoded) if handler.needs_message else None
        result = handler.call(decoded.event, message, tx)
        handled.handled += 1
        if result is None:
            return 0
        return self._seal(result, handled, raw.offset(), timestamp_of(raw))

    def call_batch(self, decoded: Sequence[Decoded], handled: Handled, tx: Transaction) -> int:
        messages = [to_message(handled.partition, each) for each in decoded]
        result = decoded[0].handler.call_batch(messages, tx)
        handled.handled += len(messages)
        if result is None:
            return 0
        return self._seal(result, handled, None, messages[-1].timestamp)

    def _seal(
        self, outputs: Iterable[Any], handled: Handled, offset: int | None, timestamp: int | None
    ) -> int:
        size = 0
        for output in outputs:
            record = self.sealer.seal(output, offset, timestamp)
            handled.records.append(record)
            size += size_of(record.key, record.value, record.headers)
        return size


def start(each: Slice) -> Handled:
    return Handled(each.partition, each.first, each.first)


def step_past(raw: Any, handled: Handled) -> None:
    handled.next = raw.offset() + 1
    handled.leader_epoch = raw.leader_epoch()


def to_message(partition: Partition, decoded: Decoded) -> Message[Any]:
    raw = decoded.raw
    return Message(
        partition.topic,
        partition.number,
        raw.offset(),
        raw.key(),
        decoded.event,
        raw.headers() or (),
        timestamp_of(raw),
    )


def timestamp_of(raw: Any) -> int | None:
    kind, value = raw.timestamp()
    return value if kind else None


def reject(
    handled: Handled, raw: Any, handler: Handler | None, error: BaseException, attempts: int
) -> None:
    """Set one message aside; the partition goes on."""
    cause = error.__cause__ if error.__cause__ is not None else error
    trace = None
    if handler is not None:
        trace = "".join(traceback.format_exception(cause, limit=20))[-8_000:]
    handled.dead_letters.append(
        DeadLetter(
            partition=handled.partition,
            offset=raw.offset(),
            key=raw.key(),
            value=raw.value(),
            headers=raw.headers() or (),
            timestamp=timestamp_of(raw),
            handler=None if handler is None else handler.name,
            error=type(cause).__name__,
            reason=str(error)[:2_000],
            trace=trace,
            attempts=attempts,
        )
    )
