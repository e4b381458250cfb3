"""Assignment, consuming, pausing, seeking: the consumer client behind one door.

Every assignment callback, an empty one too, renews the group metadata's snapshot and drops what
is in hand; nothing else ever asks for metadata, because fresher metadata would pass the broker's
fence for a batch that was read under an older assignment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.engine.batch import Partition, Slice
from processor.engine.clients import Clients
from processor.engine.clock import Clock
from processor.engine.cluster import told
from processor.engine.failures import Doubt, MemberFenced
from processor.engine.flow_control import FlowControl
from processor.engine.placing import Placing, placed_at
from processor.engine.steps import Step, Steps

WAKE_TIMEOUT_SECONDS = 5.0


class AssignmentListener(Protocol):
    """Told of changes from inside :meth:`Consumer.fetch`, in the callback itself."""

    def assigned(self, partitions: Collection[Partition]) -> None: ...

    def revoked(self, partitions: Collection[Partition]) -> None: ...

    def lost(self, partitions: Collection[Partition]) -> None: ...


@dataclass(slots=True)
class Flow:
    """A partition that is being consumed: where its next message is expected."""

    position: int
    epoch: int | None = None
    """Leader epoch of the message before it, as far as known."""
    end: int | None = None
    """The end of the log, reached with nothing consumed since."""


@dataclass(slots=True)
class Fetched:
    """What one :meth:`Consumer.fetch` brought."""

    slices: list[Slice] = field(default_factory=list)
    doubtful: dict[Partition, str] = field(default_factory=dict)
    """Partitions whose messages cannot be trusted, and why; they were dropped."""
    truncated: set[Partition] = field(default_factory=set)


class Consumer:
    """Wraps the client; all offsets of a partition pass through its :class:`Flow`."""

    def __init__(
        self,
        clients: Clients,
        topics: Iterable[str],
        listener: AssignmentListener,
        in_hand: FlowControl,
        steps: Steps,
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._steps = steps
        self._flows: dict[Partition, Flow] = {}
        self._in_hand = in_hand
        self._owned: set[Partition] = set()
        self._client = clients.consumer(self._error)
        self._incremental = clients.incremental
        self._placing = Placing(self._client, clients.incremental, clock)
        self._topics = sorted(topics)
        self.snapshot: object = None
        """The group metadata of the last assignment callback."""
        self.assignment = 0
        """Counts the changes of the assignment."""
        self.last_error: str | None = None

    def subscribe(self) -> None:
        self._client.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def add(self, topic: str) -> None:
        """Consume one more topic; the group is assigned anew."""
        self._topics = sorted({*self._topics, topic})
        self.subscribe()

    def consumes(self, topic: str) -> bool:
        return topic in self._topics

    @property
    def owned(self) -> frozenset[Partition]:
        return frozenset(self._owned)

    def fetch(self, timeout_seconds: float) -> Fetched:
        """The next batch, of what has arrived; waits for the first message only.

        :raises MemberFenced: when the group has replaced this member.
        """
        before = self.assignment
        wanted = self._in_hand.wanted
        with self._steps.step(Step.CONSUME):
            # Without any room it is polled all the same, or the group takes it for dead.
            messages = self._client.consume(1, 0 if self._in_hand else timeout_seconds)
            if messages and wanted > 1:
                messages += self._client.consume(wanted - 1, 0)
        if self.assignment != before:
            self._heed(messages)
            return Fetched()  # dropped: recovery seeks every partition that is still owned
        fetched, slices = self._sort(messages)
        self._unpark(fetched)
        self._park([each.partition for each in slices])
        self._in_hand.drop(fetched.doubtful)
        fetched.slices = self._in_hand.take()
        return fetched

    def give_back(self, rest: Slice, has_waited: bool = True) -> None:
        """Messages that were fetched in vain; they come before all others of their partition.

        :param has_waited: nothing of the partition was handled: its turn is the next one.
        """
        self._in_hand.give_back(rest, has_waited)

    def handled(self, partition: Partition, messages: int, seconds: float) -> None:
        """How long that has taken, for the size of its next parts."""
        self._in_hand.handled(partition, messages, seconds)

    def start(self, positions: dict[Partition, tuple[int, int | None]]) -> None:
        """Let partitions flow from (offset, leader epoch).

        :raises Doubt: when the client does not take it; nothing flows that was not placed.
        """
        if not positions:
            return
        self._place(positions)
        self._wake(positions)

    def hold(self, partitions: Collection[Partition]) -> None:
        """Stop the flow; what is in hand of these partitions is dropped."""
        self._in_hand.drop(partitions)
        self._pause(partitions)

    def idle_end(self, partition: Partition, next_offset: int) -> int | None:
        """The log's end, if a fetch from H reached it and found nothing; else None."""
        flow = self._flows.get(partition)
        if flow is None or flow.end is None or flow.position != next_offset:
            return None
        return flow.end if flow.end > next_offset else None

    def moved(self, partition: Partition, position: int) -> None:
        """An idle step set H to the log's end."""
        flow = self._flows.get(partition)
        if flow is not None:
            flow.position, flow.epoch = position, None

    def close(self) -> None:
        with self._steps.step(Step.CLOSE):
            self._client.close()

    def _place(self, positions: Mapping[Partition, tuple[int, int | None]]) -> None:
        """Fetch these from there on, and what flows from where it is.

        :raises Doubt: when the client does not take it; none of them flows then.
        """
        flowing = {p: placed_at(p, flow.position, flow.epoch) for p, flow in self._flows.items()}
        try:
            self._placing.start({p: placed_at(p, *at) for p, at in positions.items()}, flowing)
        except KafkaException as error:
            raise Doubt(f"seek: {told(error)}") from None
        self._flows |= {partition: Flow(*at) for partition, at in positions.items()}

    def _pause(self, partitions: Iterable[Partition]) -> None:
        """Whatever the client still hands over of them is dropped."""
        self._placing.pause([p for p in partitions if self._flows.pop(p, None) is not None])

    def _unpark(self, fetched: Fetched) -> None:
        ready = self._in_hand.unpark()
        if not ready:
            return
        try:
            self._place(ready)
        except Doubt as doubt:
            fetched.doubtful.update(dict.fromkeys(ready, str(doubt)))

    def _park(self, partitions: Collection[Partition]) -> None:
        """They flow no more; what there is of them is handled all the same."""
        parked = self._in_hand.park(partitions)
        if parked:
            self._pause(parked)

    def _wake(self, partitions: Iterable[Partition]) -> None:
        """Ask the partitions' leaders for anything.

        librdkafka's broker thread sleeps up to a second when it had nothing to fetch, and neither
        seek nor resume wakes it; a request to that broker does (1,000 ms down to 3, measured).
        """
        times = [placed_at(partition, 0) for partition in partitions]
        try:
            with self._steps.step(Step.READ_LOG):
                self._client.offsets_for_times(times, WAKE_TIMEOUT_SECONDS)
        except KafkaException as error:
            self.last_error = told(error)

    def _sort(self, messages: list[Any]) -> tuple[Fetched, list[Slice]]:
        """By partition, checked: nothing before the position, offsets strictly rising."""
        fetched = Fetched()
        slices: dict[tuple[str, int], Slice | None] = {}
        size = 0
        for message in messages:
            if message.error() is not None:
                self._event(message, fetched)
                continue
            key = (message.topic(), message.partition())
            if key in slices:
                target = slices[key]
            else:
                target = slices[key] = self._slice(Partition(*key))
            if target is not None:
                target.messages.append(message)
                size += len(message)
        found = [each for each in slices.values() if each is not None]
        accepted = [each for each in found if self._accept(each, fetched)]
        self._in_hand.add(accepted, size)
        return fetched, accepted

    def _slice(self, partition: Partition) -> Slice | None:
        """None for a partition that does not flow: its messages are dropped."""
        flow = self._flows.get(partition)
        return None if flow is None else Slice(partition, flow.position, [])

    def _accept(self, found: Slice, fetched: Fetched) -> bool:
        flow = self._flows.get(found.partition)
        if flow is None or found.partition in fetched.doubtful:
            return False
        at = found.first - 1
        for message in found.messages:
            offset = message.offset()
            if offset <= at:
                fetched.doubtful[found.partition] = f"offset {offset} came after {at}"
                return False
            at = offset
        flow.position, flow.epoch = at + 1, found.messages[-1].leader_epoch()
        if flow.end is not None and flow.end <= at:
            flow.end = None
        return True

    def _heed(self, messages: list[Any]) -> None:
        """What the client says of itself it says once, also behind an assignment."""
        for message in messages:
            if message.error() is not None and _of_no_partition(message):
                self._error(message.error())

    def _event(self, message: Any, fetched: Fetched) -> None:
        error: KafkaError = message.error()
        code = error.code()
        if _of_no_partition(message):
            self._error(error)
            return
        partition = Partition(message.topic(), message.partition())
        if code == KafkaError._PARTITION_EOF:
            self._reached_end(partition, message.offset())
        elif code == KafkaError._LOG_TRUNCATION:
            fetched.truncated.add(partition)
            fetched.doubtful[partition] = error.str()
        elif code == KafkaError._AUTO_OFFSET_RESET:
            if "truncat" in error.str().lower():
                fetched.truncated.add(partition)
            fetched.doubtful[partition] = error.str()
        else:
            self._error(error)
            if partition in self._flows:
                fetched.doubtful[partition] = f"{error.name()}: {error.str()}"

    def _reached_end(self, partition: Partition, end: int) -> None:
        flow = self._flows.get(partition)
        if flow is not None and end >= flow.position:
            flow.end = end

    def _error(self, error: KafkaError) -> None:
        self.last_error = f"{error.name()}: {error.str()}"
        if error.fatal() or error.code() in _FENCED:
            raise MemberFenced(self.last_error)

    def _on_assign(self, client: Any, assigned: list[TopicPartition]) -> None:
        """Take the snapshot here and nowhere else; what is fetched is for :meth:`start` to say."""
        self._placing.assigned()
        if not self._incremental:
            self._owned.clear()
        self._owned |= {Partition(each.topic, each.partition) for each in assigned}
        self.snapshot = client.consumer_group_metadata()
        self._changed()
        self._listener.assigned(self._owned)

    def _on_revoke(self, _client: Any, revoked: list[TopicPartition]) -> None:
        gone = {Partition(each.topic, each.partition) for each in revoked}
        self._listener.revoked(gone)
        self._forget(gone)

    def _on_lost(self, _client: Any, lost: list[TopicPartition]) -> None:
        gone = {Partition(each.topic, each.partition) for each in lost}
        self._listener.lost(gone)
        self._forget(gone)

    def _forget(self, gone: set[Partition]) -> None:
        self._placing.revoked(gone)
        self._owned -= gone
        self._changed()

    def _changed(self) -> None:
        """Drop everything in hand; each partition flows again when recovery has started it."""
        self.assignment += 1
        self._in_hand.clear()
        self._pause(list(self._flows))


def _of_no_partition(message: Any) -> bool:
    return message.topic() is None or message.partition() is None or message.partition() < 0


_FENCED = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL)
"""_FATAL is how a fenced static member looks in an event: not marked fatal, and of no topic."""
