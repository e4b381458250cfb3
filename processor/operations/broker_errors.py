"""What Kafka's errors mean to somebody at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException

from processor.errors import ConfigurationError, ProcessorError, Unreachable

_AUTHENTICATION = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_FORBIDDEN = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
_PASSING = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    # A leader is being elected, or the topic is so new that not every broker knows it.
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
)


class ForbiddenError(ConfigurationError):
    """The broker's ACLs do not let the configured user ask this."""


def explained(error: KafkaException, doing: str, servers: str) -> ProcessorError:
    """What a failed request means to a user."""
    cause = error.args[0]
    if cause.code() in _PASSING:
        return Unreachable(f"Kafka at {servers}: {doing}: {cause.str()}")
    if cause.code() in _FORBIDDEN:
        return ForbiddenError(f"Kafka at {servers}: {doing}: not allowed; grant it to the user")
    return ConfigurationError(f"Kafka at {servers}: {doing}: {cause.str()}")


def unreachable(error: KafkaError, reported: Sequence[KafkaError], servers: str) -> ProcessorError:
    """Why the cluster does not answer; the cause comes only through what the client reported."""
    for cause in reported:
        if cause.code() in _AUTHENTICATION:
            return ConfigurationError(
                f"Kafka at {servers} refuses the connection: {_reason(cause)};"
                " see kafka.client (security.protocol, sasl.*, ssl.*)"
            )
    causes = [cause for cause in reported if cause.code() != KafkaError._ALL_BROKERS_DOWN]
    return Unreachable(f"Kafka at {servers} does not answer: {_reason((causes or [error])[0])}")


def _reason(error: KafkaError) -> str:
    """librdkafka's text without the broker's name before it and the state after it."""
    text = str(error.str()).split(" (after ")[0]
    return text.split(": ", 1)[-1]
