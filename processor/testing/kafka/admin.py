"""The admin client: what the engine uses of ``confluent_kafka.admin.AdminClient``.

A call does its request at once, and the futures that it returns are done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)

from processor.testing.kafka.broker import Broker
from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused, failure, timed_out
from processor.testing.kafka.log import DEFAULT_MAX_MESSAGE_BYTES, PartitionLog
from processor.testing.network import Network, RequestLost, RequestTimedOut

T = TypeVar("T")
EARLIEST, LATEST = -2, -1
CONFIG_DEFAULTS = {
    "max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES),
    "cleanup.policy": "delete",
    "message.timestamp.type": "CreateTime",
}


class ClusterDescription(NamedTuple):
    cluster_id: str


class TopicDescription(NamedTuple):
    name: str
    topic_id: str
    partitions: Sequence[int]


class OffsetResult(NamedTuple):
    offset: int


class GroupOffset(NamedTuple):
    """As a TopicPartition, whose ``error`` only the real client can set."""

    topic: str
    partition: int
    offset: int
    metadata: str | None
    error: KafkaError | None


class GroupOffsets(NamedTuple):
    topic_partitions: list[GroupOffset]


class ConfigEntry(NamedTuple):
    value: str


class Future(Generic[T]):
    """One that is done; those of ``concurrent.futures`` cost locks, which nobody needs here."""

    def __init__(self, value: T | None = None, error: BaseException | None = None) -> None:
        self._value: Any = value
        self._error = error

    def result(self, timeout: float | None = None) -> T:  # noqa: ARG002
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:  # noqa: ARG002
        return self._error


class AdminClient:
    """One request at a time, given up after its time-out and never sent again."""

    def __init__(
        self, broker: Broker, network: Network, logger: logging.Logger | None = None
    ) -> None:
        self._broker = broker
        self._connection = Connection(broker, network, logger)

    def poll(self, timeout: float = 0) -> int:  # noqa: ARG002
        self._connection.tell()
        return 0

    def describe_cluster(self, *, request_timeout: float) -> Future[ClusterDescription]:
        return self._ask(
            "DescribeCluster", lambda: ClusterDescription(self._broker.cluster_id), request_timeout
        )

    def describe_topics(
        self, topics: TopicCollection, *, request_timeout: float
    ) -> dict[str, Future[TopicDescription]]:
        names = [str(name) for name in topics.topic_names]
        return self._ask_each("DescribeTopics", names, self._describe, request_timeout)

    def describe_configs(
        self, resources: Sequence[Any], *, request_timeout: float
    ) -> dict[Any, Future[dict[str, ConfigEntry]]]:
        return self._ask_each("DescribeConfigs", resources, self._config, request_timeout)

    def list_offsets(
        self,
        requested: Mapping[TopicPartition, Any],
        *,
        isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
        request_timeout: float,
    ) -> dict[TopicPartition, Future[OffsetResult]]:
        committed = isolation_level == IsolationLevel.READ_COMMITTED

        def offset(partition: TopicPartition) -> OffsetResult:
            log = self._broker.log(partition.topic, partition.partition)
            return OffsetResult(_offset(log, requested[partition]._value, committed))

        return self._ask_each("ListOffsets", list(requested), offset, request_timeout)

    def describe_consumer_groups(
        self,
        groups: Sequence[str],
        *,
        request_timeout: float,  # noqa: ARG002
    ) -> dict[str, Future[None]]:
        """Costs no time here, and never fails: nothing hangs on what it says."""
        return {group: Future(None) for group in groups}

    def list_consumer_group_offsets(
        self, requests: Sequence[Any], *, require_stable: bool = False, request_timeout: float
    ) -> dict[str, Future[GroupOffsets]]:
        [request] = requests
        group = str(request.group_id)
        answer = self._ask(
            "OffsetFetch",
            lambda: GroupOffsets(
                [
                    self._group_offset(group, each.topic, each.partition, require_stable)
                    for each in request.topic_partitions
                ]
            ),
            request_timeout,
        )
        return {group: answer}

    def _describe(self, name: str) -> TopicDescription:
        topic = self._broker.topics.get(name)
        if topic is None:
            raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return TopicDescription(name, topic.topic_id, range(len(topic.partitions)))

    def _config(self, resource: Any) -> dict[str, ConfigEntry]:
        topic = self._broker.topics.get(resource.name)
        if topic is None:
            raise Refused(KafkaError.UNKNOWN_TOPIC_OR_PART)
        values = CONFIG_DEFAULTS | topic.config
        return {name: ConfigEntry(value) for name, value in values.items()}

    def _group_offset(
        self, group: str, topic: str, number: int, require_stable: bool
    ) -> GroupOffset:
        found, pending = self._broker.committed(group, topic, number)
        if require_stable and pending:
            error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)
            return GroupOffset(topic, number, OFFSET_INVALID, None, error)
        if found is None:
            return GroupOffset(topic, number, OFFSET_INVALID, "", None)
        return GroupOffset(topic, number, found.offset, found.metadata, None)

    def _ask(self, name: str, serve: Callable[[], T], timeout: float) -> Future[T]:
        try:
            return Future(self._connection.call(name, serve, timeout))
        except RequestLost:
            return Future(error=failure(KafkaError._TRANSPORT, f"{name}: connection lost"))
        except RequestTimedOut:
            return Future(error=timed_out(name))
        except Refused as refusal:
            return Future(error=failure(refusal.code))

    def _ask_each(
        self, name: str, keys: Sequence[Any], serve: Callable[[Any], T], timeout: float
    ) -> dict[Any, Future[T]]:
        """One request; a key that is refused fails alone."""

        def attempt(key: Any) -> T | KafkaException:
            try:
                return serve(key)
            except Refused as refusal:
                return failure(refusal.code)

        answer = self._ask(name, lambda: [attempt(key) for key in keys], timeout)
        error = answer.exception()
        if error is not None:
            return {key: Future(error=error) for key in keys}
        return {
            key: Future(error=found) if isinstance(found, BaseException) else Future(found)
            for key, found in zip(keys, answer.result(), strict=True)
        }


def _offset(log: PartitionLog, asked: int, committed: bool) -> int:
    """Of an OffsetSpec: earliest, latest, or a time in milliseconds."""
    if asked == EARLIEST:
        return log.start
    return log.end_for(committed) if asked == LATEST else log.offset_at(asked)
