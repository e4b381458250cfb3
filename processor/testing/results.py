"""What a test sees of a pipeline: its outputs, dead letters and halts, from whichever stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Message

from processor.codecs import Codec
from processor.engine.outbox import PROVENANCE_HEADER, Provenance, read_provenance
from processor.errors import ProcessorError


class PipelineTestError(ProcessorError):
    """A test asks for what cannot be, or what happened makes its question void; the text has the
    cure.
    """


class Sent(NamedTuple):
    """Where a message that a test has sent lies."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """A record in an output topic, as a consumer reads it that reads what is committed.

    ``timestamp`` is in milliseconds since the epoch; ``headers`` are the handler's own, and
    ``source`` is what the header ``processor-source`` says.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int
    source: Provenance | None = field(repr=False, compare=False)
    codec: Codec = field(repr=False, compare=False)

    def decode(self, kind: Any = Any) -> Any:
        """The value by the topic's codec; None for a tombstone.

        :param kind: the type that it is decoded into.
        :raises msgspec.DecodeError: when it is none.
        """
        return None if self.value is None else self.codec.decoder(kind)(self.value)

    def json(self) -> Any:
        """The value as JSON says it: dictionaries, lists, text, numbers.

        :raises msgspec.DecodeError: when it is no JSON.
        """
        return None if self.value is None else msgspec.json.decode(self.value)


def output_of(message: Message, codec: Codec) -> OutputRecord:
    """A record as the client gives it."""
    headers = list(message.headers() or ())
    told = dict(headers).get(PROVENANCE_HEADER)
    return OutputRecord(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=tuple((name, value) for name, value in headers if name != PROVENANCE_HEADER),
        timestamp=message.timestamp()[1],
        source=None if told is None else read_provenance(told),
        codec=codec,
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, as ``processor dead-letters show`` tells it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    handler: str | None
    """None where none was found: the message could not be decoded, or nobody takes its type."""
    error: str
    """The exception's class."""
    reason: str
    """The exception's text."""
    attempts: int
    trace: str | None = field(repr=False)
    id: int = field(default=0, compare=False)
    state: str = "failed"
    """``failed``, ``parked`` behind another one of its key, ``replayed`` or ``discarded``."""


def dead_letter_of(row: Mapping[str, Any]) -> DeadLetter:
    """A row of ``processor.dead_letters``."""
    return DeadLetter(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        key=row["key"],
        value=row["value"],
        headers=tuple((name, value) for name, value in msgspec.msgpack.decode(row["headers"])),
        handler=row["handler"],
        error=row["error"],
        reason=row["reason"],
        attempts=row["attempts"],
        trace=row["trace"],
        id=row["id"],
        state=row["state"],
    )


@dataclass(frozen=True, slots=True)
class Halted:
    """A partition that has stopped, and why.

    ``offset`` is H: everything below it has taken effect. ``waits`` is True where it asks again by
    itself until what is missing is there, such as a table; a halt ends by somebody's word alone.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    remedy: str | None
    waits: bool

    def __str__(self) -> str:
        how = "waits" if self.waits else "has halted"
        place = f"{self.topic}/{self.partition}"
        return f"{place} {how} in front of offset {self.offset}: {self.reason}: {self.detail}"
