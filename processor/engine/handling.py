"""Handlers are called here: a whole batch at once, or one message at a time.

The fast path runs every handler, then flushes once. When a handler fails, the batch is handled
again with care: what a message buffers is kept apart until the message is done, so that one that
fails costs itself alone. What the database refuses is for isolation to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

from processor.engine.admission import Admission
from processor.engine.batch import Handled, Partition, Slice
from processor.engine.calling import Calling
from processor.engine.decoding import Decoding
from processor.engine.intake import Arrived, Intake
from processor.engine.limits import Limits
from processor.engine.messages import (
    Decoded,
    start,
    step_past,
)
from processor.engine.sealing import Sealer
from processor.engine.steps import Step, Steps
from processor.engine.store import Store
from processor.engine.triage import Triage, Verdict
from processor.errors import DecodeError
from processor.transaction import Session, Transaction
from processor.writes import Journal

FEW_ROWS = 32
"""Up to so many a batch's writes go in one round trip; more are copied."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the handlers have made of a batch; their writes are not flushed yet."""

    handled: list[Handled]
    tx: Transaction


class Blamed(NamedTuple):
    """A message whose handler has failed on the fast path: that was a try of it."""

    partition: Partition
    offset: int
    error: Exception


class Handling:
    """Runs the pipeline's handlers over slices; all in one Postgres transaction."""

    def __init__(
        self,
        decoding: Decoding,
        sealer: Sealer,
        store: Store,
        steps: Steps,
        max_output_bytes: int,
        limit_seconds: float,
        max_seconds: float = 2.0,
        clock: Callable[[], float] = monotonic,
        triage: Triage | None = None,
        intake: Intake | None = None,
        replays_topic: str = "",
    ) -> None:
        """:param intake: what is asked before the handlers, if anything is."""
        self.decoding = decoding
        self.triage = triage or Triage()
        self.admission = Admission(decoding, self.triage, replays_topic)
        self.calling = Calling(sealer, self.admission)
        self.store = store
        self._steps = steps
        self._max_output_bytes = max_output_bytes
        self.max_seconds = max_seconds
        self.limit_seconds = limit_seconds
        self.clock = clock
        self._intake = intake
        self._blamed: Blamed | None = None

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
        if not careful:
            self._blamed = None
        tx = Transaction(session or self.store.session, journal)
        done: list[Handled] = []
        try:
            with self._steps.step(Step.HANDLE, self.limit_seconds):
                arrived = self.ask(slices, session, careful=careful)
                limits = self.limits()
                for left, each in zip(range(len(slices), 0, -1), slices, strict=True):
                    handled = start(each, arrived)
                    done.append(handled)
                    limits.begin(left)
                    if limits.reached(handled):
                        handled.rest = each.messages
                    elif self.decoding.is_batch(each.partition):
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
        self, slices: Sequence[Slice], session: Session | None = None, *, careful: bool
    ) -> Mapping[Partition, Arrived]:
        """What is asked before the handlers, of the slices that have something to ask.

        :raises Doubt: for what Postgres refuses.
        :raises Restart: for what is to be tried again.
        """
        if self._intake is None:
            return {}
        return self._intake.ask(slices, session or self.store.session, careful=careful)

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
        decode, keep = self.decoding.decoder(each.partition), self.calling.keep
        to_message = self.decoding.to_message
        last = raw = None
        try:
            for index, raw in enumerate(each.messages):
                if index and limits.reached(handled):
                    handled.rest = each.messages[index:]
                    break
                try:
                    handler, event = decode(raw.value())
                    message = None
                    if handler.needs_message:
                        message = to_message(each.partition, raw, event)
                except DecodeError as error:
                    self.admission.refuse(raw, handled, error)
                    if handled.stop is not None:
                        break
                else:
                    result = handler.call(event, message, tx)
                    handled.handled += 1
                    if result is not None:
                        keep(result, raw, handled)
                last = raw
        except Exception as error:
            self._blame(each.partition, raw, error, tx)
            raise
        if last is not None:
            step_past(last, handled)

    def _run_arrived(self, each: Slice, handled: Handled, tx: Transaction, limits: Limits) -> None:
        """The same for messages that were decoded before."""
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            decoded = self.admission.admit(raw, handled)
            if handled.stop is not None:
                break
            if decoded is not None:
                try:
                    self.calling.call(decoded, handled, tx)
                except Exception as error:
                    self._blame(each.partition, raw, error, tx)
                    raise
            step_past(raw, handled)

    def _blame(self, partition: Partition, raw: Any, error: Exception, tx: Transaction) -> None:
        """Where Postgres was asked, the same run may end otherwise."""
        if not tx.asked:
            self._blamed = Blamed(partition, raw.offset(), error)

    def _told_before(self, raw: Any, handled: Handled) -> Exception | None:
        """The error of the try on the fast path, once."""
        blamed = self._blamed
        if blamed is None or blamed[:2] != (handled.partition, raw.offset()):
            return None
        self._blamed = None
        return blamed.error

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
        decoded = self.admission.admit(raw, handled)
        while decoded is not None:
            mark, tx.asked = handled.mark(), False
            try:
                if (blamed := self._told_before(raw, handled)) is not None:
                    raise blamed
                self.calling.call(decoded, handled, tx)
            except Exception as error:
                if tx.asked:
                    raise
                handled.back_to(mark)
                journal.drop()
                headers = self.decoding.headers_if_any(handled.partition, raw)
                if self.triage.failed(decoded, handled, error, headers) is Verdict.AGAIN:
                    continue
                break
            journal.keep()
            if tx.asked and (failure := tx.failure or self.store.session.failure) is not None:
                raise failure
            break
        if handled.stop is None:
            step_past(raw, handled)

    def run_batch(self, messages: Sequence[Any], handled: Handled, tx: Transaction) -> int:
        """A batch handler's call: how many messages are done by it.

        What comes before a message that stops the partition is handled all the same.
        """
        decoded = self.decode_batch(messages, handled)
        if decoded:
            self.calling.call_batch(decoded, handled, tx)
        return sum(1 for raw in messages if raw.offset() < handled.next)

    def decode_batch(self, messages: Sequence[Any], handled: Handled) -> list[Decoded]:
        """The messages that can be decoded; stops at one whose type halts the partition."""
        decoded = []
        for raw in messages:
            one = self.admission.admit(raw, handled)
            if handled.stop is not None:
                break
            if one is not None:
                decoded.append(one)
                self.admission.done(one, handled)
            step_past(raw, handled)
        return decoded
