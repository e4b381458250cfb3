"""A batch that failed, run again message by message: a bad message is set aside alone.

Each message runs in a savepoint of the batch's one transaction, with its own flush, so that what
only shows at the flush is attributed to it as well. Order is kept; the good messages commit
together as before.
"""

from __future__ import annotations

from collections.abc import Sequence

from processor.engine.batch import Handled, Slice, Stop
from processor.engine.failures import Doubt, Restart, StatementRefused
from processor.engine.handling import Handling
from processor.engine.messages import Decoded, reject, start, step_past, text_of
from processor.engine.steps import Step, Steps
from processor.errors import Halt, PipelineError, Reject, Retry
from processor.transaction import Transaction

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 300.0
DATABASE_REFUSED = "database-refused"


class Isolation:
    """Runs slices one message at a time.

    Tries are counted for messages that asked for another one later; refusals of the database
    are counted apart, because they are not the message's.
    """

    def __init__(self, handling: Handling, steps: Steps) -> None:
        self._handling = handling
        self._steps = steps
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._refusals: dict[tuple[str, int, int], int] = {}

    def run(self, slices: Sequence[Slice]) -> list[Handled]:
        """Handle every message as far as possible; a partition that has to wait stops there.

        :raises Doubt: when the database connection is lost.
        :raises Restart: for a deadlock or a serialization failure.
        """
        limits = self._handling.limits()
        done: list[Handled] = []
        for left, each in zip(range(len(slices), 0, -1), slices, strict=True):
            handled = start(each)
            done.append(handled)
            limits.begin(left)
            for index, raw in enumerate(each.messages):
                if (index or len(done) > 1) and limits.reached(handled):
                    handled.rest = each.messages[index:]
                    break
                decoded = self._handling.decode(raw, handled)
                if decoded is not None:
                    self._one(decoded, handled)
                if handled.stop is not None:
                    break
                step_past(raw, handled)
            limits.count(handled)
        return done

    def _one(self, decoded: Decoded, handled: Handled) -> None:
        """One message: until it succeeds, is dead-lettered or stops the partition."""
        raw, handler = decoded.raw, decoded.handler
        place = (*handled.partition, raw.offset())
        while True:
            attempts = self._attempts[place] = self._attempts.get(place, 0) + 1
            try:
                error = self._attempt(decoded, handled)
            except (Doubt, Restart):
                self._attempts[place] -= 1  # not the message's doing
                raise
            if error is None:
                break
            if isinstance(error, StatementRefused):
                self._attempts[place] -= 1
                refusals = self._refusals[place] = self._refusals.get(place, 0) + 1
                told = _told(decoded, error)
                handled.stop = Stop(DATABASE_REFUSED, told, back_off_seconds(refusals))
                return
            handled.stop = _stop(error, _told(decoded, error), attempts, handler.max_attempts)
            if handled.stop is not None:
                return
            if isinstance(error, Reject) or attempts >= handler.max_attempts:
                headers = self._handling.headers_if_any(handled.partition, raw)
                reject(handled, raw, handler, error, attempts, headers)
                break
        self._attempts.pop(place, None)
        self._refusals.pop(place, None)

    def _attempt(self, decoded: Decoded, handled: Handled) -> Exception | None:
        """Run it in a savepoint; its error, if it failed, with nothing of it left."""
        store = self._handling.store
        before = len(handled.records), handled.output_bytes, handled.handled
        store.savepoint()
        tx = Transaction(store.session)
        try:
            try:
                with self._steps.step(Step.HANDLE, self._handling.limit_seconds):
                    if decoded.handler.batch:
                        self._handling.call_batch([decoded], handled, tx)
                    else:
                        self._handling.call(decoded, handled, tx)
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
            if isinstance(error, (Doubt, Restart)):
                raise error from raised
            store.rollback_to_savepoint()
            records, handled.output_bytes, handled.handled = before
            del handled.records[records:]
            return error
        store.release()
        return None


def _told(decoded: Decoded, error: Exception) -> str:
    return f"{decoded.handler.name} at offset {decoded.raw.offset()}: {text_of(error)}"


def _stop(error: Exception, told: str, attempts: int, max_attempts: int) -> Stop | None:
    """Why this error stops the partition; None where only its message is concerned."""
    if isinstance(error, Halt):
        return Stop("handler-halt", told, None)
    if isinstance(error, PipelineError):
        return Stop("pipeline-error", told, None)
    if isinstance(error, Retry) and attempts < max_attempts:
        return Stop("retry", told, min(max(error.after, 0.0), MAX_RETRY_SECONDS))
    return None


def back_off_seconds(attempts: int) -> float:
    """0.5, 1, 2, … seconds, 30 at most."""
    return min(30.0, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 8))
