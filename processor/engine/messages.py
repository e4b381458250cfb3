"""A message as a handler sees it, and what a handler may return.

No I/O, and nothing of the batch around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from processor.binding import Handler
from processor.engine.batch import Handled, Partition, Slice
from processor.errors import PipelineError
from processor.message import Message, Output

if TYPE_CHECKING:
    from processor.engine.intake import Arrived
    from processor.engine.replays import Task


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
    task: Task | None = None
    """It is a dead letter's, which a trigger has named."""


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
