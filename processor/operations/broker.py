"""What the commands ask of Kafka, as plain values, with errors that say what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    RESOURCE_BROKER,
    RESOURCE_TOPIC,
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from processor.errors import ConfigurationError, Unreachable
from processor.operations.broker_errors import ForbiddenError, explained, unreachable
from processor.operations.database import PATIENCE_SECONDS, Notify, patiently, silent
from processor.settings import Settings

T = TypeVar("T")
Place = tuple[str, int]
"""A topic and a partition number."""

REQUEST_TIMEOUT_SECONDS = 10.0
ATTEMPT_SECONDS = 3.0

_EARLIEST = OffsetSpec.earliest()
_LATEST = OffsetSpec.latest()


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it."""

    name: str
    topic_id: str
    partitions: int
    replication: int
    """Of the partition that has the fewest replicas."""
    in_sync: int
    """Of the partition that has the fewest replicas in sync."""
    operations: frozenset[str] = frozenset()
    """What the configured user may do, as ``READ`` or ``WRITE``; empty where it was not told."""


@dataclass(frozen=True, slots=True)
class Cluster:
    cluster_id: str
    brokers: tuple[int, ...]
    operations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Offset:
    """A group's committed offset; ``offset`` is None where none is committed."""

    offset: int | None
    metadata: str = ""
    pending: bool = False
    """A transaction is about to change it; the broker does not tell it before."""


