"""The consumer client: what the engine uses of ``confluent_kafka.Consumer``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_END, OFFSET_INVALID, KafkaError, Message, TopicPartition

from processor.testing.kafka.broker import Broker
from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused, failure, timed_out
from processor.testing.kafka.fetching import Fetched, Fetcher, Flow
from processor.testing.kafka.log import TopicNumber
from processor.testing.kafka.membership import Callback, GroupMetadata, Membership
from processor.testing.network import Network, RequestLost, RequestTimedOut

Rebalanced = Callable[[Any, list[TopicPartition]], None]
TURN_SECONDS = 0.00002
"""A call that finds nothing takes that long; at times the group is faster than the next call."""
SWITCH_CHANCE = 0.1


class Consumer:
    """Fetching and membership are tasks of the process; callbacks run inside :meth:`consume`."""

    def __init__(self, config: Mapping[str, Any], broker: Broker, network: Network) -> None:
        self._config = config
        self._time = network.time
        self._connection = Connection(broker, network)
        self._broker = broker
        self._queue: deque[object] = deque()
        committed = config.get("isolation.level", "read_committed") == "read_committed"
        self._fetcher = Fetcher(
            self._connection, self._queue, committed, bool(config.get("enable.partition.eof"))
        )
        self._membership: Membership | None = None
        self._callbacks: dict[str, Rebalanced | None] = {}
        self._assigned_by_app = False
        self._closed = False

    # Membership

    def subscribe(
        self,
        topics: Sequence[str],
        on_assign: Rebalanced | None = None,
        on_revoke: Rebalanced | None = None,
        on_lost: Rebalanced | None = None,
    ) -> None:
        self.unsubscribe()
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost or on_revoke}
        self._membership = Membership(self._connection, self._config, topics, self._queue)

    def unsubscribe(self) -> None:
        membership, self._membership = self._membership, None
        if membership is None:
            return
        if self._fetcher.partitions:
            self._call_back(Callback("revoke", self._fetcher.partitions))
        membership.leave()
        for op in [op for op in self._queue if isinstance(op, Callback)]:
            self._queue.remove(op)

    def close(self) -> None:
        """Give the partitions back; a static member's stay reserved until its session ends."""
        if not self._closed:
            self.unsubscribe()
            self._closed = self._fetcher.closed = True

    def consumer_group_metadata(self) -> GroupMetadata:
        """The member as it is now."""
        if self._membership is None:
            return GroupMetadata(str(self._config["group.id"]), "", -1, self._instance)
        return self._membership.metadata()

    def memberid(self) -> str:
        return "" if self._membership is None else self._membership.member_id

    # Assignment

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._assigned_by_app = True
        self._fetcher.replace([_flow(each) for each in partitions])

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._assigned_by_app = True
        self._fetcher.add([_flow(each) for each in partitions])

    def unassign(self) -> None:
        self._fetcher.replace([])

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        self._fetcher.remove([_key(each) for each in partitions])

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*partition) for partition in sorted(self._fetcher.partitions)]

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """What was fetched of them is dropped; resuming goes on behind what was consumed."""
        for flow in self._flows(partitions):
            flow.paused = True
            flow.outdate(flow.app)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        for flow in self._flows(partitions):
            flow.paused = False
        self._fetcher.changed()

    def seek(self, partition: TopicPartition) -> None:
        """:raises KafkaException: _STATE unless the partition is assigned and alive."""
        flow = self._fetcher.find(_key(partition))
        if flow is None or flow.dead:
            raise failure(KafkaError._STATE, "the partition is not being fetched")
        flow.seek(partition.offset, partition.leader_epoch)
        self._fetcher.changed()

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        flows = [self._fetcher.find(_key(each)) for each in partitions]
        return [
            TopicPartition(*_key(each), OFFSET_INVALID if flow is None else flow.app)
            for each, flow in zip(partitions, flows, strict=True)
        ]

    # Consuming

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        """Waits for so many messages or the whole time-out; callbacks run in between."""
        if self._closed:
            raise RuntimeError("Consumer closed")
        now = self._polled()
        deadline = float("inf") if timeout < 0 else now + timeout
        if num_messages > 1 and self._time.random.random() < SWITCH_CHANCE:
            self._time.pause(TURN_SECONDS)
        found: list[Fetched | Message] = []
        while True:
            found = self._take(found, num_messages)
            if len(found) >= num_messages:
                break
            left = deadline - self._time.now()
            if left <= 0:
                if not found and num_messages == 1:
                    self._time.pause(TURN_SECONDS)
                break
            self._time.wait(lambda: bool(self._queue), None if timeout < 0 else left)
            self._polled()
        return [self._given(each) for each in found]

    def poll(self, timeout: float = -1) -> Message | None:
        found = self.consume(1, timeout)
        return found[0] if found else None

    def offsets_for_times(
        self, partitions: Sequence[TopicPartition], timeout: float = -1
    ) -> list[TopicPartition]:
        """:raises KafkaException: when the broker does not answer in time."""
        limit = 60.0 if timeout < 0 else timeout

        def serve() -> list[TopicPartition]:
            return [
                TopicPartition(*_key(t), self._broker.log(*_key(t)).offset_at(t.offset))
                for t in partitions
            ]

        try:
            return self._connection.call("ListOffsets", serve, limit)
        except RequestTimedOut:
            raise timed_out("offsets_for_times") from None
        except RequestLost:
            raise failure(KafkaError._TRANSPORT) from None
        except Refused as refusal:
            raise failure(refusal.code) from None

    # The rest

    @property
    def _instance(self) -> str | None:
        instance = self._config.get("group.instance.id")
        return None if instance is None else str(instance)

    def _polled(self) -> float:
        now = self._time.now()
        if self._membership is not None:
            self._membership.polled_at = now
        return now

    def _take(self, found: list[Fetched | Message], count: int) -> list[Fetched | Message]:
        """From the queue, in its order; what a callback has outdated is dropped."""
        queue = self._queue
        while queue and len(found) < count:
            op = queue.popleft()
            if isinstance(op, Callback):
                self._call_back(op)
                found = [f for f in found if not (isinstance(f, Fetched) and f.outdated)]
            elif isinstance(op, Fetched):
                if op.outdated:
                    continue
                op.flow.app = op.next
                if op.message is not None:
                    found.append(op)
            elif isinstance(op, Message):
                found.append(op)
        return found

    def _given(self, each: Fetched | Message) -> Message:
        if not isinstance(each, Fetched):
            return each
        if each.flow.queued:
            each.flow.queued -= 1
            if not each.flow.queued:
                self._fetcher.changed()
        assert each.message is not None, "control records are not given"
        return each.message

    def _call_back(self, callback: Callback) -> None:
        """The application's callback; what it does not do itself is done for it."""
        partitions = [TopicPartition(*each) for each in callback.partitions]
        act = self._callbacks.get(callback.kind)
        self._assigned_by_app = False
        try:
            if act is not None:
                act(self, partitions)
            if callback.kind != "assign":
                self.unassign()
            elif not self._assigned_by_app:
                self.assign(partitions)
        finally:
            callback.done = True

    def _flows(self, partitions: Sequence[TopicPartition]) -> list[Flow]:
        flows = [self._fetcher.find(_key(each)) for each in partitions]
        return [flow for flow in flows if flow is not None]


def _key(partition: TopicPartition) -> TopicNumber:
    return partition.topic, partition.partition


def _flow(partition: TopicPartition) -> Flow:
    at = partition.offset
    at = OFFSET_END if at == OFFSET_INVALID else at
    return Flow(_key(partition), at, at)
