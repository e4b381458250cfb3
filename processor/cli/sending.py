"""Sending a stream of records to a topic at a pace, each of them accounted for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from processor.cli.output import note
from processor.cli.progress import Sent
from processor.errors import ConfigurationError, ProcessorError
from processor.operations.broker import Broker
from processor.operations.database import PATIENCE_SECONDS
from processor.operations.sender import POLL_SECONDS, Sender
from processor.settings import Settings

Record = tuple[bytes | None, bytes | None]
"""A key and a value."""

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
