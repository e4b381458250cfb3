"""What becomes of a message that failed: tried again, set aside, or its partition stops.

No I/O. Tries are counted by message; refusals of the database apart, because they are not the
message's. How many messages of a partition are set aside is watched: more than a given part of the
last ones is no matter of single messages, and the partition halts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from time import monotonic
from typing import Any

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Handled, Partition, Slice, Stop, Tried
from processor.engine.dead_letter_topic import DeadLetterTopic
from processor.engine.failures import Deadlock, StatementFailed, StatementRefused
from processor.engine.letters import dead_letter, failure, parked, returned
from processor.engine.messages import Decoded, text_of
from processor.engine.replays import Letter, StoredMessage
from processor.errors import Halt, PipelineError, Reject, Retry
from processor.message import Headers

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 300.0
RETRY = "retry"
PIPELINE_ERROR = "pipeline-error"
JITTER = 0.2
"""A wait is longer by up to so much of it: partitions that failed together do not return so."""
DATABASE_REFUSED = "database-refused"
MESSAGE_FAILED = "message-failed"
TOO_MANY_DEAD_LETTERS = "too-many-dead-letters"
DEADLOCKS = 3
"""In a row; then the partition waits for a while, and the others go on."""
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


@dataclass(slots=True)
class Tries:
    """Of one message."""

    since: float
    """When it failed first (monotonic seconds)."""
    attempts: int = 0
    refusals: int = 0
    """By the database, for reasons that are not the message's."""


