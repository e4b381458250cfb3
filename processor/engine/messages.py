"""A message as a handler sees it, what a handler may return, and what a dead letter keeps.

No I/O, and nothing of the batch around it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from processor.binding import Handler
from processor.engine.batch import DeadLetter, Handled, Partition, Slice
from processor.errors import PipelineError
from processor.message import Headers, Message, Output

if TYPE_CHECKING:
    from processor.engine.intake import Arrived


@dataclass(slots=True)
class Decoded:
    """A message with its handler and event. Not frozen: that would make it three times as slow."""

    raw: Any
    handler: Handler
    event: Any
    message: Message[Any] | None
    """Made only where the handler takes it."""
    key: str | None = None
    """The business key that duplicates are known by."""


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


def start(each: Slice, arrived: Mapping[Partition, Arrived]) -> Handled:
    """:param arrived: what was asked before the handlers."""
    known = arrived.get(each.partition)
    return Handled(each.partition, each.first, each.first, arrived=known)


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
