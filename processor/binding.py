"""How a handler's parameters are bound: by their annotations, once, at registration."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from processor.dedup import BusinessKey
from processor.errors import PipelineError
from processor.message import Message
from processor.transaction import Transaction

OnFailure = Literal["dead-letter", "skip", "halt", "park-key"]


@dataclass(frozen=True)
class Handler:
    """A registered function.

    ``call(event, message, tx)`` runs it for one message, whatever its parameters; ``call_batch``
    runs a batch handler. ``needs_message`` is False where no :class:`Message` need be made.
    """

    name: str
    kind: Any
    max_attempts: int
    batch: bool
    needs_message: bool
    call: Callable[[Any, Any, Transaction], Any]
    call_batch: Callable[[Sequence[Message[Any]], Transaction], Any]
    on_failure: OnFailure = "dead-letter"
    key: BusinessKey | None = None
    """By which duplicates are known."""

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The event types it takes: the members of a union, or the one type."""
        if get_origin(self.kind) in (Union, UnionType):
            return get_args(self.kind)
        return (self.kind,)


def bind(
    function: Callable[..., Any], max_attempts: int, on_failure: OnFailure = "dead-letter"
) -> Handler:
    """:raises PipelineError: for a parameter that cannot be bound."""
    name = _name(function)
    kind: Any = None
    order: list[str] = []
    for _, hint in _parameters(function):
        role, event = _role(hint)
        _claim(name, order, role)
        if kind in (None, Any):
            kind = event or kind
        elif event not in (None, Any, kind):
            raise PipelineError(f"handler {name!r} names two event types: {kind} and {event}")
    if kind is None:
        if "message" not in order:
            raise PipelineError(f"handler {name!r} takes neither an event nor a Message")
        kind = bytes
    return Handler(
        name=name,
        kind=kind,
        max_attempts=_attempts(name, max_attempts),
        batch=False,
        needs_message="message" in order,
        call=_caller(function, tuple(order), ("event", "message", "tx")),
        call_batch=_refuse,
        on_failure=_on_failure(name, on_failure),
    )


def bind_batch(
    function: Callable[..., Any], max_attempts: int, on_failure: OnFailure = "dead-letter"
) -> Handler:
    """:raises PipelineError: unless it takes ``Sequence[Message[T]]`` (and a Transaction)."""
    name = _name(function)
    kind: Any = None
    order: list[str] = []
    for parameter, hint in _parameters(function):
        if hint is Transaction:
            _claim(name, order, "tx")
            continue
        inner = get_args(hint)
        if not inner or (get_origin(inner[0]) or inner[0]) is not Message:
            raise PipelineError(
                f"batch handler {name!r}: {parameter.name!r} must be Sequence[Message[T]]"
            )
        _claim(name, order, "messages")
        kind = (get_args(inner[0]) or (bytes,))[0]
    if kind is None:
        raise PipelineError(f"batch handler {name!r} takes no Sequence[Message[T]]")
    return Handler(
        name=name,
        kind=kind,
        max_attempts=_attempts(name, max_attempts),
        batch=True,
        needs_message=True,
        call=_refuse,
        call_batch=_caller(function, tuple(order), ("messages", "tx")),
        on_failure=_on_failure(name, on_failure),
    )


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", repr(function))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PipelineError(f"handler {name!r} is async; handlers are plain functions")
    return name


def _claim(handler: str, order: list[str], role: str) -> None:
    if role in order:
        raise PipelineError(f"handler {handler!r}: two parameters take the {role}")
    order.append(role)


def _attempts(name: str, max_attempts: int) -> int:
    if max_attempts < 1:
        raise PipelineError(f"handler {name!r}: max_attempts must be at least 1")
    return max_attempts


def _on_failure(name: str, on_failure: OnFailure) -> OnFailure:
    if on_failure not in get_args(OnFailure):
        known = ", ".join(get_args(OnFailure))
        raise PipelineError(f"handler {name!r}: on_failure is {on_failure!r}, not one of {known}")
    return on_failure


def _parameters(function: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
    name = getattr(function, "__name__", repr(function))
    try:
        hints = get_type_hints(function)
    except (NameError, AttributeError) as error:
        raise PipelineError(f"handler {name!r}: {error}; import it where annotations see it")
    except TypeError as error:
        raise PipelineError(f"handler {name!r}: {error}")
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PipelineError(f"handler {name!r}: *args and **kwargs cannot be bound")
        if parameter.name not in hints:
            raise PipelineError(f"handler {name!r}: parameter {parameter.name!r} has no annotation")
        found.append((parameter, hints[parameter.name]))
    return found


def _role(hint: Any) -> tuple[str, Any]:
    """Which of ``event``, ``message`` and ``tx`` a parameter takes, and the type it names."""
    if hint is Transaction:
        return "tx", None
    if hint is Message:
        return "message", None
    if get_origin(hint) is Message:
        inner = get_args(hint)[0]
        return "message", None if isinstance(inner, typing.TypeVar) else inner
    if hint is NoneType:
        return "event", NoneType
    return "event", hint


def _caller(
    function: Callable[..., Any], order: tuple[str, ...], given: tuple[str, ...]
) -> Callable[..., Any]:
    """A function of what is given, in that order, that passes on what the function wants.

    The usual orders are passed on without a loop.
    """
    usual: dict[tuple[str, ...], Callable[..., Any]] = {
        ("event",): lambda event, _message, _tx: function(event),
        ("message",): lambda _event, message, _tx: function(message),
        ("event", "tx"): lambda event, _message, tx: function(event, tx),
        ("message", "tx"): lambda _event, message, tx: function(message, tx),
        ("event", "message"): lambda event, message, _tx: function(event, message),
        ("event", "message", "tx"): function,
        ("messages",): lambda messages, _tx: function(messages),
        ("messages", "tx"): function,
    }
    parameters = inspect.signature(function).parameters.values()
    wanted = [
        (p.name, p.kind, given.index(role)) for p, role in zip(parameters, order, strict=True)
    ]
    named = [(name, at) for name, kind, at in wanted if kind is inspect.Parameter.KEYWORD_ONLY]
    if order in usual and not named:
        return usual[order]
    positions = [at for _, kind, at in wanted if kind is not inspect.Parameter.KEYWORD_ONLY]

    def call(*values: Any) -> Any:
        return function(
            *[values[at] for at in positions], **{name: values[at] for name, at in named}
        )

    return call


def _refuse(*_: Any) -> Any:
    raise AssertionError("a handler is called one way, a batch handler the other")
