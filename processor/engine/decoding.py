"""A message's bytes become an event and the handler that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from processor.binding import Handler
from processor.engine.batch import Partition
from processor.engine.messages import Decoded, timestamp_of
from processor.errors import DecodeError
from processor.message import Headers, Message
from processor.routing import Route


class Decoding:
    """Of all topics that have handlers."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.routes = routes
        self._unreadable: set[tuple[Partition, int]] = set()

    def is_batch(self, partition: Partition) -> bool:
        """Whether its messages go to a batch handler."""
        route = self.routes.get(partition.topic)
        return route is not None and route.batch

    def decoder(self, partition: Partition) -> Callable[[bytes | None], tuple[Handler, Any]]:
        return self.routes[partition.topic].decode

    def read(self, partition: Partition, raw: Any) -> Decoded:
        """:raises DecodeError: for a message that does not have the declared form."""
        handler, event = self.decoder(partition)(raw.value())
        message = self.to_message(partition, raw, event) if handler.needs_message else None
        return Decoded(raw, handler, event, message)

    def to_message(self, partition: Partition, raw: Any, event: Any) -> Message[Any]:
        """:raises DecodeError: for headers that the client cannot read."""
        topic, number = partition
        headers = self.headers(partition, raw)
        return Message(topic, number, raw.offset(), raw.key(), event, headers, timestamp_of(raw))

    def headers(self, partition: Partition, raw: Any) -> Headers:
        """The message's headers.

        A name that is not UTF-8 makes the client fail with a SystemError, and a second attempt at
        the same message can end the process; so each is asked for its headers once.

        :raises DecodeError: for headers that the client cannot read.
        """
        if not self._unreadable or (partition, raw.offset()) not in self._unreadable:
            try:
                return raw.headers() or ()
            except (SystemError, UnicodeDecodeError):
                self._unreadable.add((partition, raw.offset()))
        raise DecodeError("a header's name is not UTF-8")

    def headers_if_any(self, partition: Partition, raw: Any) -> Headers:
        try:
            return self.headers(partition, raw)
        except DecodeError:
            return ()
