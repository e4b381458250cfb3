"""Handlers are called here: a whole batch at once, or one message at a time.

The fast path runs every handler, then flushes once. When anything in it fails, the batch's
transaction is rolled back and isolation runs it again message by message.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import GeneratorType
from typing import Any, Protocol

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Handled, Partition, Slice, Stop
from processor.engine.sealing import Sealer
from processor.engine.steps import Step, Steps
from processor.engine.store import Store
from processor.errors import DecodeError, PipelineError, UnknownType
from processor.message import Headers, Message, Output
from processor.routing import Route
from processor.transaction import Transaction

FEW_ROWS = 32
"""Up to so many a batch's writes go in one round trip; more are copied."""
HALT_UNKNOWN_TYPE = "unknown-type"


@dataclass(slots=True)
class Decoded:
    """A message with its handler and event. Not frozen: that would make it three times as slow."""

    raw: Any
    handler: Handler
    event: Any
    headers: Headers = ()
    """Read only where the handler takes the message."""


class Ahead(Protocol):
    """What is done before a batch is known to succeed; all of it can be undone."""

    def handled(self, handled: Sequence[Handled]) -> None:
        """The handlers have run; nothing is flushed."""

    def flushed(self) -> None:
        """The few writes are on their way, and what is written now goes with them."""


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
        max_seconds: float = 2.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.routes = routes
        self.sealer = sealer
        self.store = store
        self._steps = steps
        self._max_output_bytes = max_output_bytes
        self.max_seconds = max_seconds
        self.limit_seconds = limit_seconds
        self.clock = clock
        self._unreadable: set[tuple[Partition, int]] = set()

    def run(self, slices: Sequence[Slice], ahead: Ahead | None = None) -> list[Handled]:
        """The fast path: every message once, one flush at the end.

        Stops early, leaving the rest of the slices, when the outputs grow too large or the time for
        a batch is over. Any exception means that nothing of it may be kept.
        """
        tx = Transaction(self.store.session)
        limits = self.limits()
        done = []
        with self._steps.step(Step.HANDLE, self.limit_seconds):
            for each in slices:
                handled = start(each)
                done.append(handled)
                if limits.reached(handled):
                    handled.rest = each.messages
                elif self.routes[each.partition.topic].batch:
                    self._run_batch(each, handled, tx)
                else:
                    self._run_messages(each, handled, tx, limits)
                limits.count(handled)
        if ahead is not None:
            self._no_failure(tx)
            ahead.handled(done)
        with self._steps.step(Step.FLUSH):
            rows = tx.buffered_inserts
            if rows is not None and rows <= FEW_ROWS:
                with self.store.together():
                    tx.flush()
                    self.store.settle()
                    if ahead is not None:
                        ahead.flushed()
            else:
                tx.flush()
                self.store.settle()
        self._no_failure(tx)
        return done

    def _no_failure(self, tx: Transaction) -> None:
        """Raise one that a handler has swallowed."""
        failure = tx.failure or self.store.session.failure
        if failure is not None:
            raise failure

    def limits(self) -> Limits:
        """Of a batch that begins now."""
        return Limits(self._max_output_bytes, self.clock() + self.max_seconds, self.clock)

    def _run_messages(self, each: Slice, handled: Handled, tx: Transaction, limits: Limits) -> None:
        """Until the slice's end, a stop, or a limit."""
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            decoded = self.decode(raw, handled)
            if decoded is not None:
                self.call(decoded, handled, tx)
            if handled.stop is not None:
                break
            step_past(raw, handled)

    def _run_batch(self, each: Slice, handled: Handled, tx: Transaction) -> None:
        """What comes before a message that stops the partition is handled all the same."""
        decoded = self.decode_batch(each.messages, handled)
        if decoded:
            self.call_batch(decoded, handled, tx)

    def decode_batch(self, messages: Sequence[Any], handled: Handled) -> list[Decoded]:
        """The messages that can be decoded; stops at one whose type halts the partition."""
        decoded = []
        for raw in messages:
            one = self.decode(raw, handled)
            if handled.stop is not None:
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
            headers = self.headers(handled.partition, raw) if handler.needs_message else ()
        except DecodeError as error:
            unknown = route.unknown if isinstance(error, UnknownType) else "dead-letter"
            if unknown == "skip":
                handled.skipped += 1
            elif unknown == "halt":
                handled.stop = Stop(HALT_UNKNOWN_TYPE, str(error), None)
            else:
                readable = self.headers_if_any(handled.partition, raw)
                reject(handled, raw, None, error, 1, readable)
            return None
        return Decoded(raw, handler, event, headers)

    def headers(self, partition: Partition, raw: Any) -> Headers:
        """The message's headers.

        A name that is not UTF-8 makes the client fail with a SystemError, and a second attempt at
        the same message can end the process; so each is asked for its headers once.

        :raises DecodeError: for headers that the client cannot read.
        """
        if not self._unreadable or (partition, raw.offset()) not in self._unreadable:
            try:
                return raw.headers() or ()
            except (SystemError, UnicodeDecodeError):
                self._unreadable.add((partition, raw.offset()))
        raise DecodeError("a header's name is not UTF-8")

    def headers_if_any(self, partition: Partition, raw: Any) -> Headers:
        try:
            return self.headers(partition, raw)
        except DecodeError:
            return ()

    def call(self, decoded: Decoded, handled: Handled, tx: Transaction) -> None:
        """Run one message's handler and seal its outputs."""
        raw, handler = decoded.raw, decoded.handler
        message = to_message(handled.partition, decoded) if handler.needs_message else None
        result = handler.call(decoded.event, message, tx)
        handled.handled += 1
        if isinstance(result, Output):
            record, size = self.sealer.seal(result, raw.offset(), timestamp_of(raw))
            handled.records.append(record)
            handled.output_bytes += size
        elif result is not None:
            self._seal(as_outputs(result), handled, raw.offset(), timestamp_of(raw))

    def call_batch(self, decoded: Sequence[Decoded], handled: Handled, tx: Transaction) -> None:
        messages = [to_message(handled.partition, each) for each in decoded]
        result = decoded[0].handler.call_batch(messages, tx)
        handled.handled += len(messages)
        if result is not None:
            self._seal(as_outputs(result), handled, None, messages[-1].timestamp)

    def _seal(
        self, outputs: Iterable[Any], handled: Handled, offset: int | None, timestamp: int | None
    ) -> None:
        seal, keep = self.sealer.seal, handled.records.append
        for output in outputs:
            record, size = seal(output, offset, timestamp)
            keep(record)
            handled.output_bytes += size


