"""What a consumer has assigned, and what it has fetched ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, KafkaError, Message

from processor.testing.kafka.broker import Broker
from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import Chunk, TopicNumber
from processor.testing.network import RequestLost, RequestTimedOut

QUEUED_LIMIT = 1_000
"""Messages of a partition that wait to be consumed, until no more are fetched."""
FETCH_WAIT_SECONDS = 0.05
"""How long the broker waits before it says that there is nothing: ``fetch.wait.max.ms``."""
ERROR_BACKOFF_SECONDS = 0.05
FETCH_TIMEOUT_SECONDS = 10.0
LOOK_UP_AGAIN_SECONDS = 0.5


class LookUp(Enum):
    """Of a logical offset: the log's beginning or its end."""

    WAITING = auto()
    """For the broker's answer."""
    AGAIN = auto()
    """In a moment, because the answer was outdated."""


@dataclass(eq=False, slots=True)
class Flow:
    """An assigned partition. A new ``version`` outdates all that was fetched under an older."""

    partition: TopicNumber
    fetch: int
    """Position of the next fetch; negative for a logical offset."""
    app: int
    """Position of the application: behind what it was given."""
    paused: bool = False
    dead: bool = False
    """Given up after an offset that the log does not have."""
    version: int = 0
    queued: int = 0
    end_told: int = -1
    quiet_at: float = 0.0
    """From then on an empty fetch is answered."""
    retry_at: float = 0.0
    leader_epoch: int | None = None
    """To be validated with the next fetch."""
    look_up: LookUp | None = None

    def seek(self, position: int, leader_epoch: int | None) -> None:
        """A look-up that is to be sent again is forgotten; one that is under way is not."""
        self.outdate(position)
        self.leader_epoch = leader_epoch
        if self.look_up is LookUp.AGAIN:
            self.look_up = None

    def outdate(self, position: int) -> None:
        """Drop what was fetched; go on from a position."""
        self.version += 1
        self.fetch = self.app = position
        self.queued = 0
        self.end_told = -1


@dataclass(slots=True)
class Fetched:
    """One thing in the client's queue; ``message`` None stands for control records."""

    flow: Flow
    version: int
    message: Message | None
    next: int

    @property
    def outdated(self) -> bool:
        return self.version != self.flow.version


