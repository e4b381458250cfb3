"""A message as a handler sees it, what a handler may return, and what a dead letter keeps.

No I/O, and nothing of the batch around it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import GeneratorType
from typing import Any

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Handled, Partition, Slice
from processor.errors import PipelineError
from processor.message import Headers, Message, Output


@dataclass(slots=True)
class Decoded:
    """A message with its handler and event. Not frozen: that would make it three times as slow."""

    raw: Any
    handler: Handler
    event: Any
    message: Message[Any] | None
    """Made only where the handler takes it."""


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


def timestamp_of(raw: Any) -> int | None:
    kind, value = raw.timestamp()
    return value if kind else None


def text_of(error: BaseException) -> str:
    """An exception's text; its class where making a text of it fails as well."""
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__} without a text"


def dead_letter(
    partition: Partition,
    raw: Any,
    handler: Handler | None,
    error: BaseException,
    attempts: int,
    headers: Headers,
    failing_seconds: float,
) -> DeadLetter:
    """A message that is set aside, and all that will be asked of it."""
    cause = error.__cause__ if error.__cause__ is not None else error
    name = None if handler is None else handler.name
    trace = None
    if handler is not None:
        trace = "".join(traceback.format_exception(cause, limit=20))[-8_000:]
    reason = text_of(error)[:2_000]
    return DeadLetter(
        partition=partition,
        offset=raw.offset(),
        key=raw.key(),
        value=raw.value(),
        headers=headers,
        timestamp=timestamp_of(raw),
        handler=name,
        error=type(cause).__name__,
        reason=reason,
        trace=trace,
        attempts=attempts,
        fingerprint=fingerprint(partition.topic, name, cause, reason),
        failing_seconds=failing_seconds,
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
