"""The clients of Kafka and their settings: everything the promise rests on is fixed here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from processor.errors import ConfigurationError
from processor.settings import Kafka

CALL_TIMEOUT_SECONDS = 8.0
"""Below ``socket.timeout.ms``, so that a stalled call ends as a time-out and not as a re-send."""
SOCKET_TIMEOUT_MILLISECONDS = 10_000
LARGEST_BATCH_BYTES = 1_000_000
"""librdkafka's own default for ``batch.size``."""
CONNECTION_LINES: dict[str, Any] = {"log.connection.close": True, "log_level": 6}
"""Settings under which the lines below are logged."""
RESEND_MARKS = ("FAIL", "REQTMOUT")
"""How the log lines begin that tell of a connection or a request that was given up."""


class LogLines(logging.Handler):
    """Keeps the lines that tell of a lost connection or a request given up."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.suspicious: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line.startswith(RESEND_MARKS) and "Connect to" not in line:
            self.suspicious.append(line)

    def logger(self) -> logging.Logger:
        """For a client; outside the tree of loggers, so that nothing filters it."""
        logger = logging.Logger("processor.librdkafka", logging.DEBUG)
        logger.addHandler(self)
        return logger


Background = Callable[[Callable[[], object]], "Future[object]"]
"""Makes a call while the caller goes on."""


class Clients(Protocol):
    """Makes the clients; the simulation makes others.

    ``incremental`` says whether assignments change by difference (cooperative) or whole (eager).
    """

    @property
    def incremental(self) -> bool: ...

    background: Background

    def consumer(self, on_error: Callable[[Any], None]) -> Any: ...

    def producer(
        self,
        transactional_id: str,
        transaction_timeout_seconds: float,
        logger: logging.Logger,
        on_delivery: Callable[[Any, Any], None],
        on_error: Callable[[Any], None],
    ) -> Any: ...

    def admin(self, logger: logging.Logger) -> Any: ...


class Threads:
    """Implements :class:`Background`; a thread serves one call after the other.

    A call may never return: its thread is left to it and the next call has a new one. The threads
    are daemons, which those of an executor are not, so that the process can end all the same.
    """

    def __init__(self) -> None:
        self._idle: SimpleQueue[SimpleQueue[_Call]] = SimpleQueue()

    def __call__(self, call: Callable[[], object]) -> Future[object]:
        try:
            calls = self._idle.get_nowait()
        except Empty:
            calls = SimpleQueue()
            threading.Thread(target=self._serve, args=(calls,), name="sending", daemon=True).start()
        future: Future[object] = Future()
        calls.put((call, future))
        return future

    def _serve(self, calls: SimpleQueue[_Call]) -> None:
        while True:
            _make(*calls.get())
            self._idle.put(calls)


_Call = tuple[Callable[[], object], "Future[object]"]


def _make(call: Callable[[], object], future: Future[object]) -> None:
    """Nothing of the call outlives this: not its client, by way of an error's traceback."""
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error.with_traceback(None))


class KafkaClients:
    """Implements :class:`Clients` with confluent-kafka."""

    def __init__(self, kafka: Kafka, group_id: str, slot: str) -> None:
        self.background: Background = Threads()
        self._kafka = kafka
        self._group_id = group_id
        self._slot = slot
        self._quiet = _quiet_logger("processor.librdkafka")
        self.batch_bytes = LARGEST_BATCH_BYTES

    @property
    def incremental(self) -> bool:
        if self._kafka.group_protocol == "consumer":
            return True
        properties = consumer_properties(self._kafka, self._group_id, self._slot)
        return "cooperative" in str(properties["partition.assignment.strategy"])

    def consumer(self, on_error: Callable[[Any], None]) -> Any:
        properties = consumer_properties(self._kafka, self._group_id, self._slot)
        with _refusing():
            return Consumer(properties | {"error_cb": on_error}, logger=self._quiet)

    def producer(
        self,
        transactional_id: str,
        transaction_timeout_seconds: float,
        logger: logging.Logger,
        on_delivery: Callable[[Any, Any], None],
        on_error: Callable[[Any], None],
    ) -> Any:
        properties = producer_properties(
            self._kafka, transactional_id, transaction_timeout_seconds, self.batch_bytes
        )
        with _refusing():
            return Producer(
                properties | {"on_delivery": on_delivery, "error_cb": on_error}, logger=logger
            )

    def admin(self, logger: logging.Logger) -> Any:
        properties = common_properties(self._kafka, self._slot) | CONNECTION_LINES
        with _refusing():
            return AdminClient(properties, logger=logger)


