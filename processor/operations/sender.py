"""An idempotent producer for commands: every record is accounted for."""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from processor.errors import ConfigurationError, Exit, ProcessorError, Unreachable
from processor.settings import Settings

DELIVERY_TIMEOUT_SECONDS = 30.0
FLUSH_SLACK_SECONDS = 5.0
POLL_SECONDS = 0.1


class Sender:
    """An idempotent producer that remembers the first record that could not be delivered."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self.delivered = 0
        self.failed = 0
        self.pending = 0
        self._failure: KafkaError | None = None
        self._servers = settings.kafka.bootstrap_servers
        try:
            self._producer = Producer(_properties(settings), logger=_quiet())
        except KafkaException as error:
            raise ConfigurationError(f"kafka.producer: {error.args[0].str()}") from None

    @property
    def broken(self) -> bool:
        return self._failure is not None

    def send(self, key: bytes | None, value: bytes | None) -> bool:
        """Hand over one record; False, after a short wait, while the queue is full."""
        try:
            self._producer.produce(self.topic, key=key, value=value, on_delivery=self._report)
        except BufferError:
            self.poll(POLL_SECONDS)
            return False
        except KafkaException as error:
            self._fail(error.args[0])
        else:
            self.pending += 1
        return True

    def poll(self, seconds: float) -> None:
        """Look at delivery reports; returns early when there are any."""
        self._producer.poll(seconds)

    def finish(self) -> None:
        """Wait until all is delivered or has failed, somewhat longer than the delivery time-out."""
        deadline = time.monotonic() + DELIVERY_TIMEOUT_SECONDS + FLUSH_SLACK_SECONDS
        # In steps: a signal is looked at between them.
        while self.pending and time.monotonic() < deadline:
            self._producer.flush(POLL_SECONDS)

    def raise_failure(self) -> None:
        """:raises ProcessorError: unless every record was delivered."""
        error = self._failure
        lost = f"{self.failed + self.pending:,} records were not delivered to {self.topic!r}"
        if self.pending or (error is not None and error.code() == KafkaError._MSG_TIMED_OUT):
            raise Unreachable(f"{lost}: Kafka at {self._servers} does not answer")
        if error is not None:
            raise UndeliveredError(f"{lost}: {error.name()}: {error.str()}")

    def _report(self, error: KafkaError | None, message: object) -> None:  # noqa: ARG002
        self.pending -= 1
        if error is None:
            self.delivered += 1
        else:
            self._fail(error)

    def _fail(self, error: KafkaError) -> None:
        self.failed += 1
        self._failure = self._failure or error


class UndeliveredError(ProcessorError):
    """The broker refused a record."""

    exit_code = Exit.VERDICT


def _properties(settings: Settings) -> dict[str, Any]:
    return {
        "linger.ms": 5,
        "compression.type": "lz4",
        "delivery.timeout.ms": round(DELIVERY_TIMEOUT_SECONDS * 1_000),
        **settings.kafka.client,
        **settings.kafka.producer,
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "acks": "all",
        "enable.idempotence": True,
        # The same partition for a key as Java's clients choose.
        "partitioner": "murmur2_random",
    }


def _quiet() -> logging.Logger:
    """librdkafka would write to stderr what is told in a line here."""
    logger = logging.getLogger("processor.librdkafka")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger
