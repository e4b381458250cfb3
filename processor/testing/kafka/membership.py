"""A consumer's membership in its group: joins, beats, gives back, and joins again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message

from processor.testing.kafka.connection import Connection
from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import TopicNumber
from processor.testing.kafka.members import Joined, Joining, Ticket
from processor.testing.network import RequestLost, RequestTimedOut

RETRY_SECONDS = 0.1
JOIN_MARGIN_SECONDS = 3.0
REQUEST_SECONDS = 10.0
METADATA_SECONDS = 30.0
"""``topic.metadata.refresh.interval.ms``"""


class GroupMetadata(NamedTuple):
    """What ``consumer_group_metadata`` returns: the member at that moment."""

    group_id: str
    member_id: str
    generation: int
    instance: str | None

    @property
    def member(self) -> tuple[str, int, str | None]:
        return self.member_id, self.generation, self.instance


@dataclass(eq=False, slots=True)
class Callback:
    """A change of the assignment on its way to the application, in the order of the queue."""

    kind: str
    """``assign``, ``revoke`` or ``lost``."""
    partitions: list[TopicNumber]
    done: bool = False


class Fatal(Exception):
    """Another member has taken this instance id."""


class Membership:
    """A task of the process, from subscribe to unsubscribe."""

    def __init__(
        self,
        connection: Connection,
        config: Mapping[str, Any],
        topics: Sequence[str],
        queue: deque[object],
    ) -> None:
        self._connection = connection
        self._time = connection.time
        self._broker = connection.broker
        self.group_id = str(config["group.id"])
        self.instance: str | None = config.get("group.instance.id")
        self._session = int(config.get("session.timeout.ms", 45_000)) / 1_000
        self._interval = int(config.get("heartbeat.interval.ms", 3_000)) / 1_000
        self._max_poll = int(config.get("max.poll.interval.ms", 300_000)) / 1_000
        self._topics = tuple(sorted(topics))
        self._queue = queue
        self._owned: list[TopicNumber] = []
        self._counts: dict[str, int] = {}
        self._counted_at = 0.0
        self._answered_at = 0.0
        self.member_id = ""
        self.generation = -1
        self.polled_at = self._time.now()
        self.closed = False
        connection.spawn(self._run)

    def metadata(self) -> GroupMetadata:
        return GroupMetadata(self.group_id, self.member_id, self.generation, self.instance)

    def leave(self) -> None:
        """Stop; members without an instance id tell the coordinator."""
        self.closed = True
        if self.instance is None and self.member_id:
            self._leave()

    def _leave(self) -> None:
        group, member_id = self._group, self.member_id
        with suppress(Refused, RequestLost, RequestTimedOut):  # then the session ends
            self._connection.call(
                "LeaveGroup", lambda: group.leave(member_id, None), REQUEST_SECONDS
            )

    @property
    def _group(self) -> Any:
        return self._broker.group(self.group_id)

    def _run(self) -> None:
        try:
            while not self.closed:
                assigned = self._join()
                if assigned is None:
                    self._time.pause(RETRY_SECONDS)
                elif not self.closed:
                    self._owned = assigned
                    self._queue.append(Callback("assign", assigned))
                    self._give_back(lost=self._beat())
        except Fatal as fatal:
            error = KafkaError(KafkaError._FATAL, f"Fatal consumer error: {fatal}")
            self._queue.append(Message(error=error))  # and nothing else, ever

    def _join(self) -> list[TopicNumber] | None:
        """Join and sync: the assignment, or None to try again."""
        try:
            request = Joining(
                self.member_id, self.instance, self._topics, self._session, self._max_poll
            )
            joined: Joined = self._answer("JoinGroup", lambda: self._group.join(request))
            self.member_id, self.generation = joined.member_id, joined.generation
            self._count()
            assignments = None if joined.members is None else self._assign(joined.members)
            assigned: list[TopicNumber] = self._answer(
                "SyncGroup",
                lambda: self._group.sync(
                    joined.member_id, self.instance, joined.generation, assignments
                ),
            )
        except (RequestLost, RequestTimedOut):
            return None
        except Refused as refusal:
            self._blame(refusal.code)
            return None
        self._answered_at = self._time.now()
        return assigned

    def _answer(self, name: str, serve: Any) -> Any:
        """A request whose answer the coordinator may keep back."""
        ticket: Ticket = self._connection.call(name, serve, REQUEST_SECONDS)
        if not ticket.done:
            limit = self._max_poll + JOIN_MARGIN_SECONDS
            self._time.wait(lambda: ticket.done or self.closed, limit)
            if not ticket.done:
                raise RequestTimedOut(name)
        return ticket.result()

    def _assign(
        self, members: Sequence[tuple[str, str | None, tuple[str, ...]]]
    ) -> dict[str, list[TopicNumber]]:
        """Round robin, members in the order of their instance ids."""
        found: dict[str, list[TopicNumber]] = {member_id: [] for member_id, _, _ in members}
        ordered = sorted(members, key=lambda member: member[1] or member[0])
        turn = 0
        for topic in sorted({topic for _, _, topics in members for topic in topics}):
            takers = [member_id for member_id, _, topics in ordered if topic in topics]
            for number in range(self._counts.get(topic, 0)):
                found[takers[turn % len(takers)]].append((topic, number))
                turn += 1
        return found

    def _count(self) -> bool:
        """Ask for the topics' partitions; whether they have changed."""
        topics = self._broker.topics

        def serve() -> dict[str, int]:
            return {t: len(topics[t].partitions) for t in self._topics if t in topics}

        counts = self._connection.call("Metadata", serve, REQUEST_SECONDS)
        changed, self._counts = counts != self._counts, counts
        self._counted_at = self._time.now()
        for topic in self._topics:
            if topic not in counts:
                code = KafkaError.UNKNOWN_TOPIC_OR_PART
                error = KafkaError(code, f"Subscribed topic not available: {topic}")
                self._queue.append(Message(topic=topic, error=error))
        return changed

    def _beat(self) -> bool:
        """Until the assignment is to be given back; True when it is lost."""
        while not self.closed:
            self._time.pause(self._interval)
            if self.closed:
                break
            now = self._time.now()
            if now - self.polled_at > self._max_poll:
                return self._too_slow()
            try:
                if now - self._counted_at > METADATA_SECONDS and self._count():
                    return False
                self._heartbeat()
            except Refused as refusal:
                return self._blame(refusal.code)
            except (RequestLost, RequestTimedOut):
                if self._time.now() - self._answered_at > self._session:
                    self.member_id = ""
                    return True
        return False

    def _heartbeat(self) -> None:
        group, me = self._group, self.metadata().member
        member_id, generation, instance = me
        self._connection.call(
            "Heartbeat", lambda: group.heartbeat(member_id, instance, generation), self._session
        )
        self._answered_at = self._time.now()

    def _blame(self, code: int) -> bool:
        """What a refusal means for the membership; whether the assignment is lost.

        :raises Fatal: when another has taken the instance id.
        """
        if code == KafkaError.FENCED_INSTANCE_ID:
            raise Fatal(KafkaError(code).str())
        if code == KafkaError.UNKNOWN_MEMBER_ID:
            self.member_id = ""
        return bool(code != KafkaError.REBALANCE_IN_PROGRESS)

    def _too_slow(self) -> bool:
        """The application did not poll for too long."""
        error = KafkaError(
            KafkaError._MAX_POLL_EXCEEDED, "Application maximum poll interval exceeded"
        )
        self._queue.append(Message(error=error))
        if self.instance is None:
            self._leave()
        self.member_id = ""
        return True

    def _give_back(self, lost: bool) -> None:
        """Have the application give the assignment back; beating goes on unless it is lost."""
        owned, self._owned = self._owned, []
        if not owned or self.closed:
            return
        callback = Callback("lost" if lost else "revoke", owned)
        self._queue.append(callback)
        while not self._time.wait(
            lambda: callback.done or self.closed, None if lost else self._interval
        ):
            try:
                self._heartbeat()
            except Refused as refusal:
                self._blame(refusal.code)
            except (RequestLost, RequestTimedOut):
                pass  # joining finds out
