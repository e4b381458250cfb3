"""The group coordinator: the classic protocol with static members.

::

    EMPTY -> PREPARING (members join) -> COMPLETING (the leader assigns) -> STABLE
                 ^                            |                               |
                 +----------------------------+-------------------------------+
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaError

from processor.testing.kafka.errors import Refused
from processor.testing.kafka.log import TopicNumber
from processor.testing.kafka.members import Joined, Joining, Member, Phase, Ticket
from processor.testing.kafka.offsets import Offsets
from processor.testing.network import RequestLost
from processor.testing.scheduler import Time, Timer


class Group:
    """One group. Its methods serve requests at once; answers that take time are tickets."""

    def __init__(self, time: Time, name: str) -> None:
        self.name = name
        self.generation = 0
        self.offsets = Offsets()
        self.away = False
        """The coordinator is: no time runs out meanwhile."""
        self.phase = Phase.EMPTY
        self.members: dict[str, Member] = {}
        self._instances: dict[str, str] = {}
        self._leader: str | None = None
        self._time = time
        self._numbers = 0
        self._rebalance: Timer | None = None

    # Requests

    def join(self, request: Joining) -> Ticket:
        """JoinGroup: answered when all members have joined, or at once if nothing changes."""
        if not request.member_id:
            old = self._instances.get(request.instance or "")
            return self._join_new(request) if old is None else self._replace(old, request)
        member = self._validated(request.member_id, request.instance)
        unchanged = member.request.topics == request.topics
        member.request = request
        leads = member.member_id == self._leader
        if self.phase is Phase.COMPLETING and unchanged:
            return Ticket(self._joined(member))
        if self.phase is Phase.STABLE and unchanged and not leads:
            return Ticket(self._joined(member, told=False))
        return self._join(member)

    def sync(
        self,
        member_id: str,
        instance: str | None,
        generation: int,
        assignments: Mapping[str, list[TopicNumber]] | None,
    ) -> Ticket:
        """SyncGroup: answered with the member's assignment when the leader has sent all."""
        member = self._validated(member_id, instance, generation)
        if self.phase is Phase.PREPARING:
            raise Refused(KafkaError.REBALANCE_IN_PROGRESS)
        if self.phase is Phase.STABLE:
            return Ticket(list(member.assignment))
        member.sync = ticket = Ticket()
        if member_id == self._leader and assignments is not None:
            self._assign(assignments)
        return ticket

    def heartbeat(self, member_id: str, instance: str | None, generation: int) -> None:
        """:raises Refused: REBALANCE_IN_PROGRESS when the member is to join again."""
        member = self._validated(member_id, instance, generation)
        self._touch(member)
        if self.phase is Phase.PREPARING:
            raise Refused(KafkaError.REBALANCE_IN_PROGRESS)

    def leave(self, member_id: str, instance: str | None) -> None:
        """LeaveGroup: of members without an instance id, and of others by a tool."""
        self._remove(self._validated(member_id, instance))

    def check_commit(self, member_id: str, generation: int, instance: str | None) -> None:
        """The fence of TxnOffsetCommit. Metadata without a member passes it, as in Kafka.

        :raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID or ILLEGAL_GENERATION.
        """
        if generation >= 0 or member_id or instance is not None:
            self._validated(member_id, instance, generation)

    # The coordinator's own doing

    def reloaded(self) -> None:
        """The coordinator came back: open answers are lost, sessions begin anew."""
        self.away = False
        for member in self.members.values():
            for ticket in (member.join, member.sync):
                if ticket is not None:
                    ticket.error = RequestLost("the coordinator was away")
            member.sync = None
            if self.phase is not Phase.PREPARING:
                member.join = None
            self._touch(member)

    def _validated(
        self, member_id: str, instance: str | None, generation: int | None = None
    ) -> Member:
        if instance is not None:
            holder = self._instances.get(instance)
            if holder is None:
                raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
            if holder != member_id:
                raise Refused(KafkaError.FENCED_INSTANCE_ID)
        member = self.members.get(member_id)
        if member is None:
            raise Refused(KafkaError.UNKNOWN_MEMBER_ID)
        if generation is not None and generation != self.generation:
            raise Refused(KafkaError.ILLEGAL_GENERATION)
        return member

    def _join_new(self, request: Joining) -> Ticket:
        member = Member(self._new_id(request), request)
        self.members[member.member_id] = member
        if request.instance is not None:
            self._instances[request.instance] = member.member_id
        self._touch(member)
        return self._join(member)

    def _replace(self, old_id: str, request: Joining) -> Ticket:
        """A static member came back under its instance id: the old one is fenced."""
        old = self.members.pop(old_id)
        for ticket in (old.join, old.sync):
            if ticket is not None:
                ticket.refuse(KafkaError.FENCED_INSTANCE_ID)
        if old.timer is not None:
            old.timer.cancel()
        member = Member(self._new_id(request), request, assignment=old.assignment)
        self.members[member.member_id] = member
        self._instances[request.instance or ""] = member.member_id
        if self._leader == old_id:
            self._leader = member.member_id
        self._touch(member)
        if self.phase is Phase.STABLE and old.request.topics == request.topics:
            return Ticket(self._joined(member, told=False))
        return self._join(member)

    def _join(self, member: Member) -> Ticket:
        member.join = ticket = Ticket()
        if self.phase is Phase.PREPARING:
            self._maybe_complete()
        else:
            self._prepare()
        return ticket

    def _prepare(self) -> None:
        """Begin a rebalance: members learn of it by their next heartbeat."""
        for member in self.members.values():
            if member.sync is not None:
                member.sync.refuse(KafkaError.REBALANCE_IN_PROGRESS)
                member.sync = None
                self._touch(member)
        self.phase = Phase.PREPARING
        limit = max((m.request.rebalance_seconds for m in self.members.values()), default=0.0)
        self._rebalance = self._time.later(limit, self._rebalance_over)
        self._maybe_complete()

    def _maybe_complete(self) -> None:
        if all(member.join is not None for member in self.members.values()):
            self._complete()

    def _rebalance_over(self) -> None:
        """Who has not joined in time is left out; static members stay until their session ends."""
        if self.away:
            self._rebalance = self._time.later(1.0, self._rebalance_over)
            return
        for member in [m for m in self.members.values() if m.join is None]:
            if member.request.instance is None:
                self._forget(member)
        if self.members and all(member.join is None for member in self.members.values()):
            self._rebalance = self._time.later(1.0, self._rebalance_over)
        elif self.phase is Phase.PREPARING:
            self._complete()

    def _complete(self) -> None:
        if self._rebalance is not None:
            self._rebalance.cancel()
        self.generation += 1
        if not self.members:
            self.phase, self._leader = Phase.EMPTY, None
            return
        self.phase = Phase.COMPLETING
        leader = self.members.get(self._leader or "")
        if leader is None or leader.join is None:
            self._leader = next(m.member_id for m in self.members.values() if m.join is not None)
        for member in self.members.values():
            if member.join is not None:
                member.join.answer = self._joined(member)
                member.join = None
                self._touch(member)

    def _joined(self, member: Member, told: bool = True) -> Joined:
        """:param told: whether the leader is to assign."""
        members = None
        if told and member.member_id == self._leader:
            members = [
                (m.member_id, m.request.instance, m.request.topics) for m in self.members.values()
            ]
        return Joined(member.member_id, self.generation, members)

    def _assign(self, assignments: Mapping[str, list[TopicNumber]]) -> None:
        self.phase = Phase.STABLE
        for member in self.members.values():
            member.assignment = list(assignments.get(member.member_id, []))
            if member.sync is not None:
                member.sync.answer = list(member.assignment)
                member.sync = None
                self._touch(member)

    def _touch(self, member: Member) -> None:
        """The member is alive: its session ends later."""
        member.deadline = self._time.now() + member.request.session_seconds
        if member.timer is None:
            self._watch(member)

    def _watch(self, member: Member) -> None:
        left = member.deadline - self._time.now()
        member.timer = self._time.later(max(0.001, left), lambda: self._expire(member))

    def _expire(self, member: Member) -> None:
        member.timer = None
        if self.members.get(member.member_id) is not member:
            return
        if member.waits or self.away:
            self._touch(member)
        elif member.deadline > self._time.now():
            self._watch(member)
        else:
            self._remove(member)

    def _remove(self, member: Member) -> None:
        self._forget(member)
        if self.phase is Phase.PREPARING:
            self._maybe_complete()
        elif self.phase is not Phase.EMPTY:
            self._prepare()

    def _forget(self, member: Member) -> None:
        del self.members[member.member_id]
        if self._instances.get(member.request.instance or "") == member.member_id:
            del self._instances[member.request.instance or ""]
        if member.timer is not None:
            member.timer.cancel()

    def _new_id(self, request: Joining) -> str:
        self._numbers += 1
        return f"{request.instance or 'member'}-{self._numbers}"
