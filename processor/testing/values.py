"""What a test sends, as bytes; and which partition Kafka's clients choose for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from processor.message import Topic
from processor.testing.results import PipelineTestError

Given = Sequence[tuple[str, bytes | str | None]]
_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_MASK = 0xFFFFFFFF


def encoded(topic: Topic, value: Any) -> bytes | None:
    """A value: bytes and None as they are, text as UTF-8, all else by the topic's codec.

    :raises PipelineTestError: for what the codec cannot encode.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    try:
        return topic.codec.encode(value)
    except Exception as error:
        raise PipelineTestError(
            f"topic {topic.name!r}: its codec cannot encode {type(value).__name__}: {error}"
        ) from error


def as_bytes(value: bytes | str | None) -> bytes | None:
    """A key or a header's value."""
    return value.encode() if isinstance(value, str) else value


def headers_of(given: Given) -> list[tuple[str, bytes | None]]:
    return [(name, as_bytes(value)) for name, value in given]


def partition_of(key: bytes, count: int) -> int:
    """As Java's producer and librdkafka's ``murmur2_random`` choose it.

    >>> partition_of(b"foobar", 12), partition_of(b"abc", 12)
    (6, 3)
    """
    return (murmur2(key) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """The hash of Kafka's default partitioner, without a sign."""
    length = len(data)
    found = _SEED ^ length
    for at in range(0, length - length % 4, 4):
        mixed = int.from_bytes(data[at : at + 4], "little") * _FACTOR & _MASK
        mixed = (mixed ^ mixed >> 24) * _FACTOR & _MASK
        found = (found * _FACTOR & _MASK) ^ mixed
    if length % 4:
        found = (found ^ int.from_bytes(data[length - length % 4 :], "little")) * _FACTOR & _MASK
    found = (found ^ found >> 13) * _FACTOR & _MASK
    return found ^ found >> 15
