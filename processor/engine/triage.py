"""What becomes of a message that failed: tried again, set aside, or its partition stops.

No I/O. Tries are counted by message; refusals of the database apart, because they are not the
message's. How many messages of a partition are set aside is watched: more than a given part of the
last ones is no matter of single messages, and the partition halts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import Any

from processor.binding import Handler
from processor.engine.batch import Handled, Partition, Stop
from processor.engine.failures import StatementFailed, StatementRefused
from processor.engine.messages import Decoded, reject, text_of
from processor.errors import Halt, PipelineError, Reject, Retry
from processor.message import Headers

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 300.0
JITTER = 0.2
"""A wait is longer by up to so much of it: partitions that failed together do not return so."""
DATABASE_REFUSED = "database-refused"
MESSAGE_FAILED = "message-failed"
TOO_MANY_DEAD_LETTERS = "too-many-dead-letters"
WATCHED_MESSAGES = 200
SNAPSHOTS = 4
"""A batch may be handled again, and another one behind it, before either has ended."""


class Verdict(Enum):
    AGAIN = "again"
    """Try it again at once."""
    DONE = "done"
    """It is set aside; the next one."""
    STOP = "stop"
    """The partition goes no further."""


class Triage:
    """Decides for all partitions of a worker."""

    def __init__(self, max_dead_letter_ratio: float = 1.0) -> None:
        """:param max_dead_letter_ratio: of the last 200 messages of a partition."""
        self._most = int(max_dead_letter_ratio * WATCHED_MESSAGES)
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._refusals: dict[tuple[str, int, int], int] = {}
        self._letters: dict[Partition, dict[int, Sequence[int]]] = {}

    def failed(
        self, decoded: Decoded, handled: Handled, error: Exception, headers: Headers
    ) -> Verdict:
        """A try of a message's handler has failed, with nothing of it left."""
        place = (*handled.partition, decoded.raw.offset())
        told = f"{decoded.handler.name} at offset {decoded.raw.offset()}: {text_of(error)}"
        if isinstance(error, StatementRefused):
            refusals = self._refusals[place] = self._refusals.get(place, 0) + 1
            handled.stop = Stop(DATABASE_REFUSED, told, back_off_seconds(refusals))
            return Verdict.STOP
        attempts = self._attempts[place] = self._attempts.get(place, 0) + 1
        handled.stop = _stop(error, told, attempts, decoded.handler.max_attempts)
        if handled.stop is not None:
            return Verdict.STOP
        if attempts < decoded.handler.max_attempts and not _is_final(error):
            return Verdict.AGAIN
        verdict = self._set_aside(decoded, handled, error, attempts, told, headers)
        if verdict is Verdict.DONE:
            del self._attempts[place]
        return verdict

    def settled(self, partition: Partition, below: int) -> None:
        """What lies below an offset has taken effect: nothing of it is to be remembered."""
        for counts in (self._attempts, self._refusals):
            if counts:
                done = [at for at in counts if at[:2] == partition and at[2] < below]
                for at in done:
                    del counts[at]

    def dead_letter(
        self,
        handled: Handled,
        raw: Any,
        handler: Handler | None,
        error: Exception,
        attempts: int,
        headers: Headers,
    ) -> Verdict:
        """Set it aside, unless too many are: its partition halts in front of it then."""
        letters = self._of(handled)
        at = handled.messages
        recent = [each for each in letters if each > at - WATCHED_MESSAGES]
        if len(recent) >= self._most and self._most < WATCHED_MESSAGES:
            self._letters.pop(handled.partition, None)
            handled.stop = Stop(
                TOO_MANY_DEAD_LETTERS,
                f"offset {raw.offset()}: {text_of(error)}; {len(recent)} of the last"
                f" {WATCHED_MESSAGES} messages were set aside before it",
                None,
            )
            return Verdict.STOP
        reject(handled, raw, handler, error, attempts, headers)
        handled.letters_at = [*recent, at]
        return Verdict.DONE

    def ended(self, handled: Handled) -> None:
        """A slice is handled as far as it goes; what follows it is counted from here."""
        known = self._letters.get(handled.partition)
        letters = self._of(handled)
        if not letters:
            if known:
                del self._letters[handled.partition]
            return
        if handled.stop is not None and handled.stop.reason == TOO_MANY_DEAD_LETTERS:
            return
        done = handled.messages
        kept = [each - done for each in letters if each > done - WATCHED_MESSAGES]
        known = self._letters.setdefault(handled.partition, {})
        known[handled.next] = kept
        while len(known) > SNAPSHOTS:
            del known[next(iter(known))]

    def _of(self, handled: Handled) -> Sequence[int]:
        """Where messages were set aside: 0 is the slice's first, those before it are negative."""
        if handled.letters_at is None:
            known = self._letters.get(handled.partition)
            handled.letters_at = known.get(handled.first, ()) if known else ()
        return handled.letters_at

    def _set_aside(
        self,
        decoded: Decoded,
        handled: Handled,
        error: Exception,
        attempts: int,
        told: str,
        headers: Headers,
    ) -> Verdict:
        handler = decoded.handler
        if handler.on_failure == "skip":
            handled.skipped += 1
            return Verdict.DONE
        if handler.on_failure == "halt":
            handled.stop = Stop(MESSAGE_FAILED, told, None)
            return Verdict.STOP
        return self.dead_letter(handled, decoded.raw, handler, error, attempts, headers)


def _is_final(error: Exception) -> bool:
    """Whether another try at once would end the same way: the same data, or the handler's word."""
    return isinstance(error, (Reject, StatementFailed))


def _stop(error: Exception, told: str, attempts: int, max_attempts: int) -> Stop | None:
    """Why this error stops the partition; None where only its message is concerned."""
    if isinstance(error, Halt):
        return Stop("handler-halt", told, None)
    if isinstance(error, PipelineError):
        return Stop("pipeline-error", told, None)
    if isinstance(error, Retry) and attempts < max_attempts:
        return Stop("retry", told, retry_seconds(error.after, attempts))
    return None


def retry_seconds(after: float, attempts: int) -> float:
    """At least what was asked for, twice as long each time, 300 at most, and a little at random."""
    wait = max(after, 0.0) * 2.0 ** min(attempts - 1, 16)
    return min(wait, MAX_RETRY_SECONDS) * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311


def back_off_seconds(attempts: int) -> float:
    """0.5, 1, 2, … seconds, 30 at most."""
    return min(30.0, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 8))
