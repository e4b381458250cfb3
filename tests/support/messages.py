"""Messages and events as a consumer client hands them over, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError

TIMESTAMP = 1_700_000_000_000
CREATE_TIME = 1


@dataclass
class Raw:
    """A message, or an event of the client: then with an error."""

    at: int
    body: bytes | None = b""
    of: tuple[str | None, int | None] = ("input", 0)
    name: bytes | None = b"key"
    pairs: Sequence[tuple[str, bytes | None]] | None = None
    failure: Any = None
    epoch: int | None = 7

    def value(self) -> bytes | None:
        return self.body

    def key(self) -> bytes | None:
        return self.name

    def headers(self) -> Any:
        return self.pairs

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return CREATE_TIME, TIMESTAMP + self.at

    def leader_epoch(self) -> int | None:
        return self.epoch

    def topic(self) -> str | None:
        return self.of[0]

    def partition(self) -> int | None:
        return self.of[1]

    def error(self) -> Any:
        return self.failure

    def __len__(self) -> int:
        return len(self.body or b"")


def event(code: int, at: int = -1, of: tuple[str | None, int | None] = ("input", 0)) -> Raw:
    """What the client says instead of a message."""
    return Raw(at, None, of, failure=KafkaError(code))


def end_of_file(at: int, of: tuple[str, int] = ("input", 0)) -> Raw:
    return event(KafkaError._PARTITION_EOF, at, of)
