"""Outputs become records: encoded, checked against what their topic takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

from processor.engine.batch import Record
from processor.errors import OutputTooLarge, PipelineError
from processor.message import Output, Topic

RECORD_OVERHEAD_BYTES = 96
"""Of a record and its batch, beside key, value and headers."""
PROVENANCE_BYTES = 160
"""At most what the ``processor-source`` header adds."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a topic takes; whatever breaks a rule would be refused after Postgres has committed."""

    compacted: bool = False
    """Every record needs a key."""
    before_milliseconds: int | None = None
    after_milliseconds: int | None = None
    """How far a timestamp may lie before and after the broker's clock."""


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
        self._topics = topics
        self._partitions = partitions or {}
        self._rules = rules or {}
        self._max_bytes = max_bytes

    def seal(self, output: Any, offset: int | None, timestamp: int | None) -> Record:
        """One output as the bytes that will be produced.

        :raises PipelineError: for an undeclared topic, or something that is no output.
        :raises OutputTooLarge: when its topic would refuse it.
        """
        if not isinstance(output, Output):
            raise PipelineError(f"a handler yielded {type(output).__name__}, not an Output")
        topic = self._topics.get(output.topic)
        if topic is None:
            raise PipelineError(
                f"topic {output.topic!r} is not declared; add it to the pipeline's outputs"
            )
        value = output.value
        if value is not None and not isinstance(value, bytes):
            value = topic.codec.encode(value)
        key = as_bytes("key", output.key)
        headers = tuple(
            (header_name(name), as_bytes("header value", content))
            for name, content in output.headers
        )
        self._check_partition(output)
        self._check_size(output.topic, key, value, headers)
        when = checked_timestamp(output.timestamp, timestamp)
        self._check_rules(output.topic, key, when)
        return Record(output.topic, key, value, headers, when, output.partition, offset)

    def _check_partition(self, output: Output) -> None:
        """A partition that does not exist would be refused after Postgres has committed."""
        number = output.partition
        if number is None:
            return
        count = self._partitions.get(output.topic)
        if not isinstance(number, int) or number < 0 or (count is not None and number >= count):
            raise ValueError(f"{output.topic!r} has no partition {number!r}")

    def _check_rules(self, topic: str, key: bytes | None, when: int) -> None:
        rules = self._rules.get(topic)
        if rules is None:
            return
        if rules.compacted and key is None:
            raise ValueError(f"{topic!r} is compacted: each output needs a key")
        now = int(time() * 1_000)
        after, before = rules.after_milliseconds, rules.before_milliseconds
        if after is not None and when - now > after:
            raise ValueError(f"timestamp {when} lies too far ahead for {topic!r}")
        if before is not None and now - when > before:
            raise ValueError(f"timestamp {when} lies too far back for {topic!r}")

    def _check_size(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...],
    ) -> None:
        size = size_of(key, value, headers) + RECORD_OVERHEAD_BYTES + PROVENANCE_BYTES
        limit = self._max_bytes.get(topic)
        if limit is not None and size > limit:
            raise OutputTooLarge(f"an output of {size} bytes; {topic!r} takes {limit}")


def as_bytes(what: str, value: object) -> bytes | None:
    """:raises TypeError: for anything that is neither bytes, text nor None."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"an output's {what} is {type(value).__name__}, not bytes, str or None")


def header_name(name: object) -> str:
    """:raises TypeError, UnicodeEncodeError: for what is not text."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name is {type(name).__name__}, not str")
    name.encode()
    return name


def checked_timestamp(given: object, otherwise: int | None) -> int:
    """The output's own, else the input's, else now; milliseconds since the epoch."""
    if given is None:
        return int(time() * 1_000) if otherwise is None else otherwise
    if not isinstance(given, int) or not 0 <= given < 2**63:
        raise ValueError(f"an output's timestamp is {given!r}, not milliseconds since the epoch")
    return given


def size_of(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    size = len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name) + len(content or b"") + 8
    return size
