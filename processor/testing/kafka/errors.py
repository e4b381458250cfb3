"""What the broker answers when it refuses, and what the client makes of it."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException


class Refused(Exception):
    """The broker's answer is an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code


def failure(
    code: int,
    reason: str | None = None,
    *,
    fatal: bool = False,
    retriable: bool = False,
    requires_abort: bool = False,
) -> KafkaException:
    """As librdkafka raises it."""
    return KafkaException(KafkaError(code, reason, fatal, retriable, requires_abort))


def timed_out(what: str) -> KafkaException:
    return failure(KafkaError._TIMED_OUT, f"{what} timed out", retriable=True)
