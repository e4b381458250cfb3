"""The group's topic of replays: made when it is first needed."""

from __future__ import annotations

from processor.errors import ConfigurationError
from processor.operations.broker import Broker
from processor.operations.database import PATIENCE_SECONDS
from processor.operations.topics import BROKER_DEFAULT
from processor.settings import Settings

PARTITIONS = 12
"""Letters of one key stay in order; others are spread over so many."""
CONFIG = {"retention.ms": "-1", "cleanup.policy": "delete"}
"""Triggers are small, and one that is lost before it was read would stop its partition."""


def require_topic(settings: Settings, topic: str) -> bool:
    """Create it unless it exists; True when it was created.

    :raises ProcessorError: when Kafka does not answer, or does not let us.
    """
    broker = Broker(settings)
    broker.wait(min(PATIENCE_SECONDS, settings.start_timeout_seconds))
    return create_topic(broker, topic)


def create_topic(broker: Broker, topic: str, replication: int = BROKER_DEFAULT) -> bool:
    """As :func:`require_topic`, through a broker that answers."""
    if broker.topics([topic])[topic] is not None:
        return False
    try:
        return broker.create(topic, PARTITIONS, replication, CONFIG)
    except ConfigurationError as error:
        raise ConfigurationError(f"the topic of replays cannot be created: {error}") from None
