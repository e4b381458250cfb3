"""Dead letters are made here: of what has failed, is parked, or has failed again. No I/O."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Partition, Returned
from processor.engine.messages import text_of, timestamp_of
from processor.message import Headers

if TYPE_CHECKING:
    from processor.engine.replays import Letter

MOST_TRACE_CHARACTERS = 8_000
MOST_REASON_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of an error."""

    handler: str | None
    error: str
    reason: str
    trace: str | None
    fingerprint: str


def failure(topic: str, handler: Handler | None, error: BaseException) -> Failure:
    cause = error.__cause__ if error.__cause__ is not None else error
    name = None if handler is None else handler.name
    trace = None
    if handler is not None:
        lines = traceback.format_exception(cause, limit=20)
        trace = "".join(lines)[-MOST_TRACE_CHARACTERS:]
    reason = text_of(error)[:MOST_REASON_CHARACTERS]
    same = fingerprint(topic, name, cause, reason)
    return Failure(name, type(cause).__name__, reason, trace, same)


def dead_letter(
    partition: Partition,
    raw: Any,
    told: Failure,
    attempts: int,
    headers: Headers,
    failing_seconds: float = 0.0,
    *,
    is_parked: bool = False,
) -> DeadLetter:
    """A message that is set aside, and all that will be asked of it."""
    return DeadLetter(
        partition=partition,
        offset=raw.offset(),
        key=raw.key(),
        value=raw.value(),
        headers=headers,
        timestamp=timestamp_of(raw),
        handler=told.handler,
        error=told.error,
        reason=told.reason,
        trace=told.trace,
        attempts=attempts,
        fingerprint=told.fingerprint,
        failing_seconds=failing_seconds,
        is_parked=is_parked,
    )


def parked(partition: Partition, raw: Any, handler: Handler | None, headers: Headers) -> DeadLetter:
    """A message that has not failed, behind one that has."""
    name = None if handler is None else handler.name
    told = Failure(name, "Parked", "behind an earlier message of its key", None, "parked")
    return dead_letter(partition, raw, told, 0, headers, is_parked=True)


def returned(letter: Letter, told: Failure, attempts: int) -> Returned:
    """A dead letter that has failed again."""
    return Returned(
        letter.id,
        letter.queue,
        attempts,
        told.handler,
        told.error,
        told.reason,
        told.trace,
        told.fingerprint,
    )


def fingerprint(topic: str, handler: str | None, error: BaseException, reason: str) -> str:
    """16 hexadecimal digits, the same for errors of one kind.

    That is: of the same class, from the same function, with the same words around whatever numbers,
    identifiers and quotations the reason holds.
    """
    frames = traceback.extract_tb(error.__traceback__)
    function = frames[-1].name if frames else ""
    words = _VARYING.sub("#", reason.split("\n", 1)[0])
    kind = "\0".join((topic, handler or "", type(error).__name__, function, words))
    return sha256(kind.encode("utf-8", "backslashreplace")).hexdigest()[:16]


_VARYING = re.compile(
    r"""'[^']*'|"[^"]*"|\([^()]*\)|\b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b|\b0x[0-9a-fA-F]+\b|\d+"""
)
"""What differs between errors of one kind: quotations, what stands in brackets, numbers."""