class Triage:
    """Decides for all partitions of a worker."""

    def __init__(
        self,
        max_dead_letter_ratio: float = 1.0,
        clock: Callable[[], float] = monotonic,
        topic: DeadLetterTopic | None = None,
    ) -> None:
        """:param max_dead_letter_ratio: of the last 200 messages of a partition.
        :param topic: where dead letters are produced to as well.
        """
        self._topic = topic
        self._most = int(max_dead_letter_ratio * WATCHED_MESSAGES)
        self._clock = clock
        self._tries: dict[tuple[str, int, int], Tries] = {}
        self._letters: dict[Partition, dict[int, Sequence[int]]] = {}

    def failed(
        self, decoded: Decoded, handled: Handled, error: Exception, headers: Headers
    ) -> Verdict:
        """A try of a message's handler has failed, with nothing of it left."""
        offset = decoded.raw.offset()
        tries = self._tries_of(handled.partition, offset)
        told = f"{decoded.handler.name} at offset {offset}: {text_of(error)}"
        if isinstance(error, (StatementRefused, Deadlock)):
            tries.refusals += 1
            if isinstance(error, Deadlock) and tries.refusals % DEADLOCKS:
                return Verdict.AGAIN
            handled.stop = Stop(DATABASE_REFUSED, told, back_off_seconds(tries.refusals))
            return Verdict.STOP
        tries.attempts += 1
        handled.stop = self._stop(decoded, error, told, tries)
        if handled.stop is not None:
            return Verdict.STOP
        if tries.attempts < decoded.handler.max_attempts and not _is_final(error):
            return Verdict.AGAIN
        verdict = self._set_aside(decoded, handled, error, tries, told, headers)
        if verdict is Verdict.DONE:
            self.passed(handled.partition, offset)
        return verdict

    def expects(self, slices: Sequence[Slice]) -> bool:
        """Whether any message of theirs may have failed before."""
        if not self._tries:
            return False
        trying = {each[:2] for each in self._tries}
        return any(each.partition in trying for each in slices)

    def remember(self, partition: Partition, tried: Tried) -> None:
        """Of a message that another run, or another worker, has tried before."""
        tries = self._tries_of(partition, tried.offset)
        tries.attempts = max(tries.attempts, tried.attempts)
        tries.since = min(tries.since, self._clock() - tried.failing_seconds)

    def park(self, handled: Handled, raw: Any, handler: Handler | None, headers: Headers) -> None:
        """An earlier message of its key waits to be dealt with; so does this one."""
        handled.dead_letters.append(parked(handled.partition, raw, handler, headers))

    def give_back(
        self,
        handled: Handled,
        raw: Any,
        letter: Letter,
        handler: Handler | None,
        error: Exception,
        attempts: int,
    ) -> Verdict:
        """A dead letter has failed again; one that was parked, for the first time.

        :param raw: its trigger, or its message in place of it.
        """
        told = failure(letter.partition.topic, handler, error)
        if not letter.has_failed:
            message = StoredMessage(letter, raw)
            found = dead_letter(letter.partition, message, told, attempts, letter.headers)
            found = replace(found, offset=letter.offset)
            if not self._produce(handled, found, raw.offset()):
                return Verdict.STOP
        handled.skipped += 1
        handled.returned.append(returned(letter, told, attempts))
        return Verdict.DONE

    def passed(self, partition: Partition, offset: int) -> None:
        """The message is done: nothing of it is to be remembered."""
        self._tries.pop((*partition, offset), None)

    def settled(self, partition: Partition, next_offset: int) -> None:
        """All before this offset has taken effect."""
        for place in [each for each in self._tries if each[:2] == partition]:
            if place[2] < next_offset:
                del self._tries[place]

    def dead_letter(
        self,
        handled: Handled,
        raw: Any,
        handler: Handler | None,
        error: Exception,
        tries: Tries | None,
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
        attempts, since = (tries.attempts, tries.since) if tries else (1, self._clock())
        failing = self._clock() - since
        told = failure(handled.partition.topic, handler, error)
        letter = dead_letter(handled.partition, raw, told, attempts, headers, failing)
        if not self._produce(handled, letter, raw.offset()):
            return Verdict.STOP
        handled.dead_letters.append(letter)
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

    def _produce(self, handled: Handled, letter: DeadLetter, offset: int) -> bool:
        """To the topic of dead letters; False where it takes no such record: the partition stops.

        :param offset: of the message in hand, a trigger as a rule where the letter is older.
        """
        if self._topic is None:
            return True
        try:
            record, size = self._topic.record(letter, offset)
        except PipelineError as refused:
            handled.stop = Stop(PIPELINE_ERROR, f"offset {offset}: {refused}", None)
            return False
        handled.records.append(record)
        handled.output_bytes += size
        return True

    def _hold_key(self, handled: Handled, key: bytes | None) -> None:
        """Later messages of the key wait for the letter that was just made."""
        if key is None:
            return
        assert handled.arrived is not None, "those that follow are looked at"
        handled.dead_letters[-1] = replace(handled.dead_letters[-1], holds_key=True)
        handled.new_keys.append(key)

    def _tries_of(self, partition: Partition, offset: int) -> Tries:
        place = (*partition, offset)
        tries = self._tries.get(place)
        if tries is None:
            tries = self._tries[place] = Tries(self._clock())
        return tries

    def _stop(self, decoded: Decoded, error: Exception, told: str, tries: Tries) -> Stop | None:
        """Why this error stops the partition; None where only its message is concerned."""
        if isinstance(error, Halt) and decoded.task is None:
            return Stop("handler-halt", told, None)
        if isinstance(error, PipelineError):
            return Stop(PIPELINE_ERROR, told, None)
        if isinstance(error, Retry) and tries.attempts < decoded.handler.max_attempts:
            failing = self._clock() - tries.since
            tried = Tried(decoded.raw.offset(), tries.attempts, failing)
            return Stop(RETRY, told, retry_seconds(error.after, tries.attempts), tried)
        return None

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
        tries: Tries,
        told: str,
        headers: Headers,
    ) -> Verdict:
        handler = decoded.handler
        if decoded.task is not None and decoded.task.letter is not None:
            letter, attempts = decoded.task.letter, tries.attempts
            return self.give_back(handled, decoded.raw, letter, handler, error, attempts)
        if handler.on_failure == "skip":
            handled.skipped += 1
            return Verdict.DONE
        if handler.on_failure == "halt":
            handled.stop = Stop(MESSAGE_FAILED, told, None)
            return Verdict.STOP
        verdict = self.dead_letter(handled, decoded.raw, handler, error, tries, headers)
        if handler.on_failure == "park-key" and verdict is Verdict.DONE:
            self._hold_key(handled, decoded.raw.key())
        return verdict


def _is_final(error: Exception) -> bool:
    """Whether another try at once would end the same way: the same data, or the handler's word."""
    return isinstance(error, (Reject, StatementFailed))


def retry_seconds(after: float, attempts: int) -> float:
    """At least what was asked for, twice as long each time, 300 at most, and a little at random."""
    wait = max(after, 0.0) * 2.0 ** min(attempts - 1, 16)
    return min(wait, MAX_RETRY_SECONDS) * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311


def back_off_seconds(attempts: int) -> float:
    """0.5, 1, 2, … seconds, 30 at most."""
    return min(30.0, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 8))