class Fetcher:
    """A task of the process: fetches ahead into a queue, for all flows in one request."""

    def __init__(
        self, connection: Connection, queue: deque[object], committed: bool, tells_end: bool
    ) -> None:
        self._connection = connection
        self._time = connection.time
        self._broker: Broker = connection.broker
        self._queue = queue
        self._committed = committed
        self._tells_end = tells_end
        self._flows: dict[TopicNumber, Flow] = {}
        self._seen = -1
        self._running = False
        self.closed = False

    def replace(self, flows: Iterable[Flow]) -> None:
        """A new assignment; what was fetched under the old one is outdated."""
        for flow in self._flows.values():
            flow.outdate(flow.app)
        self._flows = {}
        self.add(flows)

    def add(self, flows: Iterable[Flow]) -> None:
        for flow in flows:
            self._flows[flow.partition] = flow
            if flow.fetch < 0:
                flow.look_up = LookUp.WAITING
                self._connection.spawn(partial(self._look_up, flow, flow.fetch))
        self.changed()

    def remove(self, partitions: Iterable[TopicNumber]) -> None:
        for partition in partitions:
            flow = self._flows.pop(partition, None)
            if flow is not None:
                flow.outdate(flow.app)

    def find(self, partition: TopicNumber) -> Flow | None:
        return self._flows.get(partition)

    @property
    def partitions(self) -> list[TopicNumber]:
        return list(self._flows)

    def changed(self) -> None:
        """Something may be fetched now that was not before."""
        self._seen = -1
        if not self._running and self._flows:
            self._running = True
            self._connection.spawn(self._run)

    def _run(self) -> None:
        while not self.closed:
            wanted = [flow for flow in self._flows.values() if self._wanted(flow)]
            if wanted:
                self._fetch(wanted)
            else:
                self._time.wait(self._stirred, self._soonest())

    def _stirred(self) -> bool:
        if self._seen == self._broker.changes:
            return self.closed
        self._seen = self._broker.changes
        return self.closed or any(map(self._wanted, self._flows.values()))

    def _soonest(self) -> float | None:
        """Seconds until a fetch is due without anything new on the broker."""
        now = self._time.now()
        times = []
        for flow in self._flows.values():
            if flow.paused or flow.dead or _lost(flow):
                continue
            if flow.retry_at > now:
                times.append(flow.retry_at)
            elif self._tells_end and flow.end_told != flow.fetch and flow.quiet_at > now:
                times.append(flow.quiet_at)
        return min(times) - now if times else None

    def _wanted(self, flow: Flow) -> bool:
        """Whether the broker would answer a fetch of it now."""
        if flow.paused or flow.dead or _lost(flow) or flow.queued >= QUEUED_LIMIT:
            return False
        now = self._time.now()
        if flow.retry_at > now:
            return False
        try:
            log = self._broker.log(*flow.partition)
        except Refused:
            return True
        if not log.start <= flow.fetch <= log.end:
            return True
        end = log.end_for(self._committed)
        if flow.fetch == end:
            return self._tells_end and flow.end_told != end and flow.quiet_at <= now
        return flow.fetch < end

    def _look_up(self, flow: Flow, logical: int) -> None:
        """As librdkafka does it: an answer that a seek has outdated is asked for once more, and
        then is where the partition goes on, whatever it was sought to."""

        def serve() -> int:
            log = self._broker.log(*flow.partition)
            return log.start if logical == OFFSET_BEGINNING else log.end_for(self._committed)

        while self._flows.get(flow.partition) is flow and not self.closed:
            version = flow.version
            try:
                position = self._connection.call("ListOffsets", serve, FETCH_TIMEOUT_SECONDS)
            except (RequestLost, RequestTimedOut, Refused):
                version = -1
            if flow.version == version:
                flow.look_up = None
                flow.fetch = flow.app = position
                self.changed()
                return
            flow.look_up = LookUp.AGAIN
            self._time.wait(lambda: flow.look_up is None, LOOK_UP_AGAIN_SECONDS)
            if flow.look_up is None:
                return
            flow.look_up = LookUp.WAITING

    def _fetch(self, flows: list[Flow]) -> None:
        asked = [(flow, flow.version, flow.fetch) for flow in flows]
        try:
            answers = self._connection.call(
                "Fetch", lambda: [self._read(flow, at) for flow, _, at in asked],
                FETCH_TIMEOUT_SECONDS,
            )  # fmt: skip
        except RequestLost:
            self._connection.reconnect()
            return
        except RequestTimedOut:
            return
        for (flow, version, _), answer in zip(asked, answers, strict=True):
            if flow.version == version and not self.closed:
                self._take(flow, answer)

    def _read(self, flow: Flow, at: int) -> Chunk | Refused:
        """The broker's side."""
        try:
            log = self._broker.log(*flow.partition)
            if flow.leader_epoch is not None and log.end_of_epoch(flow.leader_epoch) < at:
                return Refused(KafkaError._LOG_TRUNCATION)
            return log.read(
                at, self._time.random.choice(self._broker.fetch_chunks), self._committed
            )
        except Refused as refusal:
            return refusal

    def _take(self, flow: Flow, answer: Chunk | Refused) -> None:
        if isinstance(answer, Refused):
            self._refused(flow, answer.code)
            return
        flow.leader_epoch = None
        for message in answer.messages:
            self._put(flow, message, message.offset() + 1)
        flow.queued += len(answer.messages)
        if answer.next > flow.fetch or answer.messages:
            if not answer.messages or answer.messages[-1].offset() + 1 < answer.next:
                self._put(flow, None, answer.next)
            flow.quiet_at = self._time.now() + FETCH_WAIT_SECONDS
        flow.fetch = answer.next
        if not answer.messages and answer.next == answer.end and self._tells_end:
            self._tell_end(flow, answer.end)

    def _tell_end(self, flow: Flow, end: int) -> None:
        if flow.end_told != end and flow.quiet_at <= self._time.now():
            flow.end_told = end
            self._event(flow, KafkaError(KafkaError._PARTITION_EOF), end)

    def _refused(self, flow: Flow, code: int) -> None:
        if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            flow.retry_at = self._time.now() + ERROR_BACKOFF_SECONDS
            return
        flow.dead = True
        text = "fetch failed due to requested offset not available on the broker"
        if code == KafkaError._LOG_TRUNCATION:
            text = f"Partition log truncation detected at offset {flow.fetch}"
        error = KafkaError(
            KafkaError._AUTO_OFFSET_RESET, f"{text}: {KafkaError(code).str()} (broker 1)"
        )
        self._event(flow, error, flow.fetch)

    def _event(self, flow: Flow, error: KafkaError, offset: int) -> None:
        topic, number = flow.partition
        message = Message(topic=topic, partition=number, offset=offset, error=error)
        self._put(flow, message, flow.fetch)

    def _put(self, flow: Flow, message: Message | None, following: int) -> None:
        self._queue.append(Fetched(flow, flow.version, message, following))


def _lost(flow: Flow) -> bool:
    """Where it is to be fetched from is not known."""
    return flow.fetch < 0 or flow.look_up is LookUp.AGAIN
