"""Outputs become records: encoded, checked against what their topic takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from time import time
from typing import Any

from processor.engine.batch import Record
from processor.errors import OutputTooLarge, PipelineError
from processor.message import Output, Topic

RECORD_OVERHEAD_BYTES = 96
"""Of a record and its batch, beside key, value and headers."""
PROVENANCE_BYTES = 160
"""At most what the ``processor-source`` header adds."""
MOST_PARTITIONS = 2**31
"""Kafka numbers partitions with 32 bits."""
new_record = tuple.__new__
OVERHEAD_BYTES = RECORD_OVERHEAD_BYTES + PROVENANCE_BYTES


@dataclass(frozen=True, slots=True)
class Rules:
    """What a topic takes; whatever breaks a rule would be refused after Postgres has committed."""

    compacted: bool = False
    """Every record needs a key."""
    before_milliseconds: int | None = None
    after_milliseconds: int | None = None
    """How far a timestamp may lie before and after the broker's clock."""


@dataclass(slots=True)
class Lane:
    """All that has to be known of a topic to seal an output for it."""

    name: str
    encode: Callable[[Any], bytes]
    max_bytes: float
    """Of a record, with its overhead."""
    partitions: int | None
    rules: Rules | None
    latest: float = -inf
    """A timestamp up to this one has been found not to lie too far ahead (milliseconds)."""

    def check(self, key: bytes | None, when: int) -> None:
        """:raises ValueError: for what breaks the topic's rules."""
        rules = self.rules
        if rules is None:
            self.latest = inf
            return
        now = int(time() * 1_000)
        check_rules(self.name, rules, key, when, now)
        if not rules.compacted and rules.before_milliseconds is None:
            after = rules.after_milliseconds
            self.latest = inf if after is None else now + after


class Sealer:
    """Encodes outputs by their topics' codecs.

    :param topics: the topics that the pipeline declares.
    :param max_bytes: what each topic takes (``max.message.bytes``), uncompressed.
    :param partitions: how many partitions each topic has.
    :param rules: what else each topic asks for.
    """

    def __init__(
        self,
        topics: Mapping[str, Topic],
        max_bytes: Mapping[str, int],
        partitions: Mapping[str, int] | None = None,
        rules: Mapping[str, Rules] | None = None,
    ) -> None:
        self._lanes = {
            name: Lane(
                name,
                topic.codec.encode,
                max_bytes.get(name, inf),
                (partitions or {}).get(name),
                (rules or {}).get(name),
            )
            for name, topic in topics.items()
        }

    def seal(self, output: Any, offset: int | None, timestamp: int | None) -> tuple[Record, int]:
        """One output as the bytes that will be produced, and how many they are.

        :raises PipelineError: for an undeclared topic, or something that is no output.
        :raises OutputTooLarge: when its topic would refuse it.
        """
        if not isinstance(output, Output):
            raise PipelineError(f"a handler yielded {type(output).__name__}, not an Output")
        lane = self._lanes.get(output.topic)
        if lane is None:
            raise PipelineError(
                f"topic {output.topic!r} is not declared; add it to the pipeline's outputs"
            )
        value = output.value
        if value is not None and type(value) is not bytes:
            value = sealed_value(lane, value)
        key = output.key
        if type(key) is not bytes and key is not None:
            key = as_bytes("key", key)
        headers = sealed_headers(output.headers) if output.headers else ()
        number = output.partition
        if number is not None:
            number = checked_partition(lane, number)
        size = (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            size += size_of(None, None, headers)
        if size + OVERHEAD_BYTES > lane.max_bytes:
            whole = size + OVERHEAD_BYTES
            raise OutputTooLarge(
                f"an output of {whole} bytes; {lane.name!r} takes {lane.max_bytes}"
            )
        when = timestamp
        if output.timestamp is not None or when is None:
            when = checked_timestamp(output.timestamp, timestamp)
        if when > lane.latest:
            lane.check(key, when)
        # As Record(…), which takes twice as long.
        return new_record(Record, (lane.name, key, value, headers, when, number, offset)), size


def sealed_headers(given: Iterable[tuple[Any, Any]]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((header_name(name), as_bytes("header value", content)) for name, content in given)


def sealed_value(lane: Lane, value: Any) -> bytes:
    """:raises PipelineError: when the topic's codec does not make bytes."""
    if isinstance(value, bytes):
        return exactly(value)
    found = lane.encode(value)
    if type(found) is bytes:
        return found
    if not isinstance(found, (bytes, bytearray, memoryview)):
        kind = type(found).__name__
        raise PipelineError(f"the codec of topic {lane.name!r} returned {kind}, not bytes")
    return bytes(found)


def exactly(value: bytes) -> bytes:
    """The same bytes, not of a subclass: the outbox takes no other."""
    return value if type(value) is bytes else bytes.__getitem__(value, slice(None))


def checked_partition(lane: Lane, number: Any) -> int:
    """A partition that does not exist would be refused after Postgres has committed."""
    count = MOST_PARTITIONS if lane.partitions is None else lane.partitions
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
        raise ValueError(f"{lane.name!r} has no partition {number!r}")
    return int(number)


def check_rules(topic: str, rules: Rules, key: bytes | None, when: int, now: int) -> None:
    if rules.compacted and key is None:
        raise ValueError(f"{topic!r} is compacted: each output needs a key")
    after, before = rules.after_milliseconds, rules.before_milliseconds
    if after is not None and when - now > after:
        raise ValueError(f"timestamp {when} lies too far ahead for {topic!r}")
    if before is not None and now - when > before:
        raise ValueError(f"timestamp {when} lies too far back for {topic!r}")


def as_bytes(what: str, value: object) -> bytes | None:
    """:raises TypeError: for anything that is neither bytes, text nor None."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return exactly(value)
    if isinstance(value, str):
        return str.encode(value)
    raise TypeError(f"an output's {what} is {type(value).__name__}, not bytes, str or None")


def header_name(name: object) -> str:
    """:raises TypeError, UnicodeEncodeError: for what is not text."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name is {type(name).__name__}, not str")
    return str.encode(name).decode()


def checked_timestamp(given: object, otherwise: int | None) -> int:
    """The output's own, else the input's, else now; milliseconds since the epoch."""
    if given is None:
        return int(time() * 1_000) if otherwise is None else otherwise
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 2**63:
        raise ValueError(f"an output's timestamp is {given!r}, not milliseconds since the epoch")
    return int(given)


def size_of(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"") + 8
    return size
