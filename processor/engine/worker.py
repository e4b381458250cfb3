"""The loop: consume, run batches, recover whatever is in doubt."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf

from processor.engine.batch import Handled, Partition, Slice, Stop
from processor.engine.batches import Ended
from processor.engine.clock import Clock
from processor.engine.consumer import Consumer, Fetched
from processor.engine.failures import Doubt, MemberFenced, PublishDoubt, SessionExpired
from processor.engine.halts import resume_remedy
from processor.engine.housekeeping import Housekeeping, TopicReplaced
from processor.engine.observer import Observer
from processor.engine.overlap import Overlap
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.publisher import Publisher
from processor.engine.recoverer import Recoverer
from processor.engine.register import Register
from processor.engine.store import Store
from processor.errors import Exit, SlotTaken

IDLE_SECONDS = 0.1
CLAIM_SECONDS = 0.5
REJOIN_SECONDS = 3.0
TOO_SLOW_TIMES = 3
"""Once may be a process that was stopped."""
TOO_SLOW_SECONDS = 10.0
TOO_SLOW_REMEDY = (
    "let handlers do their slow work before their first statement, "
    "or raise database.idle_in_transaction_timeout_seconds (10 at most)"
)


@dataclass(slots=True)
class Rooms:
    """The worker's collaborators, one for each role."""

    partitions: Partitions
    overlap: Overlap
    store: Store
    publisher: Publisher
    register: Register
    observer: Observer
    clock: Clock


