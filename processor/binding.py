"""How a handler's parameters are bound: by their annotations, once, at registration."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from processor.errors import PipelineError
from processor.message import Message
from processor.transaction import Transaction


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

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The event types it takes: the members of a union, or the one type."""
        if get_origin(self.kind) in (Union, UnionType):
            return get_args(self.kind)
        return (self.kind,)


def bind(function: Callable[..., Any], max_attempts: int) -> Handler:
    """:raises PipelineError: for a parameter that cannot be bound."""
    name = _name(function)
    kind: Any = None
    order: list[str] = []
    for parameter, hint in _parameters(function):
        role, event = _role(name, parameter.name, hint)
        if role in order:
            raise PipelineError(f"handler {name!r}: two parameters take the {role}")
        order.append(role)
        if event is not None:
            if kind is not None and event != kind:
                raise PipelineError(f"handler {name!r} names two event types: {kind} and {event}")
            kind = event
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
        call=_caller(function, tuple(order)),
        call_batch=_refuse,
    )


def bind_batch(function: Callable[..., Any], max_attempts: int) -> Handler:
    """:raises PipelineError: unless it takes ``Sequence[Message[T]]`` (and a Transaction)."""
    name = _name(function)
    kind: Any = None
    order: list[str] = []
    for parameter, hint in _parameters(function):
        if hint is Transaction:
            order.append("tx")
            continue
        inner = get_args(hint)
        if not inner or (get_origin(inner[0]) or inner[0]) is not Message or kind is not None:
            raise PipelineError(
                f"batch handler {name!r}: {parameter.name!r} must be Sequence[Message[T]]"
            )
        order.append("messages")
        kind = (get_args(inner[0]) or (bytes,))[0]
    if kind is None:
        raise PipelineError(f"batch handler {name!r} takes no Sequence[Message[T]]")
    if order == ["messages"]:
        call = lambda messages, tx: function(messages)  # noqa: E731
    elif order == ["messages", "tx"]:
        call = function
    else:
        call = lambda messages, tx: function(tx, messages)  # noqa: E731
    return Handler(
        name=name,
        kind=kind,
        max_attempts=_attempts(name, max_attempts),
        batch=True,
        needs_message=True,
        call=_refuse,
        call_batch=call,
    )


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", repr(function))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PipelineError(f"handler {name!r} is async; handlers are plain functions")
    return name


def _attempts(name: str, max_attempts: int) -> int:
    if max_attempts < 1:
        raise PipelineError(f"handler {name!r}: max_attempts must be at least 1")
    return max_attempts


def _parameters(function: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
    name = getattr(function, "__name__", repr(function))
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise PipelineError(f"handler {name!r}: {error}; import it where annotations see it")
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PipelineError(f"handler {name!r}: *args and **kwargs cannot be bound")
        if parameter.name not in hints:
            raise PipelineError(f"handler {name!r}: parameter {parameter.name!r} has no annotation")
        found.append((parameter, hints[parameter.name]))
    return found


def _role(handler: str, parameter: str, hint: Any) -> tuple[str, Any]:
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
    function: Callable[..., Any], order: tuple[str, ...]
) -> Callable[[Any, Any, Transaction], Any]:
    """A function of (event, message, tx) that passes on what is wanted, without a loop."""
    by_position: dict[tuple[str, ...], Callable[[Any, Any, Transaction], Any]] = {
        ("event",): lambda event, message, tx: function(event),
        ("message",): lambda event, message, tx: function(message),
        ("event", "tx"): lambda event, message, tx: function(event, tx),
        ("message", "tx"): lambda event, message, tx: function(message, tx),
        ("event", "message"): lambda event, message, tx: function(event, message),
        ("event", "message", "tx"): function,
    }
    if order in by_position and not _keyword_only(function):
        return by_position[order]
    names = [parameter.name for parameter in inspect.signature(function).parameters.values()]

    def call(event: Any, message: Any, tx: Transaction) -> Any:
        values = {"event": event, "message": message, "tx": tx}
        return function(**{name: values[role] for name, role in zip(names, order, strict=True)})

    return call


def _keyword_only(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def _refuse(*arguments: Any) -> Any:
    raise AssertionError("a handler is called one way, a batch handler the other")