@contextmanager
def _refusing() -> Iterator[None]:
    """:raises ConfigurationError: for properties that librdkafka does not take."""
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() != KafkaError._INVALID_ARG:
            raise
        raise ConfigurationError(f"Kafka client: {error.args[0].str()}") from None


def common_properties(kafka: Kafka, client_id: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": client_id,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        **kafka.client,
    }


def consumer_properties(kafka: Kafka, group_id: str, slot: str) -> dict[str, Any]:
    properties: dict[str, Any] = common_properties(kafka, slot)
    properties |= {
        # One fetch per broker is under way at a time: a seek waits for the one before it.
        "fetch.wait.max.ms": 50,
        "fetch.error.backoff.ms": 50,
        # Small turns of each partition. With a short back-off from a full queue the first of the
        # client's list is fetched again before any other.
        "max.partition.fetch.bytes": 262_144,
        "fetch.queue.backoff.ms": 50,
        "queued.max.messages.kbytes": 8_192,
        "topic.metadata.refresh.interval.ms": 30_000,
        **kafka.consumer,
        "group.id": group_id,
        "group.protocol": kafka.group_protocol,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "max.poll.interval.ms": int(kafka.max_poll_interval_seconds * 1_000),
    }
    if kafka.static_membership:
        properties["group.instance.id"] = slot
    if kafka.group_protocol == "classic":
        session = int(kafka.session_timeout_seconds * 1_000)
        properties |= {
            "session.timeout.ms": session,
            "heartbeat.interval.ms": max(100, min(3_000, session // 4)),
        }
        # An assignment that is complete in itself: docs/decisions/0003-eager-assignment.md
        properties.setdefault("partition.assignment.strategy", "roundrobin")
    return properties


def producer_properties(
    kafka: Kafka,
    transactional_id: str,
    transaction_timeout_seconds: float,
    batch_bytes: int = LARGEST_BATCH_BYTES,
) -> dict[str, Any]:
    """:param batch_bytes: what each output topic takes; a larger batch is refused as a whole."""
    return {
        **common_properties(kafka, transactional_id),
        # The broker takes a step of a transaction again while the last one's tail is written;
        # librdkafka's default of 100 ms would be waited for at nearly each of them.
        "retry.backoff.ms": 1,
        "retry.backoff.max.ms": 5,
        "linger.ms": 1,
        "compression.type": "lz4",
        "message.max.bytes": 100_000_000,
        # A topic that does not exist is told of before the commit's time-out.
        "topic.metadata.propagation.max.ms": 4_000,
        "queue.buffering.max.messages": 1_000_000,
        **kafka.producer,
        "batch.size": min(batch_bytes, int(kafka.producer.get("batch.size", LARGEST_BATCH_BYTES))),
        "transactional.id": transactional_id,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "transaction.timeout.ms": int(transaction_timeout_seconds * 1_000),
        "socket.timeout.ms": SOCKET_TIMEOUT_MILLISECONDS,
        "delivery.report.only.error": True,
        **CONNECTION_LINES,
    }


def _quiet_logger(name: str) -> logging.Logger:
    """What librdkafka has to say, in the log at debug level; errors arrive as events."""
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
