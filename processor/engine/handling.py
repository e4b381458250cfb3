"""Handlers are called here: a whole batch at once, or one message at a time.

The fast path runs every handler, then flushes once. When a handler fails, the batch is handled
again with care: what a message buffers is kept apart until the message is done, so that one that
fails costs itself alone. What the database refuses is for isolation to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from processor.binding import Handler
from processor.engine.batch import Handled, Partition, Slice, Stop
from processor.engine.dedup import Keys
from processor.engine.intake import Arrived, Intake
from processor.engine.limits import Limits
from processor.engine.messages import (
    Decoded,
    as_outputs,
    start,
    step_past,
    timestamp_of,
)
from processor.engine.sealing import Sealer
from processor.engine.steps import Step, Steps
from processor.engine.store import Store
from processor.engine.triage import Triage, Verdict
from processor.errors import DecodeError, UnknownType
from processor.message import Headers, Message, Output
from processor.routing import Route
from processor.transaction import Session, Transaction
from processor.writes import Journal

FEW_ROWS = 32
"""Up to so many a batch's writes go in one round trip; more are copied."""
HALT_UNKNOWN_TYPE = "unknown-type"


@dataclass(frozen=True, slots=True)
class Run:
    """What the handlers have made of a batch; their writes are not flushed yet."""

    handled: list[Handled]
    tx: Transaction


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
        triage: Triage | None = None,
        keys: Keys | None = None,
    ) -> None:
        """:param keys: where duplicates are looked for, if any handler knows them."""
        self.routes = routes
        self.triage = triage or Triage()
        self.sealer = sealer
        self.store = store
        self._steps = steps
        self._max_output_bytes = max_output_bytes
        self.max_seconds = max_seconds
        self.limit_seconds = limit_seconds
        self.clock = clock
        self._unreadable: set[tuple[Partition, int]] = set()
        self._intake: Intake | None = None
        if keys is not None:
            self._intake = Intake(routes, self.read, self.headers, keys, steps)

    def run(self, slices: Sequence[Slice]) -> list[Handled]:
        """The fast path: every message once, one flush at the end.

        Any exception means that nothing of it may be kept.
        """
        run = self.handle(slices)
        self.flush(run)
        return run.handled

    def handle(
        self, slices: Sequence[Slice], session: Session | None = None, *, careful: bool = False
    ) -> Run:
        """Every message once; what the handlers write is buffered, unless they ask Postgres.

        Stops early, leaving the rest of the slices, when the outputs grow too large or the time for
        a batch is over.

        :param session: what the handlers ask Postgres through, if not the store's own.
        :param careful: a message that fails is set aside, unless it has asked Postgres.
        """
        journal = Journal() if careful else None
        tx = Transaction(session or self.store.session, journal)
        done: list[Handled] = []
        try:
            with self._steps.step(Step.HANDLE, self.limit_seconds):
                arrived = self.ask(slices, session)
                limits = self.limits()
                for left, each in zip(range(len(slices), 0, -1), slices, strict=True):
                    handled = start(each, arrived)
                    done.append(handled)
                    limits.begin(left)
                    if limits.reached(handled):
                        handled.rest = each.messages
                    elif self.is_batch(each.partition):
                        self.run_batch(each.messages, handled, tx)
                    elif journal is None and handled.arrived is None:
                        self._run_messages(each, handled, tx, limits)
                    elif journal is None:
                        self._run_arrived(each, handled, tx, limits)
                    else:
                        self._run_carefully(each, handled, tx, journal, limits)
                    limits.count(handled)
                    self.triage.ended(handled)
        finally:
            tx.close(self.store.session)
        run = Run(done, tx)
        if arrived:
            self.check(run)
            self.close(arrived)
        return run

    def ask(
        self, slices: Sequence[Slice], session: Session | None = None
    ) -> Mapping[Partition, Arrived]:
        """What is asked before the handlers, of the slices that have something to ask.

        :raises Doubt: for what Postgres refuses.
        :raises Restart: for what is to be tried again.
        """
        if self._intake is None:
            return {}
        return self._intake.ask(slices, session or self.store.session)

    def close(self, arrived: Mapping[Partition, Arrived]) -> None:
        """All handlers are done: what was taken in vain for their messages is given back."""
        if self._intake is not None:
            self._intake.close(arrived, self.store.session)

    def flush(self, run: Run, first: Callable[[], None] | None = None) -> None:
        """Send what the handlers have written.

        :param first: called before; what it writes goes with the rest where that is little.
        """
        self.check(run)
        rows = run.tx.buffered_inserts
        if rows is not None and rows <= FEW_ROWS:
            with self._steps.step(Step.FLUSH), self.store.together():
                if first is not None:
                    first()
                self._send(run)
        else:
            if first is not None:
                first()
            with self._steps.step(Step.FLUSH):
                self._send(run)
        self.check(run)

    def _send(self, run: Run) -> None:
        run.tx.send_buffered()
        self.store.settle()

    def check(self, run: Run) -> None:
        """Raise what a handler has swallowed."""
        failure = run.tx.failure or self.store.session.failure
        if failure is not None:
            raise failure

    def limits(self) -> Limits:
        """Of a batch that begins now."""
        return Limits(self._max_output_bytes, self.clock() + self.max_seconds, self.clock)

    def _run_messages(self, each: Slice, handled: Handled, tx: Transaction, limits: Limits) -> None:
        """Until the slice's end, a stop, or a limit.

        What :meth:`decode` and :meth:`call` do, without a call for each: this is the loop whose
        time counts.
        """
        decode, to_message, keep = self._decoders(each.partition), self._to_message, self._keep
        last = None
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            try:
                handler, event = decode(raw.value())
                message = to_message(each.partition, raw, event) if handler.needs_message else None
            except DecodeError as error:
                self._refuse(raw, handled, error)
                if handled.stop is not None:
                    break
            else:
                result = handler.call(event, message, tx)
                handled.handled += 1
                if result is not None:
                    keep(result, raw, handled)
            last = raw
        if last is not None:
            step_past(last, handled)

    def _run_arrived(self, each: Slice, handled: Handled, tx: Transaction, limits: Limits) -> None:
        """The same for messages that were decoded before."""
        last = None
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            decoded = self.decode(raw, handled)
            if handled.stop is not None:
                break
            if decoded is not None:
                self.call(decoded, handled, tx)
            last = raw
        if last is not None:
            step_past(last, handled)

    def _run_carefully(
        self, each: Slice, handled: Handled, tx: Transaction, journal: Journal, limits: Limits
    ) -> None:
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            self.run_one(raw, handled, tx, journal)
            if handled.stop is not None:
                break

    def run_one(self, raw: Any, handled: Handled, tx: Transaction, journal: Journal) -> None:
        """One message, until it is done, set aside, or stops its partition.

        :raises Exception: the handler's, once it has asked Postgres: what it did has to be undone
            there.
        """
        decoded = self.decode(raw, handled)
        while decoded is not None:
            mark, tx.asked = handled.mark(), False
            try:
                self.call(decoded, handled, tx)
            except Exception as error:
                if tx.asked:
                    raise
                handled.back_to(mark)
                journal.drop()
                headers = self.headers_if_any(handled.partition, raw)
                if self.triage.failed(decoded, handled, error, headers) is Verdict.AGAIN:
                    continue
                break
            journal.keep()
            if tx.asked and (failure := tx.failure or self.store.session.failure) is not None:
                raise failure
            break
        if handled.stop is None:
            step_past(raw, handled)

    def is_batch(self, partition: Partition) -> bool:
        """Whether its messages go to a batch handler."""
        return self.routes[partition.topic].batch

    def run_batch(self, messages: Sequence[Any], handled: Handled, tx: Transaction) -> int:
        """A batch handler's call: how many messages are done by it.

        What comes before a message that stops the partition is handled all the same.
        """
        decoded = self.decode_batch(messages, handled)
        if decoded:
            self.call_batch(decoded, handled, tx)
        return sum(1 for raw in messages if raw.offset() < handled.next)

    def decode_batch(self, messages: Sequence[Any], handled: Handled) -> list[Decoded]:
        """The messages that can be decoded; stops at one whose type halts the partition."""
        decoded = []
        for raw in messages:
            one = self.decode(raw, handled)
            if handled.stop is not None:
                break
            if one is not None:
                decoded.append(one)
                if handled.arrived is not None:
                    handled.arrived.use(one)
            step_past(raw, handled)
        return decoded

    def decode(self, raw: Any, handled: Handled) -> Decoded | None:
        """Handler and event; None when the message is dead-lettered, skipped or halts.

        This fails before anything is written, so it costs the one message alone.
        """
        if handled.arrived is not None:
            return self._admit(raw, handled, handled.arrived)
        try:
            return self.read(handled.partition, raw)
        except DecodeError as error:
            self._refuse(raw, handled, error)
            return None

    def read(self, partition: Partition, raw: Any) -> Decoded:
        """:raises DecodeError: for a message that does not have the declared form."""
        handler, event = self._decoders(partition)(raw.value())
        message = self._to_message(partition, raw, event) if handler.needs_message else None
        return Decoded(raw, handler, event, message)

    def _admit(self, raw: Any, handled: Handled, arrived: Arrived) -> Decoded | None:
        """The turn of a message that was decoded before has come."""
        one = arrived.messages[raw.offset()]
        if one.decoded is None:
            assert isinstance(one.error, DecodeError), "it could not be decoded"
            self._refuse(raw, handled, one.error)
        elif one.error is not None:
            headers = self.headers_if_any(handled.partition, raw)
            self.triage.failed(one.decoded, handled, one.error, headers)
        elif arrived.is_duplicate(one.decoded):
            handled.skipped += 1
            handled.duplicates += 1
        else:
            return one.decoded
        return None

    def _decoders(self, partition: Partition) -> Callable[[bytes | None], tuple[Handler, Any]]:
        return self.routes[partition.topic].decode

    def _to_message(self, partition: Partition, raw: Any, event: Any) -> Message[Any]:
        """:raises DecodeError: for headers that the client cannot read."""
        topic, number = partition
        headers = self.headers(partition, raw)
        return Message(topic, number, raw.offset(), raw.key(), event, headers, timestamp_of(raw))

    def _refuse(self, raw: Any, handled: Handled, error: DecodeError) -> None:
        """A message that cannot be decoded is dead-lettered, skipped, or halts the partition."""
        unknown = "dead-letter"
        if isinstance(error, UnknownType):
            unknown = self.routes[handled.partition.topic].unknown
        if unknown == "skip":
            handled.skipped += 1
        elif unknown == "halt":
            told = f"offset {raw.offset()}: {error}"
            handled.stop = Stop(HALT_UNKNOWN_TYPE, told, None)
        else:
            headers = self.headers_if_any(handled.partition, raw)
            self.triage.dead_letter(handled, raw, None, error, 1, headers)

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
        result = decoded.handler.call(decoded.event, decoded.message, tx)
        handled.handled += 1
        if handled.arrived is not None:
            handled.arrived.use(decoded)
        if result is not None:
            self._keep(result, decoded.raw, handled)

    def _keep(self, result: Any, raw: Any, handled: Handled) -> None:
        """Seal what a handler has returned for a message."""
        if isinstance(result, Output):
            record, size = self.sealer.seal(result, raw.offset(), timestamp_of(raw))
            handled.records.append(record)
            handled.output_bytes += size
        else:
            self._seal(as_outputs(result), handled, raw.offset(), timestamp_of(raw))

    def call_batch(self, decoded: Sequence[Decoded], handled: Handled, tx: Transaction) -> None:
        messages = [each.message for each in decoded if each.message is not None]
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
