"""Reading partitions of a topic from an offset to an offset, committed records only, in bulk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from processor.errors import ConfigurationError, Unreachable
from processor.operations.broker import Place
from processor.operations.broker_errors import explained
from processor.operations.progress import SILENT
from processor.settings import Settings

BATCH_MESSAGES = 10_000
BATCH_BYTES = 16_000_000
"""Of messages in hand at once; as much again waits in the client."""
CONSUME_SECONDS = 0.1
STALL_SECONDS = 60.0
"""Without any progress. An open transaction ends sooner, by the time-out of its producer."""

Take = Callable[[int, list[Message]], None]
"""Takes messages of one partition, in order."""
LogEnd = Callable[[Place], int]
"""The high watermark; the consumer itself, reading what is committed, tells less."""
Moved = Callable[[int], None]
"""Takes how many more offsets have been read."""


class Scan:
    """Reads one topic; ``messages`` counts what was read."""

    def __init__(
        self, settings: Settings, group: str, log_end: LogEnd, moved: Moved = SILENT.moved
    ) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._properties: dict[str, Any] = {
            **settings.kafka.client,
            **settings.kafka.consumer,
            "bootstrap.servers": self._servers,
            # Named for the broker's permissions only: it neither joins nor commits.
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": BATCH_BYTES // 1_000,
            "fetch.wait.max.ms": 50,
            "logger": _silent_logger(),
        }
        self._log_end = log_end
        self._moved = moved
        self.messages = 0

    def read(self, topic: str, ranges: Mapping[int, tuple[int, int]], take: Take) -> dict[int, int]:
        """Hand over all records of [begin, end) of each partition.

        :returns: the partitions whose log ended before that, with its end.
        :raises Unreachable: when nothing moves for a minute.
        """
        reading = _Reading(topic, ranges, take, self._moved)
        if not reading.ends:
            return {}
        try:
            consumer = Consumer(self._properties)
        except KafkaException as error:
            raise ConfigurationError(f"kafka.consumer: {error.args[0].str()}") from error
        try:
            places = [TopicPartition(topic, each, ranges[each][0]) for each in reading.ends]
            consumer.assign(places)
            self._drain(consumer, reading)
        finally:
            consumer.close()
        return reading.short

    def _drain(self, consumer: Any, reading: _Reading) -> None:
        wanted, moved = 500, time.monotonic()
        while reading.ends:
            messages = consumer.consume(wanted, CONSUME_SECONDS)
            before = dict(reading.positions)
            finished: list[int] = []
            for number, run in groupby(messages, Message.partition):
                finished += self._run(reading, number, list(run))
            if finished:
                consumer.pause([TopicPartition(reading.topic, each) for each in finished])
            if messages:
                each_bytes = sum(map(len, messages)) / len(messages)
                wanted = max(1, min(BATCH_MESSAGES, int(BATCH_BYTES / (each_bytes + 100))))
            if reading.positions != before or finished:
                moved = time.monotonic()
            elif time.monotonic() - moved > STALL_SECONDS:
                raise Unreachable(reading.stalled(self._servers))

    def _run(self, reading: _Reading, number: int, run: list[Message]) -> list[int]:
        """Messages and events of one partition; the partition if it is done."""
        if number not in reading.ends:
            for message in run:
                self._trouble(reading, message.error())
            return []
        if not any(map(Message.error, run)):
            self.messages += reading.take_run(number, run)
        else:
            plain: list[Message] = []
            for message in run:
                error = message.error()
                if error is None:
                    plain.append(message)
                    continue
                if plain:
                    self.messages += reading.take_run(number, plain)
                    plain = []
                self._event(reading, number, message, error)
            if plain and number in reading.ends:
                self.messages += reading.take_run(number, plain)
        return [] if number in reading.ends else [number]

    def _event(self, reading: _Reading, number: int, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            reading.reached(number, message.offset(), self._log_end)
        else:
            self._trouble(reading, error)

    def _trouble(self, reading: _Reading, error: KafkaError | None) -> None:
        """:raises ProcessorError: for what does not pass by itself."""
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return
        told = explained(KafkaException(error), f"reading {reading.topic!r}", self._servers)
        if not isinstance(told, Unreachable):
            raise told


class _Reading:
    """How far each partition has been read."""

    def __init__(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
        take: Take,
        moved: Moved,
    ) -> None:
        self.topic = topic
        self._take = take
        self._moved = moved
        self.ends = {number: end for number, (begin, end) in ranges.items() if begin < end}
        self.positions = {number: ranges[number][0] for number in self.ends}
        self.short: dict[int, int] = {}

    def take_run(self, number: int, run: list[Message]) -> int:
        """Hand over what is below the end; how many that were."""
        end = self.ends.get(number)
        if end is None:
            return 0
        last = run[-1].offset()
        if last >= end:
            run = [message for message in run if message.offset() < end]
        if run:
            self._take(number, run)
        self._move(number, last + 1)
        return len(run)

    def reached(self, number: int, offset: int, log_end: LogEnd) -> None:
        """No committed record was left at ``offset``: the end, or what a transaction holds back."""
        end = self.ends.get(number)
        if end is None:
            return
        self._move(number, offset)
        if offset < end and log_end((self.topic, number)) <= offset:
            self.short[number] = offset
            del self.ends[number]

    def stalled(self, servers: str) -> str:
        number, end = next(iter(self.ends.items()))
        at = self.positions[number]
        return (
            f"Kafka at {servers}: {self.topic}/{number} could not be read from {at} to {end} within"
            f" {STALL_SECONDS:g} s: a transaction is open there, or the broker does not answer;"
            " try again later"
        )

    def _move(self, number: int, position: int) -> None:
        end = self.ends[number]
        reached = min(position, end)
        self._moved(max(0, reached - self.positions[number]))
        self.positions[number] = max(reached, self.positions[number])
        if position >= end:
            del self.ends[number]


def _silent_logger() -> logging.Logger:
    """librdkafka would write on stderr what is told in one line."""
    logger = logging.getLogger("processor.librdkafka")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
