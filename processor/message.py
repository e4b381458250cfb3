"""What comes in and what goes out: :class:`Message`, :class:`Output`, :class:`Topic`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from processor import codecs
from processor.codecs import Codec

T = TypeVar("T", default=Any)

Headers = Sequence[tuple[str, bytes | None]]


class Message(Generic[T]):
    """One consumed message.

    ``timestamp`` is in milliseconds since the epoch, as Kafka keeps it; None where the broker
    holds none. ``value`` is the decoded event (the raw bytes in a topic taken undecoded, None for
    a tombstone). Keys and header values are the bytes as they were produced.
    """

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: T,
        headers: Headers = (),
        timestamp: int | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp

    def __repr__(self) -> str:
        return f"<Message {self.topic}/{self.partition}@{self.offset}>"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and how its values are written (JSON unless said otherwise)."""

    name: str
    codec: Codec = field(default=codecs.json)

    @staticmethod
    def of(topic: str | Topic) -> Topic:
        """The topic itself, or the JSON topic of that name."""
        return topic if isinstance(topic, Topic) else Topic(topic)


class Output:
    """One record to be produced, in the same transaction as everything else.

    :param topic: a topic that the pipeline declares in ``outputs``.
    :param key: bytes, or text that is sent as UTF-8.
    :param value: encoded by the topic's codec; bytes and None pass unchanged.
    :param headers: pairs of a name and bytes, text or None.
    :param timestamp: milliseconds since the epoch; the input message's unless given.
    :param partition: a partition number; by the key (murmur2, as Java's clients) unless given.
    """

    __slots__ = ("headers", "key", "partition", "timestamp", "topic", "value")

    def __init__(
        self,
        topic: str | Topic,
        *,
        key: bytes | str | None = None,
        value: Any,
        headers: Sequence[tuple[str, bytes | str | None]] = (),
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> None:
        self.topic = topic if isinstance(topic, str) else topic.name
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
        self.partition = partition

    def __repr__(self) -> str:
        return f"<Output to {self.topic}, key {self.key!r}>"
