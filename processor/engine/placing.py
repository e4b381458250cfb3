"""What the client fetches, and from where: each partition at the offset that recovery has said.

The client fetches nothing of what the group has assigned to this member before that: an assignment
is taken empty, and :meth:`Placing.start` adds each partition at its H. Were it taken at once, at
whatever position and paused, then the client could go there after it was sought to H: a look-up of
the log's end outlives a seek in librdkafka, and ends in a silent jump.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.engine.batch import Partition
from processor.engine.clock import Clock
from processor.engine.failures import Doubt

VALIDATE_TIMES, VALIDATE_PAUSE_SECONDS = 100, 0.01
"""What is assigned begins once what was assigned before has stopped."""

Targets = Mapping[Partition, TopicPartition]


class Placing:
    """The client's side of the assignment."""

    def __init__(self, client: Any, incremental: bool, clock: Clock) -> None:
        self._client = client
        self._incremental = incremental
        self._clock = clock
        self._fetched: set[Partition] = set()
        """What the client has been given to fetch, paused or not."""

    def assigned(self) -> None:
        """Take an assignment, inside its callback. An eager one replaces all that was before."""
        if self._incremental:
            self._client.incremental_assign([])
        else:
            self._client.assign([])
            self._fetched.clear()

    def revoked(self, gone: Collection[Partition]) -> None:
        """Give partitions back, inside the callback. An eager member gives all back."""
        if self._incremental:
            self._remove(self._fetched.intersection(gone))
        else:
            self._client.unassign()
            self._fetched.clear()

    def start(self, targets: Targets, flowing: Targets) -> None:
        """Fetch from these offsets on.

        :param flowing: where other partitions go on from, which are being fetched.
        :raises Doubt: when the client does not begin with one.
        :raises KafkaException: when the client does not take it.
        """
        added = {p: t for p, t in targets.items() if p not in self._fetched or not self._seek(t)}
        if added and self._incremental:
            self._add(added)
        elif added:
            self._replace({**flowing, **targets})
        self._client.resume(list(map(partition_only, targets)))

    def pause(self, partitions: Iterable[Partition]) -> None:
        paused = [partition_only(p) for p in partitions if p in self._fetched]
        if paused:
            self._client.pause(paused)

    def _seek(self, target: TopicPartition) -> bool:
        """False: the client has given the partition up, after an offset that the log lacks, or has
        not begun with it yet.
        """
        try:
            self._client.seek(target)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._STATE:
                return False
            raise
        return True

    def _add(self, added: Targets) -> None:
        again = self._fetched & added.keys()
        if again:  # given up by the client; an empty change would answer an untold revocation
            self._remove(again)
        self._client.incremental_assign(list(added.values()))
        self._fetched |= added.keys()
        self._validate(added)

    def _replace(self, whole: Targets) -> None:
        """An eager member's assignment is told whole: what is held leaves it."""
        self._client.assign(list(whole.values()))
        self._fetched = set(whole)
        self._validate(whole)

    def _validate(self, placed: Targets) -> None:
        """Have the logs' leader epochs compared with the targets': librdkafka does so when they are
        sought, not when they are assigned.
        """
        for partition, target in placed.items():
            if target.leader_epoch is not None:
                self._seek_patiently(partition, target)

    def _seek_patiently(self, partition: Partition, target: TopicPartition) -> None:
        for _ in range(VALIDATE_TIMES):
            if self._seek(target):
                return
            self._clock.sleep(VALIDATE_PAUSE_SECONDS)
        raise Doubt(f"the client does not begin with {partition}")

    def _remove(self, gone: Collection[Partition]) -> None:
        self._client.incremental_unassign(list(map(partition_only, gone)))
        self._fetched.difference_update(gone)


def placed_at(partition: Partition, offset: int, epoch: int | None = None) -> TopicPartition:
    """Where to fetch from; with the leader epoch of what was read before it, as far as known."""
    if epoch is None:
        return TopicPartition(*partition, offset)
    return TopicPartition(*partition, offset, leader_epoch=epoch)


def partition_only(partition: Partition) -> TopicPartition:
    return TopicPartition(*partition)
