"""Which handler takes a message: the topic's codec and the event's type decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from types import NoneType
from typing import Any, Literal, Union

import msgspec

from processor.binding import Handler
from processor.errors import DecodeError, PipelineError, UnknownType
from processor.message import Topic

Unknown = Literal["dead-letter", "skip", "halt"]


class Route:
    """The handlers of one input topic.

    A topic's handlers are of one of three kinds: one that takes ``bytes``; tagged types, each
    with its handler; and beside the tagged ones at most one untagged type, which takes what no
    tagged handler does.
    """

    def __init__(self, topic: Topic, unknown: Unknown) -> None:
        self.topic = topic
        self.unknown = unknown
        self.handlers: list[Handler] = []
        self._tagged: dict[Any, Handler] = {}
        self._fallback: tuple[Any, Handler] | None = None
        self._raw: Handler | None = None
        self._tombstones: Handler | None = None

    @property
    def batch(self) -> bool:
        return self.handlers[0].batch

    @property
    def has_keys(self) -> bool:
        """Whether messages of it may be duplicates of others."""
        return any(handler.key is not None for handler in self.handlers)

    @property
    def parks(self) -> bool:
        """Whether later messages of a key may have to wait for one that has failed."""
        return any(handler.on_failure == "park-key" for handler in self.handlers)

    def add(self, handler: Handler) -> None:
        """:raises PipelineError: when a type has a handler already, or kinds are mixed."""
        if self.handlers and (handler.batch or self.batch):
            raise PipelineError(
                f"topic {self.topic.name!r}: a batch handler must be its topic's only handler"
            )
        for kind in handler.kinds:
            self._take(kind, handler)
        self.handlers.append(handler)
        self.__dict__.pop("decode", None)
        self._build()

    def _take(self, kind: Any, handler: Handler) -> None:
        name = self.topic.name
        if kind is NoneType:
            self._claim(self._tombstones, "tombstones", handler)
            self._tombstones = handler
        elif kind is bytes:
            self._claim(self._raw, "bytes", handler)
            self._raw = handler
        elif is_tagged(kind):
            self._claim(self._tagged.get(kind), tag_of(kind), handler)
            for other in self._tagged:
                if tag_of(other) == tag_of(kind):
                    raise PipelineError(f"topic {name!r}: two types have the tag {tag_of(kind)!r}")
            self._tagged[kind] = handler
        else:
            self._claim(self._fallback and self._fallback[1], "untagged types", handler)
            self._fallback = (kind, handler)
        if self._raw is not None and (self._tagged or self._fallback):
            raise PipelineError(f"topic {name!r} is taken both decoded and undecoded")

    def _claim(self, taken: Handler | None, what: Any, handler: Handler) -> None:
        if taken is not None:
            raise PipelineError(
                f"topic {self.topic.name!r}: {taken.name!r} and {handler.name!r} both take {what}"
            )

    def _build(self) -> None:
        try:
            _ = self.decode
        except (TypeError, ValueError) as error:
            raise PipelineError(f"topic {self.topic.name!r}: {error}") from None

    @cached_property
    def decode(self) -> Callable[[bytes | None], tuple[Handler, Any]]:
        """A function from a message's value to its handler and the decoded event.

        It raises :class:`UnknownType` for a tag that no handler takes and :class:`DecodeError`
        for anything else that does not fit.
        """
        if self._raw is not None:
            return self._decode_raw(self._raw)
        decoder = self.topic.codec.decoder
        fallback = self._fallback and (decoder(self._fallback[0]), self._fallback[1])
        if not self._tagged:
            return self._decode_untagged(fallback)
        tagged = dict(self._tagged)
        decode_tagged = decoder(Union[(*tagged, nobodys_type(tagged))])
        classify = self._classifier()
        tombstone = self._tombstone

        def decode(value: bytes | None) -> tuple[Handler, Any]:
            if value is None:
                return tombstone()
            try:
                event = decode_tagged(value)
            except Exception as error:
                tag = classify(value)
                if tag is None or tag in known:
                    raise DecodeError(_reason(error)) from None
                if fallback is None:
                    raise UnknownType(f"no handler takes {tag!r}") from None
                return fallback[1], _decoded(fallback[0], value)
            handler = tagged.get(type(event))
            if handler is None:
                raise UnknownType(f"no handler takes {tag_of(type(event))!r}")
            return handler, event

        known = {tag_of(kind) for kind in tagged}
        return decode

    def _decode_raw(self, handler: Handler) -> Callable[[bytes | None], tuple[Handler, Any]]:
        if self._tombstones is None:
            return lambda value: (handler, value)
        tombstone = self._tombstone
        return lambda value: tombstone() if value is None else (handler, value)

    def _decode_untagged(
        self, fallback: tuple[Callable[[bytes], Any], Handler] | None
    ) -> Callable[[bytes | None], tuple[Handler, Any]]:
        tombstone = self._tombstone
        if fallback is None:
            return self._decode_tombstone
        decode_event, handler = fallback

        def decode(value: bytes | None) -> tuple[Handler, Any]:
            if value is None:
                return tombstone()
            try:
                return handler, decode_event(value)
            except Exception as error:
                raise DecodeError(_reason(error)) from None

        return decode

    def _decode_tombstone(self, value: bytes | None) -> tuple[Handler, Any]:
        if value is not None:
            raise UnknownType("only tombstones have a handler")
        return self._tombstone()

    def _tombstone(self) -> tuple[Handler, Any]:
        if self._tombstones is None:
            raise DecodeError("the value is null and no handler takes tombstones (event: None)")
        return self._tombstones, None

    def _classifier(self) -> Callable[[bytes], Any]:
        """A function that reads the tag alone; None where it is neither text nor a number.

        It raises :class:`DecodeError` for what is no object with a tag.
        """
        field = tag_field(next(iter(self._tagged)))
        only_tag = msgspec.defstruct("OnlyTag", [("tag", Any)], rename={"tag": field})
        decode = self.topic.codec.decoder(only_tag)

        def classify(value: bytes) -> Any:
            tag = _decoded(decode, value).tag
            return tag if isinstance(tag, (str, int)) else None

        return classify


def is_tagged(kind: Any) -> bool:
    """Whether a type is a msgspec Struct with a tag."""
    return (
        isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__struct_config__.tag is not None
    )


def nobodys_type(tagged: Iterable[Any]) -> Any:
    """One more tagged type, so that there are always several.

    With a single one the tag may be left out, and which messages fit would change with the next
    handler.
    """
    kind = next(iter(tagged))
    tags = {tag_of(each) for each in tagged}
    free = min(tags) - 1 if isinstance(tag_of(kind), int) else "".join(sorted(tags)) + "?"
    return msgspec.defstruct("Nobodys", [], tag_field=tag_field(kind), tag=free)


def tag_of(kind: Any) -> Any:
    return kind.__struct_config__.tag


def tag_field(kind: Any) -> str:
    return str(kind.__struct_config__.tag_field)


def _decoded(decode: Callable[[bytes], Any], value: bytes) -> Any:
    try:
        return decode(value)
    except Exception as error:
        raise DecodeError(_reason(error)) from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


__all__ = ["Route", "Unknown", "is_tagged", "tag_of"]
