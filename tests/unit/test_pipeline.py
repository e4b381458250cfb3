"""How handlers are bound and messages routed, and what is refused at registration."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from processor import Message, Output, Pipeline, Topic, Transaction, codecs
from processor.binding import Handler
from processor.errors import DecodeError, PipelineError, UnknownType

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheTypeChecker


class View(msgspec.Struct, tag_field="type", tag="view"):
    page: str


class Order(msgspec.Struct, tag_field="type", tag="order"):
    amount: int


class OtherOrder(msgspec.Struct, tag_field="type", tag="order"):
    amount: int


class Elsewhere(msgspec.Struct, tag_field="kind", tag="elsewhere"):
    pass


class Numbered(msgspec.Struct, tag_field="type", tag=7):
    pass


class Anything(msgspec.Struct):
    type: str


VIEW = b'{"type": "view", "page": "/"}'
ORDER = b'{"type": "order", "amount": 5}'
OTHER = b'{"type": "login"}'


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline("shop", outputs=["receipts", Topic("packed", codec=codecs.msgpack)])


def decode(pipeline: Pipeline, value: bytes | None, topic: str = "events") -> tuple[str, Any]:
    handler, event = pipeline.routes[topic].decode(value)
    return handler.name, event


TX: Any = object()
MESSAGE: Message[Any] = Message("events", 0, 1, b"key", None)


def seen_by(pipeline: Pipeline, value: bytes) -> Any:
    """What a handler that returns its arguments was called with."""
    handler, event = pipeline.routes["events"].decode(value)
    return handler.call(event, MESSAGE, TX)


def event_only(event: View) -> Any:
    return (event,)


def message_only(message: Message[View]) -> Any:
    return (message,)


def event_and_tx(event: View, tx: Transaction) -> Any:
    return event, tx


def message_and_tx(message: Message[View], tx: Transaction) -> Any:
    return message, tx


def event_and_message(event: View, message: Message) -> Any:  # type: ignore[type-arg]
    return event, message


def all_three(event: View, message: Message[Any], tx: Transaction) -> Any:
    return event, message, tx


def another_order(tx: Transaction, message: Message[View], event: View) -> Any:
    return tx, message, event


def by_name(event: View, *, tx: Transaction, message: Message[Any]) -> Any:
    return event, tx, message


def by_position(tx: Transaction, event: View, /) -> Any:
    return tx, event


def with_a_helper(tx: Transaction, event: View, /, *, message: Message[View]) -> Any:
    return tx, event, message


EVENT = View("/")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (event_only, (EVENT,)),
        (message_only, (MESSAGE,)),
        (event_and_tx, (EVENT, TX)),
        (message_and_tx, (MESSAGE, TX)),
        (event_and_message, (EVENT, MESSAGE)),
        (all_three, (EVENT, MESSAGE, TX)),
        (another_order, (TX, MESSAGE, EVENT)),
        (by_name, (EVENT, TX, MESSAGE)),
        (by_position, (TX, EVENT)),
        (with_a_helper, (TX, EVENT, MESSAGE)),
    ],
)
def test_parameters_are_bound_by_annotation(
    pipeline: Pipeline, function: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    assert pipeline.handler("events")(function) is function
    assert seen_by(pipeline, VIEW) == expected
    (handler,) = pipeline.handlers
    assert handler.kind is View
    assert handler.needs_message == (MESSAGE in expected)


def both(messages: Sequence[Message[View]], tx: Transaction) -> Any:
    return messages, tx


def turned(tx: Transaction, messages: list[Message[View]]) -> Any:
    return messages, tx


def named(*, tx: Transaction, messages: Sequence[Message[View]]) -> Any:
    return messages, tx


def alone(messages: Sequence[Message[View]]) -> Any:
    return messages, TX


@pytest.mark.parametrize("function", [both, turned, named, alone])
def test_a_batch_handler_gets_the_messages(
    pipeline: Pipeline, function: Callable[..., Any]
) -> None:
    assert pipeline.batch_handler("events", max_attempts=5)(function) is function
    (handler,) = pipeline.handlers
    assert pipeline.routes["events"].batch
    assert (handler.batch, handler.kind, handler.max_attempts) == (True, View, 5)
    assert handler.call_batch([MESSAGE], TX) == ([MESSAGE], TX)


def test_a_batch_handler_without_a_type_takes_bytes(pipeline: Pipeline) -> None:
    @pipeline.batch_handler("events")
    def raw(messages: Sequence[Message]) -> None:  # type: ignore[type-arg]
        pass

    assert decode(pipeline, b"\xff") == ("raw", b"\xff")


def test_a_message_of_anything_takes_any_json(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def whatever(message: Message[Any]) -> None:
        pass

    assert decode(pipeline, b'[1, {"a": null}]') == ("whatever", [1, {"a": None}])


def test_a_message_without_a_type_takes_bytes(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def raw(message: Message) -> None:  # type: ignore[type-arg]
        pass

    assert decode(pipeline, b"\xff") == ("raw", b"\xff")
    assert decode(pipeline, None) == ("raw", None)


def routed(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def viewed(event: View) -> None:
        pass

    @pipeline.handler("events", max_attempts=1)
    def ordered(event: Order) -> None:
        pass


def test_the_tag_chooses_the_handler(pipeline: Pipeline) -> None:
    routed(pipeline)
    assert decode(pipeline, VIEW) == ("viewed", View("/"))
    assert decode(pipeline, ORDER) == ("ordered", Order(5))
    assert [(each.name, each.max_attempts) for each in pipeline.handlers] == [
        ("viewed", 3),
        ("ordered", 1),
    ]


def test_a_union_gives_a_handler_several_types(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def any_of(event: View | Order | None) -> None:
        pass

    assert decode(pipeline, VIEW) == ("any_of", View("/"))
    assert decode(pipeline, ORDER) == ("any_of", Order(5))
    assert decode(pipeline, None) == ("any_of", None)


def test_an_unknown_tag_is_told_from_bad_data(pipeline: Pipeline) -> None:
    routed(pipeline)
    with pytest.raises(UnknownType, match="no handler takes 'login'"):
        decode(pipeline, OTHER)
    with pytest.raises(UnknownType, match="no handler takes 3"):
        decode(pipeline, b'{"type": 3}')


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "truncated"),
        (b"no json", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `type`"),
        (b'{"type": null}', "Expected `str`"),
        (b'{"type": ["view"]}', "Expected `str`"),
        (b'{"type": "view"}', "missing required field `page`"),
        (b'{"type": "view", "page": 1}', r"Expected `str`, got `int` - at `\$.page`"),
        (b'{"type": "view", "page": "\xff"}', "utf-8"),
        (b'{"type": "view", "page": "/", "x": ' + b"[" * 5_000, "recursion"),
        (None, "the value is null and no handler takes tombstones"),
    ],
)
@pytest.mark.parametrize("fallback", [False, True])
def test_bad_data_is_no_unknown_type(
    pipeline: Pipeline, value: bytes | None, reason: str, fallback: bool
) -> None:
    routed(pipeline)
    if fallback:
        with_a_fallback(pipeline)
    with pytest.raises(DecodeError, match=reason) as raised:
        decode(pipeline, value)
    assert not isinstance(raised.value, UnknownType)


def with_a_fallback(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def other(event: Anything) -> None:
        pass


def test_an_untagged_type_takes_what_no_tag_does(pipeline: Pipeline) -> None:
    routed(pipeline)
    with_a_fallback(pipeline)
    assert decode(pipeline, VIEW) == ("viewed", View("/"))
    assert decode(pipeline, OTHER) == ("other", Anything("login"))
    with pytest.raises(DecodeError, match=r"Expected `str`, got `int` - at `\$.type`"):
        decode(pipeline, b'{"type": 3}')


def test_tombstones_have_a_handler_of_their_own(pipeline: Pipeline) -> None:
    routed(pipeline)

    @pipeline.handler("events")
    def gone(event: None, message: Message[Any]) -> None:
        pass

    assert decode(pipeline, None) == ("gone", None)
    assert decode(pipeline, VIEW) == ("viewed", View("/"))


def test_tombstones_alone(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def gone(event: None) -> None:
        pass

    assert decode(pipeline, None) == ("gone", None)
    with pytest.raises(UnknownType, match="only tombstones have a handler"):
        decode(pipeline, VIEW)


@pytest.mark.parametrize("tombstones_first", [True, False])
def test_tombstones_beside_bytes(pipeline: Pipeline, tombstones_first: bool) -> None:
    def gone(event: None) -> None:
        pass

    def raw(event: bytes) -> None:
        pass

    for function in (gone, raw) if tombstones_first else (raw, gone):
        pipeline.handler("events")(function)
    assert decode(pipeline, None) == ("gone", None)
    assert decode(pipeline, b"\xff") == ("raw", b"\xff")


def test_topics_are_apart_and_have_their_codecs(pipeline: Pipeline) -> None:
    @pipeline.handler("events")
    def by_json(event: View) -> None:
        pass

    @pipeline.handler(Topic("packed-events", codec=codecs.msgpack))
    def by_msgpack(event: View) -> None:
        pass

    packed = msgspec.msgpack.encode(View("/"))
    assert decode(pipeline, VIEW) == ("by_json", View("/"))
    assert decode(pipeline, packed, "packed-events") == ("by_msgpack", View("/"))
    with pytest.raises(DecodeError):
        decode(pipeline, packed)
    assert pipeline.outputs["packed"].codec is codecs.msgpack
    assert pipeline.outputs["receipts"].codec is codecs.json


def test_a_late_handler_is_seen(pipeline: Pipeline) -> None:
    routed(pipeline)
    with pytest.raises(UnknownType):
        decode(pipeline, OTHER)
    with_a_fallback(pipeline)
    assert decode(pipeline, OTHER)[0] == "other"


async def asynchronous(event: View) -> None:
    pass


async def asynchronous_outputs(event: View) -> AsyncIterator[Output]:
    yield Output("receipts", value=1)


def unannotated(event) -> None:  # type: ignore[no-untyped-def]
    pass


def nothing() -> None:
    pass


def only_tx(tx: Transaction) -> None:
    pass


def two_events(event: View, other: Order) -> None:
    pass


def two_transactions(event: View, tx: Transaction, again: Transaction) -> None:
    pass


def two_messages(message: Message[View], other: Message[View]) -> None:
    pass


def two_minds(event: View, message: Message[Order]) -> None:
    pass


def any_number(event: View, *more: Any) -> None:
    pass


def any_names(event: View, **more: Any) -> None:
    pass


def not_importable(event: OnlyForTheTypeChecker) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (asynchronous, "handler 'asynchronous' is async; handlers are plain functions"),
        (asynchronous_outputs, "handler 'asynchronous_outputs' is async"),
        (unannotated, "handler 'unannotated': parameter 'event' has no annotation"),
        (nothing, "handler 'nothing' takes neither an event nor a Message"),
        (only_tx, "handler 'only_tx' takes neither an event nor a Message"),
        (two_events, "handler 'two_events': two parameters take the event"),
        (two_transactions, "handler 'two_transactions': two parameters take the tx"),
        (two_messages, "handler 'two_messages': two parameters take the message"),
        (two_minds, "handler 'two_minds' names two event types"),
        (any_number, "handler 'any_number': *args and **kwargs cannot be bound"),
        (any_names, "handler 'any_names': *args and **kwargs cannot be bound"),
        (not_importable, "name 'OnlyForTheTypeChecker' is not defined; import it where"),
        (functools.partial(event_only), "is not a module, class, method, or function"),
    ],
)
def test_a_handler_that_cannot_be_bound_is_refused(
    pipeline: Pipeline, function: Callable[..., Any], complaint: str
) -> None:
    refused(complaint, lambda: pipeline.handler("events")(function))


def no_messages(tx: Transaction) -> None:
    pass


def one_message(message: Message[View]) -> None:
    pass


def two_batches(messages: Sequence[Message[View]], more: Sequence[Message[View]]) -> None:
    pass


def two_batch_transactions(
    messages: Sequence[Message[View]], tx: Transaction, again: Transaction
) -> None:
    pass


async def asynchronous_batch(messages: Sequence[Message[View]]) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (no_messages, "batch handler 'no_messages' takes no Sequence[Message[T]]"),
        (one_message, "batch handler 'one_message': 'message' must be Sequence[Message[T]]"),
        (event_only, "batch handler 'event_only': 'event' must be Sequence[Message[T]]"),
        (two_batches, "handler 'two_batches': two parameters take the messages"),
        (two_batch_transactions, "two parameters take the tx"),
        (asynchronous_batch, "handler 'asynchronous_batch' is async"),
    ],
)
def test_a_batch_handler_that_cannot_be_bound_is_refused(
    pipeline: Pipeline, function: Callable[..., Any], complaint: str
) -> None:
    refused(complaint, lambda: pipeline.batch_handler("events")(function))


def handler(kind: Any) -> Callable[..., Any]:
    def handle(event: Any) -> None:
        pass

    handle.__annotations__ = {"event": kind}
    return handle


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        (View, View, "topic 'events': 'handle' and 'handle' both take view"),
        (View | Order, Order, "both take order"),
        (Order, OtherOrder, "topic 'events': two types have the tag 'order'"),
        (Order | OtherOrder, View, "topic 'events': two types have the tag 'order'"),
        (Anything, dict, "both take untagged types"),
        (bytes, bytes, "both take bytes"),
        (None, None, "both take tombstones"),
        (View | None, None, "both take tombstones"),
        (bytes, View, "topic 'events' is taken both decoded and undecoded"),
        (Anything, bytes, "topic 'events' is taken both decoded and undecoded"),
        (View, Elsewhere, "topic 'events': "),
        (View, Numbered, "topic 'events': "),
        (View, object(), "topic 'events': "),
    ],
)
def test_types_that_do_not_go_together_are_refused(
    pipeline: Pipeline, first: Any, second: Any, complaint: str
) -> None:
    def register() -> None:
        pipeline.handler("events")(handler(first))
        pipeline.handler("events")(handler(second))

    refused(complaint, register)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_batch_handler_has_its_topic_for_itself(pipeline: Pipeline, batch_first: bool) -> None:
    def register() -> None:
        registrations = [
            lambda: pipeline.batch_handler("events")(both),
            lambda: pipeline.handler("events")(handler(Order)),
        ]
        for each in registrations if batch_first else registrations[::-1]:
            each()

    refused("topic 'events': a batch handler must be its topic's only handler", register)


def test_two_batch_handlers_are_refused(pipeline: Pipeline) -> None:
    pipeline.batch_handler("events")(both)
    refused(
        "a batch handler must be its topic's only handler",
        lambda: pipeline.batch_handler("events")(alone),
    )


def test_a_topic_has_one_codec(pipeline: Pipeline) -> None:
    pipeline.handler(Topic("events", codec=codecs.msgpack))(handler(View))
    pipeline.handler("events")(handler(Order))
    refused(
        "topic 'events' is declared with two codecs",
        lambda: pipeline.handler(Topic("events"))(handler(Anything)),
    )
    assert decode(pipeline, msgspec.msgpack.encode(Order(1))) == ("handle", Order(1))


@pytest.mark.parametrize("register", [Pipeline.handler, Pipeline.batch_handler])
def test_at_least_one_attempt_is_made(pipeline: Pipeline, register: Any) -> None:
    function = both if register is Pipeline.batch_handler else event_only
    refused(
        f"handler {function.__name__!r}: max_attempts must be at least 1",
        lambda: register(pipeline, "events", max_attempts=0)(function),
    )


def test_a_pipeline_needs_a_name_and_a_handler(pipeline: Pipeline) -> None:
    refused("a pipeline needs a name", lambda: Pipeline(""))
    refused("pipeline 'shop' has no handler; add @pipeline.handler", pipeline.validate)
    routed(pipeline)
    pipeline.validate()


def test_an_error_of_registration_leaves_no_half_handler(pipeline: Pipeline) -> None:
    routed(pipeline)
    refused("both take view", lambda: pipeline.handler("events")(handler(View)))
    assert [each.name for each in pipeline.handlers] == ["viewed", "ordered"]


def test_a_handler_is_called_its_own_way(pipeline: Pipeline) -> None:
    routed(pipeline)
    single: Handler = pipeline.handlers[0]
    with pytest.raises(AssertionError):
        single.call_batch([MESSAGE], TX)


def outputs(event: View) -> Iterator[Output]:
    yield Output(Topic("receipts"), key="k", value=event)


def test_what_a_handler_yields_comes_out(pipeline: Pipeline) -> None:
    pipeline.handler("events")(outputs)
    (output,) = seen_by(pipeline, VIEW)
    assert (output.topic, output.key, output.value) == ("receipts", "k", EVENT)
    assert (
        pipeline.outputs[output.topic].codec.encode(output.value) == b'{"type":"view","page":"/"}'
    )


def refused(complaint: str, act: Callable[[], object]) -> None:
    """The act fails with one line that says it."""
    with pytest.raises(PipelineError, match=r"\A[^\n]*\Z") as raised:
        act()
    assert complaint in str(raised.value)
