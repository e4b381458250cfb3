"""A batch that the database refused, run again in groups: a bad message is set aside alone.

Each group runs in a savepoint of the batch's one transaction, with its own flush, so that what only
shows at the flush is found as well. A group that fails is parted at the message that is to blame,
as far as that is known, else in the middle, until the message is alone. Order is kept; the good
messages commit together as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from processor.engine.batch import Handled, Record, Slice
from processor.engine.culprits import culprit
from processor.engine.failures import Deadlock, Doubt, Restart
from processor.engine.handling import Handling
from processor.engine.limits import Limits
from processor.engine.messages import start, step_past
from processor.engine.steps import Step, Steps
from processor.engine.triage import Verdict
from processor.transaction import Transaction
from processor.writes import Journal, UpsertWrite

FEWEST, FIRST, MOST = 16, 256, 1_024
"""Messages of a group: half as many after one that failed, twice as many after one that did not."""
_COPY_LINE = re.compile(r"^COPY .*?, line (\d+)")


@dataclass(frozen=True, slots=True)
class Done:
    """What a handler has made of a message without asking Postgres: it need not run again."""

    calls: Sequence[tuple[Any, ...]]
    """Its writes."""
    records: Sequence[Record]
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """Messages that are tried together."""

    messages: Sequence[Any]
    done: Sequence[Done] = ()
    """Of each of them; empty where handlers have to run."""
    error: Exception | None = None
    """With which Postgres has refused it, behind those before it: it need not be asked again."""
    failures: int = 0
    """How many groups had failed by then: where one of those before it has, it is asked again."""

    def __getitem__(self, at: slice) -> Part:
        return Part(self.messages[at], self.done[at])


@dataclass(frozen=True, slots=True)
class Failed:
    """A group that was rolled back."""

    error: Exception
    at: int | None
    """Which of its messages is to blame, if that is known."""
    done: Sequence[Done] = ()
    """As of a :class:`Part`."""
    is_sure: bool = False
    """Postgres has named the row itself, and all that was copied was of one COPY."""


class Isolation:
    """Runs slices one group at a time."""

    def __init__(self, handling: Handling, steps: Steps) -> None:
        self._handling = handling
        self._steps = steps
        self._size = FIRST
        self.failures = 0
        """Groups that have failed in the last run."""

    def run(self, slices: Sequence[Slice]) -> list[Handled]:
        """Handle every message as far as possible; a partition that has to wait stops there.

        :raises Doubt: when the database connection is lost.
        :raises Restart: for a serialization failure; a deadlock is undone with its savepoint.
        """
        self.failures = 0
        # Outside of the savepoints: a group that is rolled back keeps what was asked for it.
        arrived = self._handling.ask(slices, careful=True)
        limits = self._handling.limits()
        done: list[Handled] = []
        for left, each in zip(range(len(slices), 0, -1), slices, strict=True):
            handled = start(each, arrived)
            done.append(handled)
            limits.begin(left)
            self._slice(each, handled, limits, is_first=len(done) == 1)
            limits.count(handled)
            self._handling.triage.ended(handled)
        self._handling.close(arrived)
        return done

    def _slice(self, each: Slice, handled: Handled, limits: Limits, *, is_first: bool) -> None:
        index, messages = 0, each.messages
        while index < len(messages):
            if (index or not is_first) and limits.reached(handled):
                break
            before, group = self.failures, messages[index : index + self._size]
            count = self._group(group, handled, limits)
            index += count
            if handled.stop is not None:
                return
            if count < len(group):
                break
            failed = self.failures > before
            self._size = max(FEWEST, self._size // 2) if failed else min(MOST, self._size * 2)
        handled.rest = messages[index:]

    def _group(self, messages: Sequence[Any], handled: Handled, limits: Limits) -> int:
        """How many are done: not all where the partition stops, or a limit is reached."""
        done, parts = 0, [Part(messages)]
        while parts:
            part = parts.pop()
            mark = handled.mark()
            failed: Failed | None
            if part.error is not None and part.failures == self.failures:
                count, failed = 0, Failed(part.error, None)
            else:
                count, failed = self._try(part, handled, limits)
            if failed is not None:
                self.failures += part.error is None
                handled.back_to(mark)
                if len(part.messages) > 1:
                    parts += reversed(_parted(part.messages, failed, self.failures))
                    continue
                verdict = self._judge(part.messages[0], handled, failed.error)
                if verdict is Verdict.AGAIN:
                    parts.append(Part(part.messages, part.done))
                    continue
                count = 1 if verdict is Verdict.DONE else 0
            done += count
            if count < len(part.messages):
                break
        return done

    def _judge(self, raw: Any, handled: Handled, error: Exception) -> Verdict:
        decoded = self._handling.admission.admit(raw, handled)
        assert decoded is not None, "it was decoded before"
        headers = self._handling.decoding.headers_if_any(handled.partition, raw)
        verdict = self._handling.triage.failed(decoded, handled, error, headers)
        if verdict is Verdict.DONE:
            step_past(raw, handled)
        return verdict

    def _try(self, part: Part, handled: Handled, limits: Limits) -> tuple[int, Failed | None]:
        """Run a group in a savepoint: how many are done, or why nothing of it stands."""
        store = self._handling.store
        store.savepoint()
        journal = Journal()
        tx = Transaction(store.session, journal)
        rows: list[int] = []
        """How many were inserted by each message and those before it."""
        done: list[Done] = []
        handling = True
        try:
            try:
                with self._steps.step(Step.HANDLE, self._handling.limit_seconds):
                    if self._handling.decoding.is_batch(handled.partition):
                        count = self._handling.run_batch(part.messages, handled, tx)
                    else:
                        for index, raw in enumerate(part.messages):
                            if rows and limits.reached(handled):
                                break
                            if part.done:
                                _repeat(part.done[index], raw, handled, journal)
                                done.append(part.done[index])
                            else:
                                self._run_one(raw, handled, tx, journal, done)
                            if handled.stop is not None:
                                break
                            rows.append(journal.inserts)
                        count = len(rows)
                handling = False
            finally:
                tx.close(store.session)
            with self._steps.step(Step.FLUSH):
                tx.send_buffered()
                store.settle()
            failure = tx.failure or store.session.failure
            if failure is not None:
                raise failure
        except Exception as raised:
            # What the database said counts, whatever the handler has made of it.
            error = tx.failure or store.session.failure or raised
            if isinstance(error, (Doubt, Restart)) and not isinstance(error, Deadlock):
                raise error from raised
            refused = store.session.refused_upsert
            store.rollback_to_savepoint()
            if handling and not self._handling.decoding.is_batch(handled.partition):
                return 0, Failed(error, len(rows))
            known = done if len(done) == len(part.messages) else ()
            at = self._at_fault(error, rows, refused, known)
            return 0, Failed(error, at, known, is_sure=refused is None and _is_one_copy(known))
        store.release()
        return count, None

    def _at_fault(
        self,
        error: Exception,
        rows: Sequence[int],
        refused: UpsertWrite | None,
        known: Sequence[Done],
    ) -> int | None:
        """Which message is to blame, as far as that can be found without running any again."""
        if refused is None or len(known) < 2:
            return _at_line(error, rows)
        return culprit(self._handling.store, refused, [each.calls for each in known])

    def _run_one(
        self, raw: Any, handled: Handled, tx: Transaction, journal: Journal, done: list[Done]
    ) -> None:
        """Run its handler, and remember what came of it if nothing else has."""
        count, records, size = handled.handled, len(handled.records), handled.output_bytes
        self._handling.run_one(raw, handled, tx, journal)
        succeeded = handled.handled > count and handled.stop is None
        if succeeded and handled.arrived is None and not tx.asked:
            made = handled.records[records:]
            done.append(Done(journal.kept, made, handled.output_bytes - size))


def _repeat(done: Done, raw: Any, handled: Handled, journal: Journal) -> None:
    """The message as its handler has left it in a group that was rolled back."""
    journal.repeat(done.calls)
    handled.records += done.records
    handled.output_bytes += done.output_bytes
    handled.handled += 1
    step_past(raw, handled)


def _parted(messages: Sequence[Any], failed: Failed, failures: int) -> list[Part]:
    part, at = Part(messages, failed.done), failed.at
    if at is None:
        middle = len(messages) // 2
        return [part[:middle], part[middle:]]
    alone = part[at : at + 1]
    if failed.is_sure:
        alone = replace(alone, error=failed.error, failures=failures)
    return [each for each in (part[:at], alone, part[at + 1 :]) if each.messages]


def _is_one_copy(known: Sequence[Done]) -> bool:
    """Whether the lines of a COPY are the messages' inserts one by one: then none is a guess."""
    kinds = {(table, tuple(row)) for done in known for table, row, *rest in done.calls if not rest}
    return len(kinds) == 1


def _at_line(error: Exception, rows: Sequence[int]) -> int | None:
    """The message whose row COPY was at, if there was but one COPY."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return None
    found = _COPY_LINE.match(cause.diag.context or "")
    if found is None:
        return None
    line = int(found[1])
    return next((index for index, count in enumerate(rows) if count >= line), None)