class Broker:
    """The configured cluster, asked through one admin client.

    The client is kept for as long as this object: its futures never end without it.
    """

    def __init__(self, settings: Settings) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._errors: list[KafkaError] = []
        self._coordinated: set[str] = set()
        configuration: dict[str, Any] = {
            **settings.kafka.client,
            "bootstrap.servers": self._servers,
            "error_cb": self._errors.append,
            "logger": _silent_logger(),
        }
        try:
            self._admin = AdminClient(configuration)
        except KafkaException as error:
            raise ConfigurationError(f"kafka.client: {error.args[0].str()}") from error

    def wait(self, patience: float = PATIENCE_SECONDS, notify: Notify = silent) -> None:
        """Return when the cluster answers.

        :raises Unreachable: when it has not within ``patience`` seconds.
        :raises ConfigurationError: at once when it refuses the credentials.
        """
        for attempt in patiently(patience, notify):
            with attempt:
                self._reach(min(patience, ATTEMPT_SECONDS))

    def cluster(self) -> Cluster:
        future = self._admin.describe_cluster(
            include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        found = self._result(future, "describing the cluster")
        brokers = tuple(sorted(node.id for node in found.nodes))
        return Cluster(found.cluster_id or "", brokers, _operations(found))

    def names(self) -> list[str]:
        """All topics but Kafka's own."""
        topics = self._guarded(
            lambda: self._admin.list_topics(timeout=REQUEST_TIMEOUT_SECONDS), "listing topics"
        ).topics
        return sorted(name for name in topics if not name.startswith("__"))

    def topics(self, names: Iterable[str]) -> dict[str, Topic | None]:
        """Each topic, None where there is none.

        :raises ForbiddenError: when one may not be described.
        """
        found: dict[str, Topic | None] = {}
        for name, topic in self.visible_topics(names).items():
            if isinstance(topic, ForbiddenError):
                raise topic
            found[name] = topic
        return found

    def visible_topics(self, names: Iterable[str]) -> dict[str, Topic | ForbiddenError | None]:
        """Each topic, None where there is none, or that it may not be described."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        futures = self._admin.describe_topics(
            TopicCollection(wanted),
            include_authorized_operations=True,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
        return {name: self._topic(name, future) for name, future in futures.items()}

    def create(self, topic: str, partitions: int, replication: int, config: dict[str, str]) -> bool:
        """Create a topic and wait until it can be seen; False if there is one already."""
        new = NewTopic(topic, partitions, replication, config=config)
        future = self._admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_SECONDS)[topic]
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise explained(error, f"creating topic {topic!r}", self._servers) from error
        for attempt in patiently(REQUEST_TIMEOUT_SECONDS):
            with attempt:
                if self.topics([topic])[topic] is None:
                    raise Unreachable(f"topic {topic!r} was created but cannot be seen yet")
        return True

    def topic_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """The effective configuration of each topic."""
        return {name: self._config(RESOURCE_TOPIC, name) for name in names}

    def broker_config(self, broker: int) -> dict[str, str]:
        return self._config(RESOURCE_BROKER, str(broker))

    def group_operations(self, group: str) -> frozenset[str]:
        """What the configured user may do with a group, which need not exist."""

        def ask() -> frozenset[str]:
            futures = self._admin.describe_consumer_groups(
                [group], include_authorized_operations=True, request_timeout=REQUEST_TIMEOUT_SECONDS
            )
            return _operations(self._result(futures[group], f"describing group {group!r}"))

        return again(ask)

    def committed(self, group: str, places: Sequence[Place]) -> dict[Place, Offset]:
        """The group's committed offsets, read stable: none that a transaction may still change."""
        if not places:
            return {}
        found = self._group_offsets(group, [TopicPartition(*place) for place in places])
        return {(p.topic, p.partition): self._offset(p) for p in found}

    def committed_places(self, group: str) -> list[Place]:
        """The partitions that the group has committed an offset of."""
        return [(p.topic, p.partition) for p in self._group_offsets(group, None)]

    def log_starts(self, places: Sequence[Place]) -> dict[Place, int]:
        return self._log_offsets(places, _EARLIEST)

    def log_ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The high watermark of each partition."""
        return self._log_offsets(places, _LATEST)

    def _group_offsets(
        self, group: str, places: list[TopicPartition] | None
    ) -> list[TopicPartition]:
        """Of all partitions that have one where no places are named."""
        self._await_coordinator(group)

        def ask() -> list[TopicPartition]:
            futures = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, places)],
                require_stable=places is not None,
                request_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            found = self._result(futures[group], f"reading the offsets of group {group!r}")
            return list(found.topic_partitions)

        return again(ask)

    def _await_coordinator(self, group: str) -> None:
        """Ask something harmless of the group's coordinator, once, until it answers.

        An admin client that asks a coordinator for offsets while that is being elected or loaded
        ends the process: librdkafka then wants to tell a consumer's group, which it has not.
        """
        if group not in self._coordinated:
            self.group_operations(group)
            self._coordinated.add(group)

    def _log_offsets(self, places: Sequence[Place], at: OffsetSpec) -> dict[Place, int]:
        def ask() -> dict[Place, int]:
            futures = self._admin.list_offsets(
                {TopicPartition(*place): at for place in places},
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            return {
                (p.topic, p.partition): self._result(future, f"reading the log of {p.topic}").offset
                for p, future in futures.items()
            }

        return again(ask) if places else {}

    def _reach(self, seconds: float) -> None:
        self._errors.clear()
        try:
            self._admin.list_topics(timeout=seconds)
        except KafkaException as error:
            self._admin.poll(0)
            raise unreachable(error.args[0], self._errors, self._servers) from error

    def _topic(self, name: str, future: Future[Any]) -> Topic | ForbiddenError | None:
        try:
            found = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            told = explained(error, f"describing topic {name!r}", self._servers)
            if isinstance(told, ForbiddenError):
                return told
            raise told from error
        return Topic(
            name,
            str(found.topic_id),
            len(found.partitions),
            min((len(p.replicas) for p in found.partitions), default=0),
            min((len(p.isr) for p in found.partitions), default=0),
            _operations(found),
        )

    def _config(self, kind: Any, name: str) -> dict[str, str]:
        resource = ConfigResource(kind, name)
        future = self._admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_SECONDS)[
            resource
        ]
        entries = self._result(future, f"reading the configuration of {name!r}")
        return {key: entry.value for key, entry in entries.items() if entry.value is not None}

    def _offset(self, found: TopicPartition) -> Offset:
        if found.error is not None:
            if found.error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT:
                return Offset(None, pending=True)
            raise explained(KafkaException(found.error), "reading an offset", self._servers)
        if found.offset < 0:
            return Offset(None)
        return Offset(found.offset, found.metadata or "")

    def _result(self, future: Future[T], doing: str) -> T:
        return self._guarded(future.result, doing)

    def _guarded(self, call: Callable[[], T], doing: str) -> T:
        try:
            return call()
        except KafkaException as error:
            raise explained(error, doing, self._servers) from error


def again(ask: Callable[[], T]) -> T:
    """Ask, and again for a while where a leader or a coordinator is only just being elected."""
    for attempt in patiently(PATIENCE_SECONDS):
        with attempt:
            return ask()
    raise AssertionError("unreachable: the last attempt raises")


def _operations(found: Any) -> frozenset[str]:
    return frozenset(operation.name for operation in found.authorized_operations or ())


def _silent_logger() -> logging.Logger:
    """librdkafka would write on stderr what we tell in one line."""
    logger = logging.getLogger("processor.librdkafka")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
