"""Sending a stream of records to a topic at a pace, each of them accounted for."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from processor.cli.output import note
from processor.cli.progress import Sent
from processor.errors import ConfigurationError, Exit, ProcessorError, Unreachable
from processor.operations.broker import Broker
from processor.operations.database import PATIENCE_SECONDS
from processor.settings import Settings

Record = tuple[bytes | None, bytes | None]
"""A key and a value."""

DELIVERY_TIMEOUT_SECONDS = 30.0
FLUSH_SLACK_SECONDS = 5.0
POLL_SECONDS = 0.1
PROGRESS_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done; ``rate`` is in records per second."""

    topic: str
    produced: int
    delivered: int
    failed: int
    unknown: int
    """Neither confirmed nor refused by the time that it ended."""
    seconds: float
    rate: float
    stopped: bool


def require_topic(settings: Settings, topic: str) -> None:
    """:raises ProcessorError: unless Kafka answers and has the topic."""
    broker = Broker(settings)
    broker.wait(min(PATIENCE_SECONDS, settings.start_timeout_seconds), note)
    if broker.topics([topic])[topic] is None:
        servers = settings.kafka.bootstrap_servers
        raise ConfigurationError(
            f"there is no topic {topic!r} at {servers}; run: processor topics create PIPELINE"
        )


class Pace:
    """How many records may have been sent by now.

    >>> Pace(rate=10.0).allowed(after_seconds=2.0)
    21
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def allowed(self, after_seconds: float) -> int:
        """The first at once, then one each ``1 / rate`` seconds."""
        return int(after_seconds * self.rate) + 1 if self.rate else sys.maxsize

    def due(self, number: int) -> float:
        """When record ``number`` (counted from 0) may be sent, in seconds after the first."""
        return number / self.rate if self.rate else 0.0


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


def send(
    records: Iterator[Record],
    sender: Sender,
    pace: Pace,
    stop: threading.Event,
    progress: Sent,
) -> Summary:
    """Send records at their pace until they end, one fails, or somebody asks to stop.

    What has been sent is waited for, also when the next record cannot be made.
    """
    began = time.monotonic()
    produced = 0
    try:
        for key, value in _paced(records, sender, pace, stop, progress):
            while not sender.send(key, value):
                if stop.is_set():
                    break
            else:
                produced += 1
    except ProcessorError:
        sender.finish()
        raise
    progress(produced)
    sender.finish()
    seconds = time.monotonic() - began
    return Summary(
        topic=sender.topic,
        produced=produced,
        delivered=sender.delivered,
        failed=sender.failed,
        unknown=sender.pending,
        seconds=round(seconds, 3),
        rate=round(produced / seconds, 1) if seconds else 0.0,
        stopped=stop.is_set(),
    )


def _paced(
    records: Iterator[Record],
    sender: Sender,
    pace: Pace,
    stop: threading.Event,
    progress: Sent,
) -> Iterator[Record]:
    """The records, each not before its time; none any more after a failure or a wish to stop."""
    began = time.monotonic()
    allowed = 0
    for number, record in enumerate(records):
        while number >= allowed and not (sender.broken or stop.is_set()):
            early = pace.due(number) - (time.monotonic() - began)
            sender.poll(min(max(early, 0.0), POLL_SECONDS))
            allowed = min(pace.allowed(time.monotonic() - began), number + PROGRESS_RECORDS)
            progress(number)
        if sender.broken or stop.is_set():
            return
        yield record


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
