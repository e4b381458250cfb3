"""Sends users' events to Kafka.

::

    with UserEventProducer("localhost:9092") as producer:
        producer.send_user_event(42, "page_view", {"page": "/home", "duration": 1.5})
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from confluent_kafka import KafkaError, KafkaException, Producer

from pipelines.user_events.events import OtherEvent, whole_number
from processor.errors import ConfigurationError, Exit, ProcessorError, Unreachable
from processor.settings import refuse_owned

USER_EVENTS = "user-events"
POLL_SECONDS = 0.1
FLUSH_SLACK_SECONDS = 5.0
"""How much later than its delivery time-out an event's report may come."""


class Failure(NamedTuple):
    """An event that was not delivered, and why."""

    event_id: UUID
    reason: str


class DeliveryError(ProcessorError):
    """Some events are not in Kafka, or it is not known whether they are.

    ``failures`` names each of them once; they can be sent again with the same ``event_id``.
    """

    exit_code = Exit.VERDICT

    def __init__(self, failures: list[Failure]) -> None:
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(f"event {first.event_id} was not delivered: {first.reason}{more}")
        self.failures = failures


class UserEventProducer:
    """An idempotent producer of user events, keyed by user.

    Events are sent in the background, and counted: ``delivered``, ``failed``, ``pending``. What
    could not be delivered raises :class:`DeliveryError` at the next call, at :meth:`flush` and at
    the end of the ``with`` block. Not for use by several threads at once.

    Kafka refuses whole batches: where a topic's ``max.message.bytes`` is below its default of
    1 MB, set ``batch.size`` to less than that.

    :param bootstrap_servers: ``host:port`` of one or more brokers, with commas between.
    :param delivery_timeout_seconds: after which an event that no broker took has failed.
    :param client: properties of librdkafka, as ``{"security.protocol": "SSL"}``; those that the
        delivery rests on cannot be set.
    :raises ConfigurationError: for a property that is unknown or must not be set.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str = USER_EVENTS,
        *,
        delivery_timeout_seconds: float = 30.0,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        self.topic = topic
        self.delivered = 0
        self.failed = 0
        self.pending = 0
        """Events that have been sent and whose delivery is not known yet."""
        self._failures: list[Failure] = []
        self._patience = delivery_timeout_seconds + FLUSH_SLACK_SECONDS
        self._producer = _producer(
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "delivery.timeout.ms": round(delivery_timeout_seconds * 1_000),
                **dict(client or {}),
            },
            bootstrap_servers,
        )

    def send_user_event(
        self,
        user_id: int | str,
        event_type: str,
        event_data: Mapping[str, Any],
        *,
        timestamp: datetime | None = None,
        event_id: UUID | None = None,
    ) -> UUID:
        """Hand one event over for delivery; returns its id.

        :param user_id: a whole number or its digits; also the key, so that a user's events keep
            their order.
        :param timestamp: now unless given; UTC where it names no zone.
        :param event_id: a new one unless given.
        :raises ValueError: when the event is one that no consumer could store; it is not sent.
        :raises DeliveryError: when earlier events have failed, or this one cannot be sent; this
            one is not sent in either case.
        :raises Unreachable: when the queue stayed full for the delivery time-out.
        """
        self._producer.poll(0)
        self._raise_failures()
        event = OtherEvent(
            user_id=whole_number("user_id", user_id),
            event_type=event_type,
            event_data=dict(event_data),
            timestamp=timestamp or datetime.now(UTC),
            event_id=event_id or uuid4(),
        )
        assert event.event_id is not None
        self._enqueue(event.event_id, str(event.user_id).encode(), event.json)
        return event.event_id

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every event is delivered or has failed.

        :param timeout: in seconds; unless given, a little longer than the delivery time-out.
        :raises DeliveryError: when events have failed.
        :raises Unreachable: when the time is over; the events left are still being tried.
        """
        self._producer.flush(self._patience if timeout is None else timeout)
        self._raise_failures()
        if self.pending:
            raise Unreachable(f"{self.pending} events for {self.topic!r} are not delivered yet")

    def __enter__(self) -> UserEventProducer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush. An exception from the block stays the one that is raised, with a note."""
        try:
            self.flush()
        except (DeliveryError, Unreachable) as undelivered:
            if error is None:
                raise
            error.add_note(str(undelivered))

    def _enqueue(self, event_id: UUID, key: bytes, value: bytes) -> None:
        """Hand over to librdkafka; while its queue is full, wait for deliveries."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._producer.produce(
                    self.topic, key=key, value=value, on_delivery=self._reported(event_id)
                )
            except BufferError:
                if time.monotonic() > deadline:
                    raise Unreachable(f"the queue for {self.topic!r} stays full") from None
                self._producer.poll(POLL_SECONDS)
            except KafkaException as error:
                self._note_failure(event_id, error.args[0])
                self._raise_failures()
            else:
                self.pending += 1
                return

    def _reported(self, event_id: UUID) -> Callable[[KafkaError | None, Any], None]:
        def report(error: KafkaError | None, message: Any) -> None:  # noqa: ARG001
            self.pending -= 1
            if error is None:
                self.delivered += 1
            else:
                self._note_failure(event_id, error)

        return report

    def _note_failure(self, event_id: UUID, error: KafkaError) -> None:
        self.failed += 1
        self._failures.append(Failure(event_id, f"{error.name()}: {error.str()}"))

    def _raise_failures(self) -> None:
        if self._failures:
            failures, self._failures = self._failures, []
            raise DeliveryError(failures)


def _producer(properties: dict[str, Any], bootstrap_servers: str) -> Producer:
    try:
        configuration = refuse_owned(properties) | {
            "bootstrap.servers": bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            # The same partition for a key as Java's clients choose.
            "partitioner": "murmur2_random",
        }
        return Producer(configuration, logger=_quiet())
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except KafkaException as error:
        raise ConfigurationError(f"producer: {error.args[0].str()}") from None


def _quiet() -> logging.Logger:
    """librdkafka would write to stderr what delivery errors tell."""
    logger = logging.getLogger("user_events.producer")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