class Worker:
    """Conducts one slot. Consumer, recoverer and housekeeping are attached after it is made,
    because the consumer reports assignments to it.
    """

    consumer: Consumer
    recoverer: Recoverer
    housekeeping: Housekeeping

    def __init__(
        self,
        rooms: Rooms,
        incarnation: str,
        stopping: Callable[[], bool],
        target: str = "PIPELINE",
    ) -> None:
        """:param target: how a command names the pipeline or the group."""
        self._rooms = rooms
        self._target = target
        self._partitions = rooms.partitions
        self._incarnation = incarnation
        self._stopping = stopping
        self._clock = rooms.clock

    def run(self, beat: Callable[[], None]) -> Exit:
        """Work until asked to stop, then drain.

        :raises SlotTaken: when another process has claimed this slot.
        """
        self._claim(beat)
        self.consumer.subscribe()
        while not self._stopping():
            beat()
            try:
                self.turn()
            except MemberFenced as error:
                self._let_go()
                self._still_ours()
                self._rooms.observer.noted("member-fenced", reason=str(error))
                return Exit.STUCK  # a fresh process joins anew
        return self.drain()

    def _claim(self, beat: Callable[[], None]) -> None:
        """Postgres may go away between the start and this."""
        while not self._stopping():
            beat()
            try:
                self._rooms.register.claim(self._incarnation)
            except Doubt as doubt:
                self._rooms.observer.noted("claim-failed", reason=str(doubt))
                self._clock.sleep(CLAIM_SECONDS)
            else:
                return

    def turn(self) -> None:
        """Once around: a batch if there is one, then whatever is due."""
        fetched = self.consumer.fetch(self._patience())
        self._distrust(fetched)
        if fetched.slices:
            self._process(fetched.slices)
        else:
            self._settle()
        self._try_again()
        self._recover()
        self._keep_house()

    def drain(self) -> Exit:
        """Finish: K = H and P for what is known; the rest is for the next owner's recovery."""
        self._let_go()
        halted = [each.state is State.HALTED for each in self._partitions]
        self._give_up(set(self._partitions.owned))
        try:
            self.housekeeping.leave()
        except Doubt as doubt:
            self._rooms.observer.noted("drain-incomplete", reason=str(doubt))
        self.consumer.close()
        return Exit.ALL_HALTED if halted and all(halted) else Exit.OK

    def assigned(self, partitions: Collection[Partition]) -> None:
        """Inside the callback: everything owned is recovered under the new snapshot."""
        self._let_go()
        self._rooms.publisher.retire()
        self._partitions.replace(partitions)
        self._rooms.observer.assigned(partitions)

    def revoked(self, partitions: Collection[Partition]) -> None:
        """Inside the callback: give away cleanly what can be; the rest waits for an assignment."""
        self._let_go()
        self._give_up(partitions)
        self._partitions.remove(partitions)
        for each in self._partitions.running():
            self._partitions.move(each, State.RECOVERING)
            each.due = self._clock.now() + REJOIN_SECONDS

    def lost(self, partitions: Collection[Partition]) -> None:
        """Inside the callback: somebody else may have them already."""
        self._let_go()
        self._rooms.publisher.retire()
        self._partitions.remove(partitions)

    def _let_go(self) -> None:
        """A batch that takes effect ends, well or not, before anything else is done.

        Of one in doubt no K may be sent: what it has published may stand.
        """
        for ended in self._rooms.overlap.let_go():
            if ended.doubt is None:
                self._tell(ended)
                continue
            self._rooms.publisher.retire()
            self._rooms.observer.doubted(str(ended.doubt), ended.partitions)
            for partition in ended.partitions:
                self._partitions.move(self._partitions[partition], State.RECOVERING)

    def _give_up(self, partitions: Collection[Partition]) -> None:
        try:
            self.housekeeping.finish(partitions)
        except Doubt as doubt:
            self._rooms.publisher.retire()
            self._rooms.observer.doubted(str(doubt), partitions)

    def _patience(self) -> float:
        """How long to wait for a message: not at all while something is due."""
        if self._rooms.overlap.landing:
            return 0.0
        soonest = min(
            (e.due for e in self._partitions if e.state is not State.RUNNING), default=inf
        )
        return min(IDLE_SECONDS, max(0.0, soonest - self._clock.now()))

    def _distrust(self, fetched: Fetched) -> None:
        if fetched.doubtful or fetched.truncated:
            self._settle()
        for partition in fetched.truncated:
            if partition in self._partitions.owned:
                self._partitions[partition].truncated = True
        for partition, why in fetched.doubtful.items():
            self._doubt(Doubt(why), [partition])
        if not all(map(self._fits, fetched.slices)):
            self._settle()
        for each in [each for each in fetched.slices if not self._fits(each)]:
            fetched.slices.remove(each)
            h = self._partitions[each.partition].next_offset
            self._doubt(Doubt(f"fetched from {each.first}, but H is {h}"), [each.partition])

    def _fits(self, each: Slice) -> bool:
        """Whether it begins at H, once a batch that lands has done so."""
        owned, expected = self._partitions[each.partition], self._rooms.overlap.expected
        h = expected(each.partition)
        h = owned.next_offset if h is None else h
        return owned.state is State.RUNNING and h == each.first

    def _process(self, slices: Sequence[Slice]) -> None:
        turn = self._rooms.overlap.run(slices, self.consumer.snapshot)
        # First, because what the batch before them leaves belongs in front of them.
        for left in reversed(turn.unhandled):
            self.consumer.give_back(left)
        for each in turn.ended:
            self._ended(each)

    def _settle(self) -> None:
        for each in self._rooms.overlap.settle():
            self._ended(each)

    def _ended(self, ended: Ended) -> None:
        if ended.doubt is not None:
            self._doubt(ended.doubt, ended.partitions)
            return
        for each in reversed(ended.handled):
            self.consumer.handled(each.partition, each.messages, each.seconds)
            self._go_on(each)
        self._tell(ended)

    def _tell(self, ended: Ended) -> None:
        self._rooms.observer.committed(
            partitions=len(ended.handled),
            handled=sum(each.handled for each in ended.handled),
            outputs=sum(len(each.records) for each in ended.handled),
            dead_letters=sum(len(each.dead_letters) for each in ended.handled),
            duplicates=sum(each.duplicates for each in ended.handled),
            seconds=ended.seconds,
        )
        self._tell_failures(ended.handled)

    def _tell_failures(self, handled: Sequence[Handled]) -> None:
        """A line for what was set aside, one for what came back; the rest is in the letters."""
        letters = [letter for each in handled for letter in each.dead_letters]
        failed = [letter for letter in letters if not letter.is_parked]
        if failed:
            first = failed[0]
            self._rooms.observer.noted(
                "dead-lettered",
                count=len(failed),
                first=f"{first.partition} at {first.offset}",
                handler=first.handler,
                error=first.error,
            )
        if len(letters) > len(failed):
            self._rooms.observer.noted("parked", count=len(letters) - len(failed))
        returned = [letter for each in handled for letter in each.returned]
        if returned:
            self._rooms.observer.noted(
                "dead-letters-failed-again",
                count=len(returned),
                first=returned[0].letter_id,
                handler=returned[0].handler,
                error=returned[0].error,
            )

    def _go_on(self, handled: Handled) -> None:
        if handled.stop is not None:
            self._stop(self._partitions[handled.partition], handled.stop)
        elif handled.rest:
            rest = Slice(handled.partition, handled.next, handled.rest)
            self.consumer.give_back(rest, has_waited=handled.next == handled.first)

    def _stop(self, owned: Owned, stop: Stop) -> None:
        """Hold a partition at H, for a while or until somebody resumes it."""
        self.consumer.hold([owned.partition])
        if stop.retry_after_seconds is None:
            owned.due = inf
            remedy = resume_remedy(self._target, owned.partition)
            self._partitions.move(owned, State.HALTED, stop.reason, stop.detail, remedy)
        else:
            owned.due = self._clock.now() + stop.retry_after_seconds
            self._partitions.move(owned, State.BACKING_OFF, stop.reason, stop.detail)

    def _try_again(self) -> None:
        """Partitions whose time to wait is over flow again from H."""
        due = self._partitions.due(self._clock.now(), State.BACKING_OFF)
        for owned in due:
            self._partitions.move(owned, State.RUNNING)
        try:
            self.consumer.start({o.partition: (o.next_offset, o.leader_epoch) for o in due})
        except Doubt as doubt:
            self._doubt(doubt, [each.partition for each in due])

    def _recover(self) -> None:
        """One pass over the partitions whose recovery is due."""
        due = self._partitions.due(self._clock.now(), State.RECOVERING, State.WAITING, State.HALTED)
        if not due:
            return
        self._settle()
        try:
            self.recoverer.run(due)
        except Doubt as doubt:
            self._rooms.publisher.retire()
            self._doubt(doubt, [each.partition for each in due])

    def _keep_house(self) -> None:
        if not self.housekeeping.is_due:
            return
        self._settle()
        try:
            self.housekeeping.run()
        except TopicReplaced as doubt:
            self._doubt(doubt, [p for p in self._partitions.owned if p.topic == doubt.topic])
        except Doubt as doubt:
            self._rooms.store.rollback()
            self._rooms.publisher.retire()
            self._doubt(doubt, [each.partition for each in self._partitions.running()])

    def _doubt(self, doubt: Doubt, partitions: Collection[Partition]) -> None:
        """Forget what was believed: recovery reads it back, sooner or later by how often."""
        if isinstance(doubt, PublishDoubt) and doubt.fenced:
            self._still_ours()
        self._rooms.observer.doubted(str(doubt), partitions)
        self.consumer.hold(partitions)
        now = self._clock.now()
        for partition in partitions:
            owned = self._partitions.owned.get(partition)
            if owned is None:
                continue
            if owned.due == inf:
                continue  # halted by a handler: only somebody's word resumes it
            owned.doubts += 1
            owned.due = now + doubt_seconds(owned.doubts) * random.uniform(1.0, 1.2)  # noqa: S311
            reason, remedy = "doubt", None
            if isinstance(doubt, SessionExpired):
                owned.expired += 1
                if owned.expired >= TOO_SLOW_TIMES:
                    owned.due = now + TOO_SLOW_SECONDS
                    reason, remedy = "handler-too-slow", TOO_SLOW_REMEDY
            if owned.state in (State.RUNNING, State.BACKING_OFF):
                self._partitions.move(owned, State.RECOVERING, reason, str(doubt), remedy)

    def _still_ours(self) -> None:
        """:raises SlotTaken: when another process runs in this slot."""
        try:
            holder = self._rooms.register.holder()
        except Doubt:
            return  # not known now; whoever is fenced asks again
        if holder != self._incarnation:
            raise SlotTaken(
                "another process runs under this instance and slot; "
                "give each machine its own PROCESSOR_INSTANCE"
            )


def doubt_seconds(doubts: int) -> float:
    """At once the first time, then 0.1, 0.2, … seconds, 5 at most."""
    return 0.0 if doubts <= 1 else min(5.0, 0.05 * 2.0 ** min(doubts - 1, 10))
