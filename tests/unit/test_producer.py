"""What a failed call of the Kafka transaction is told as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from processor.engine.failures import PublishDoubt
from processor.engine.producer import TransactionalProducer
from tests.support.engine import free_steps

TOO_LARGE = KafkaError.MSG_SIZE_TOO_LARGE


class Refused:
    """A message that its topic did not take."""

    def topic(self) -> str:
        return "small"


class Client:
    """Its commit fails; the delivery report comes some polls later."""

    def __init__(self, delivered: Callable[[KafkaError, Any], None], code: int, at: int) -> None:
        self.polls = 0
        self._delivered, self._code, self._at = delivered, code, at

    def commit_transaction(self, _timeout: float) -> None:
        raise KafkaException(KafkaError(self._code))

    def poll(self, _timeout: float) -> int:
        self.polls += 1
        if self.polls == self._at:
            self._delivered(KafkaError(TOO_LARGE), Refused())
        return 0


class Clients:
    def __init__(self, code: int, at: int) -> None:
        self._code, self._at = code, at

    def producer(self, _id: str, _seconds: float, _log: Any, delivered: Any, _failed: Any) -> Any:
        self.client = Client(delivered, self._code, self._at)
        return self.client


def committing(clients: Any) -> PublishDoubt:
    producer = TransactionalProducer(clients, "id", 12.0, free_steps())
    with pytest.raises(PublishDoubt) as doubt:
        producer.commit()
    return doubt.value


@pytest.mark.parametrize("at", [1, 2, 30])
def test_a_refused_outputs_topic_is_named_though_the_report_is_late(at: int) -> None:
    assert committing(Clients(TOO_LARGE, at)).refused == {"small"}


def test_no_report_is_waited_for_where_nothing_was_refused() -> None:
    clients = Clients(KafkaError._TIMED_OUT, 100)
    doubt = committing(clients)
    assert (doubt.refused, doubt.timed_out, clients.client.polls) == (frozenset(), True, 1)
