"""What Kafka knows: topic ids, K with its metadata (read stable), the ranges of logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from processor.engine.batch import Committed, LogRange, Partition
from processor.engine.clients import LogLines
from processor.engine.failures import ReadFailed
from processor.engine.steps import Step, Steps

READ_TIMEOUT_SECONDS = 5.0
UNSTABLE = "unstable"
"""Said of an offset while a transaction that moves it is pending."""

ANSWERS_OF_A_COORDINATOR = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.GROUP_AUTHORIZATION_FAILED)
"""Refusals after which offsets may be asked for: the coordinator does not know the group, or its
offsets are refused as well, which is told as it is."""

ANSWERS_OF_A_TOPIC = ("UNKNOWN_TOPIC", "TOPIC_AUTHORIZATION_FAILED")
"""Refusals of a broker that answers: there is nothing wrong with the connection."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    topic_id: str
    partitions: int


class Cluster:
    """Readings through the admin client; each raises :class:`ReadFailed` or says whose failed.

    The client is made anew after it has lost a connection: it would go on asking for the group's
    coordinator at a broker handle that is gone, in vain for good (librdkafka issue 5511), and such
    a request, once timed out, ends the process when the next connection is lost (an assertion).
    """

    def __init__(
        self, make_admin: Callable[[logging.Logger], Any], group_id: str, steps: Steps
    ) -> None:
        self._make_admin = make_admin
        self._lines = LogLines()
        self._current = make_admin(self._lines.logger())
        self._last: Any = None
        self._group_id = group_id
        self._steps = steps

    def cluster_id(self) -> str:
        with self._steps.step(Step.READ_TOPICS):
            described = self._result(
                self._admin().describe_cluster(request_timeout=READ_TIMEOUT_SECONDS)
            )
        return str(described.cluster_id)

    def topics(self, names: Collection[str]) -> dict[str, TopicFacts | str]:
        """Id and partition count of each topic, or why they could not be read."""
        with self._steps.step(Step.READ_TOPICS):
            futures = self._admin().describe_topics(
                TopicCollection(sorted(names)), request_timeout=READ_TIMEOUT_SECONDS
            )
            found: dict[str, TopicFacts | str] = {}
            for name, future in futures.items():
                try:
                    described = future.result(READ_TIMEOUT_SECONDS + 1)
                except (KafkaException, TimeoutError) as error:
                    found[name] = told(error)
                else:
                    found[name] = TopicFacts(str(described.topic_id), len(described.partitions))
            errors = [each for each in found.values() if isinstance(each, str)]
            if not all(any(answer in each for answer in ANSWERS_OF_A_TOPIC) for each in errors):
                self._begin_anew()
        return found

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, Committed | str]:
        """K and M of each partition, or why it is not known.

        Read stable: while a transaction that moves K is pending the broker says so, for that
        partition alone and at once.
        """
        request = ConsumerGroupTopicPartitions(
            self._group_id, [TopicPartition(*partition) for partition in sorted(partitions)]
        )
        with self._steps.step(Step.READ_OFFSETS):
            admin = self._admin()
            try:
                self._await_coordinator(admin)
                future = admin.list_consumer_group_offsets(
                    [request], require_stable=True, request_timeout=READ_TIMEOUT_SECONDS
                )[self._group_id]
                answer = future.result(READ_TIMEOUT_SECONDS + 1).topic_partitions
            except (KafkaException, TimeoutError) as error:
                self._begin_anew()
                return dict.fromkeys(partitions, told(error))
        found: dict[Partition, Committed | str] = dict.fromkeys(partitions, "no answer")
        for each in answer:
            found[Partition(each.topic, each.partition)] = _committed(each)
        return found

    def _await_coordinator(self, admin: Any) -> None:
        """Ask the group's coordinator something harmless first.

        An admin client ends the process when a broker that is not the coordinator, or not yet, is
        asked for offsets: librdkafka wants to tell a consumer's group then, which an admin client
        has not (librdkafka issue 5040; seen at one restart of a broker in seven).

        :raises KafkaException: when it does not answer as the coordinator.
        """
        future = admin.describe_consumer_groups(
            [self._group_id], request_timeout=READ_TIMEOUT_SECONDS
        )[self._group_id]
        try:
            future.result(READ_TIMEOUT_SECONDS + 1)
        except KafkaException as error:
            if error.args[0].code() not in ANSWERS_OF_A_COORDINATOR:
                raise

    def log_ranges(self, partitions: Collection[Partition]) -> dict[Partition, LogRange]:
        """S and E of each partition; those that could not be read are missing."""
        with self._steps.step(Step.READ_LOG):
            starts = self._offsets(partitions, OffsetSpec.earliest())
            ends = self._offsets(partitions, OffsetSpec.latest())
        return {
            partition: LogRange(starts[partition], ends[partition])
            for partition in partitions
            if partition in starts and partition in ends
        }

    def positions(
        self, partitions: Collection[Partition], start_from: str | int
    ) -> dict[Partition, int]:
        """Where a first start begins: ``earliest``, ``latest`` (the last stable offset) or a time.

        :param start_from: a time in milliseconds, or a word.
        :raises ReadFailed: unless all could be read.
        """
        with self._steps.step(Step.READ_LOG):
            stable = self._offsets(partitions, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
            if start_from == "latest":
                found = stable
            elif start_from == "earliest":
                found = self._offsets(partitions, OffsetSpec.earliest())
            else:
                found = self._offsets(partitions, OffsetSpec.for_timestamp(int(start_from)))
        if set(found) != set(partitions) or set(stable) != set(partitions):
            raise ReadFailed("the start positions could not be read")
        # No message is that late: Kafka answers -1, which means the end.
        return {each: stable[each] if at < 0 else at for each, at in found.items()}

    def _offsets(
        self,
        partitions: Collection[Partition],
        spec: Any,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[Partition, int]:
        futures: Mapping[Any, Future[Any]] = self._admin().list_offsets(
            {TopicPartition(*partition): spec for partition in partitions},
            isolation_level=isolation,
            request_timeout=READ_TIMEOUT_SECONDS,
        )
        found = {}
        for each, future in futures.items():
            try:
                result = future.result(READ_TIMEOUT_SECONDS + 1)
            except (KafkaException, TimeoutError):
                continue
            found[Partition(each.topic, each.partition)] = int(result.offset)
        return found

    def _admin(self) -> Any:
        """The admin client; another one if it has lost a connection."""
        self._current.poll(0)
        if self._lines.suspicious:
            self._begin_anew()
        return self._current

    def _begin_anew(self) -> None:
        """The last one is kept for a while, because its futures may be open."""
        self._last, self._lines = self._current, LogLines()
        self._current = self._make_admin(self._lines.logger())

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result(READ_TIMEOUT_SECONDS + 1)
        except (KafkaException, TimeoutError) as error:
            raise ReadFailed(told(error)) from None


def _committed(answer: Any) -> Committed | str:
    error: KafkaError | None = answer.error
    if error is not None:
        why = UNSTABLE if error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT else "not known yet"
        return f"the offset is {why}: {error.str()}"
    if answer.offset < 0:
        return Committed(None, None)
    return Committed(answer.offset, answer.metadata)


def told(error: BaseException) -> str:
    """A Kafka error in one line."""
    if isinstance(error, KafkaException) and error.args:
        inner = error.args[0]
        return f"{inner.name()}: {inner.str()}" if isinstance(inner, KafkaError) else str(inner)
    return str(error) or type(error).__name__