@dataclass(slots=True)
class Limits:
    """What ends a batch before its messages do."""

    output_bytes: int
    """What those that are still to be counted may have together."""
    deadline: float
    clock: Callable[[], float]

    def reached(self, handled: Handled) -> bool:
        """:param handled: what is under way, not counted yet."""
        return handled.output_bytes >= self.output_bytes or self.clock() > self.deadline

    def count(self, handled: Handled) -> None:
        """A slice is done."""
        self.output_bytes -= handled.output_bytes


def as_outputs(result: Any) -> Iterable[Any]:
    """What a handler has returned, one by one.

    :raises PipelineError: for what cannot be outputs.
    """
    kind = type(result)
    if kind is GeneratorType or kind is list:
        return result  # type: ignore[no-any-return]
    if isinstance(result, Output):
        return (result,)
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes, Mapping)):
        raise PipelineError(f"a handler returned {kind.__name__}; yield Outputs or return a list")
    return result


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
        decoded.headers,
        timestamp_of(raw),
    )


def timestamp_of(raw: Any) -> int | None:
    kind, value = raw.timestamp()
    return value if kind else None


def text_of(error: BaseException) -> str:
    """An exception's text; its class where making a text of it fails as well."""
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__} without a text"


def reject(
    handled: Handled,
    raw: Any,
    handler: Handler | None,
    error: BaseException,
    attempts: int,
    headers: Headers,
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
            headers=headers,
            timestamp=timestamp_of(raw),
            handler=None if handler is None else handler.name,
            error=type(cause).__name__,
            reason=text_of(error)[:2_000],
            trace=trace,
            attempts=attempts,
        )
    )
