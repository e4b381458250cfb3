"""Implements :class:`processor.engine.clients.Clients` over the broker in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from processor.engine.clients import (
    LARGEST_BATCH_BYTES,
    Background,
    consumer_properties,
    producer_properties,
)
from processor.settings import Kafka
from processor.testing.kafka.admin import AdminClient
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.consumer import Consumer
from processor.testing.kafka.producer import Producer
from processor.testing.network import Network


class SimulatedClients:
    """The engine's own properties decide about ids and time-outs, as they do for the real ones."""

    incremental = False

    def __init__(
        self, broker: Broker, network: Network, kafka: Kafka, group_id: str, slot: str
    ) -> None:
        self.batch_bytes = LARGEST_BATCH_BYTES
        self._broker = broker
        self._network = network
        self._kafka = kafka
        self._group_id = group_id
        self._slot = slot
        time = network.time
        self.background: Background = lambda call: time.spawn(time.process, call)
        """A task of the process that asks."""

    def consumer(self, on_error: Callable[[Any], None]) -> Consumer:
        properties = consumer_properties(self._kafka, self._group_id, self._slot)
        return Consumer(properties | {"error_cb": on_error}, self._broker, self._network)

    def producer(
        self,
        transactional_id: str,
        transaction_timeout_seconds: float,
        logger: logging.Logger,
        on_delivery: Callable[[Any, Any], None],
        on_error: Callable[[Any], None],
    ) -> Producer:
        properties = producer_properties(
            self._kafka, transactional_id, transaction_timeout_seconds, self.batch_bytes
        )
        properties |= {"on_delivery": on_delivery, "error_cb": on_error}
        return Producer(properties, self._broker, self._network, logger)

    def admin(self, logger: logging.Logger) -> AdminClient:
        return AdminClient(self._broker, self._network, logger)
