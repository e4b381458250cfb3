"""Carries the recovery table out: reads everything, decides, does what was decided.

One pass reads both stores afresh and never polls the consumer, so that assignment and snapshot
stay the same in it; whatever a pass leaves undone the next one decides again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from processor.engine.batch import Committed, LogRange, Partition, Tried
from processor.engine.catchup import Catchup, Lagging, Unpublished
from processor.engine.clock import Clock
from processor.engine.cluster import UNSTABLE, Cluster, TopicFacts
from processor.engine.consumer import Consumer
from processor.engine.failures import ReadFailed
from processor.engine.halts import remedy
from processor.engine.ledger import Ledger
from processor.engine.locked_rows import Known, LockedRows
from processor.engine.observer import Observer
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.publisher import Publisher
from processor.engine.recovery import (
    CommitOffset,
    Decision,
    HaltAt,
    MoveStart,
    Reading,
    Republish,
    Resume,
    Row,
    Start,
    Supersede,
    Wait,
    decide,
    read_metadata,
)
from processor.engine.triage import RETRY

SECOND_READING_SECONDS = 1.0
WAITING_AFTER_SECONDS = 5.0
STALE_AFTER_SECONDS = 45.0
"""Longer than a transaction of the usual length is open: its time-out and the broker's sweep."""
FORGOTTEN_REMEDY = (
    "no transaction lasts that long by default; Kafka may have forgotten one: "
    "docs/remedies.md, A transaction that Kafka has forgotten"
)


@dataclass(slots=True)
class _Plan:
    """What is to be done once the renewed tokens are committed."""

    resume: list[tuple[Owned, Row, Committed, set[bytes]]] = field(default_factory=list)
    lagging: list[Lagging] = field(default_factory=list)
    unpublished: list[Unpublished] = field(default_factory=list)


class Recoverer:
    """The one path by which a partition comes to know where it stands."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        publisher: Publisher,
        consumer: Consumer,
        partitions: Partitions,
        observer: Observer,
        clock: Clock,
        start_from: Callable[[str], str | int],
        halt_recheck_seconds: float,
        target: str = "PIPELINE",
        remember: Callable[[Partition, Tried], None] = lambda *_: None,
    ) -> None:
        """:param start_from: where a topic's first start begins.
        :param target: how a command names the pipeline or the group.
        :param remember: told of messages that were tried before.
        """
        self._remember = remember
        self._cluster = cluster
        self._ledger = ledger
        self._publisher = publisher
        self._consumer = consumer
        self._partitions = partitions
        self._observer = observer
        self._clock = clock.now
        self._catchup = Catchup(cluster, ledger, publisher, partitions, observer, clock)
        self._start_from = start_from
        self._halt_recheck_seconds = halt_recheck_seconds
        self._target = target

    def run(self, due: Sequence[Owned]) -> None:
        """One pass over these partitions.

        :raises Doubt: when the outcome of a step is not known; the partitions stay as they are
            and the next pass reads everything again.
        """
        if any(each.state is not State.HALTED for each in due):
            self._publisher.prepare()
        plan = self._read_and_decide(due)
        self._resume(plan)
        self._catchup.commit_offsets(plan.lagging, self._consumer.snapshot)
        self._catchup.republish(plan.unpublished, self._consumer.snapshot)

    def _read_and_decide(self, due: Sequence[Owned]) -> _Plan:
        plan = _Plan()
        facts = self._cluster.topics({each.partition.topic for each in due})
        committed = self._cluster.committed([each.partition for each in due])
        ready = [each for each in due if not self._unread(each, facts, committed)]
        if not ready:
            return plan
        k_of = {each.partition: _known(committed[each.partition]) for each in ready}
        topic_ids = {name: f.topic_id for name, f in facts.items() if isinstance(f, TopicFacts)}
        try:
            with self._ledger.locked(k_of, topic_ids) as rows:
                logs = self._cluster.log_ranges(list(k_of))
                started: set[str] = set()
                for each in ready:
                    reading = self._reading(each, rows, topic_ids, k_of, logs)
                    decision = decide(reading)
                    self._observer.decided(each.partition, decision)
                    self._apply(each, reading, decision, rows, facts, started, plan)
        except ReadFailed as error:
            for each in ready:
                self._wait(each, str(error))
            return _Plan()
        return plan

    def _unread(
        self,
        each: Owned,
        facts: Mapping[str, TopicFacts | str],
        committed: Mapping[Partition, Committed | str],
    ) -> bool:
        """Row 0: whether a reading is missing; the partition waits then."""
        topic, k = facts[each.partition.topic], committed[each.partition]
        for found in (topic, k):
            if isinstance(found, str):
                self._wait(each, found)
                return True
        return False

    def _reading(
        self,
        each: Owned,
        rows: LockedRows,
        topic_ids: Mapping[str, str],
        committed: Mapping[Partition, Committed],
        logs: Mapping[Partition, LogRange],
    ) -> Reading:
        known: Known = rows.known[each.partition]
        return Reading(
            partition=each.partition,
            topic_id=topic_ids[each.partition.topic],
            system_identifier=self._ledger.system_identifier,
            row=known.row,
            older=known.older,
            superseded=known.superseded,
            other_cluster=known.other_cluster,
            outbox=known.outbox,
            committed=committed[each.partition],
            log=logs.get(each.partition),
            truncated=each.truncated,
            topic_elsewhere=known.topic_elsewhere,
        )

    def _apply(
        self,
        each: Owned,
        reading: Reading,
        decision: Decision,
        rows: LockedRows,
        facts: Mapping[str, TopicFacts | str],
        started: set[str],
        plan: _Plan,
    ) -> None:
        """The decision's part in Postgres, under the row lock; the rest goes into the plan."""
        if isinstance(decision, Wait):
            return self._wait(each, decision.why)
        if isinstance(decision, HaltAt):
            return self._halt(each, decision)
        each.suspected = None
        if each.state is State.HALTED and not isinstance(decision, Resume):
            return self._again(each)
        if isinstance(decision, Start):
            return self._start(each, rows, facts, started)
        if isinstance(decision, Supersede):
            return self._supersede(each, reading, decision, rows)
        row = reading.row
        assert row is not None, "the other decisions are of a row"
        if isinstance(decision, MoveStart):
            rows.move_start(row, each.partition, decision.to, reading.committed)
            each.due = self._clock()
            return None
        self._renew(each, row, reading, decision, rows, plan)
        return None

    def _renew(
        self,
        each: Owned,
        row: Row,
        reading: Reading,
        decision: CommitOffset | Republish | Resume,
        rows: LockedRows,
        plan: _Plan,
    ) -> None:
        """A new token first: from its commit on nobody else can move this partition."""
        ours = read_metadata(reading.committed.metadata)
        published = decision.offset if isinstance(decision, Resume) else None
        token = rows.renew(row, ours[1] if ours else None, published)
        renewed = replace(row, token=token)
        if isinstance(decision, Resume):
            parked = rows.known[each.partition].parked
            plan.resume.append((each, renewed, reading.committed, parked))
        elif isinstance(decision, CommitOffset):
            plan.lagging.append(Lagging(each, renewed, decision))
        else:
            entries = [e for e in rows.known[each.partition].entries if e.next > decision.start]
            plan.unpublished.append(Unpublished(each, renewed, entries))

    def _start(
        self,
        each: Owned,
        rows: LockedRows,
        facts: Mapping[str, TopicFacts | str],
        started: set[str],
    ) -> None:
        """Row 4. The first start takes all the topic's partitions, so that they agree on it; but
        not those that have a K, which rows 2 and 3 are for.
        """
        topic, number = each.partition
        fact = facts[topic]
        assert isinstance(fact, TopicFacts), "the topic was read"
        each.due = self._clock()
        if topic in started:
            return None
        initial = rows.initial_partitions(topic)
        if initial is None:
            everything = [Partition(topic, n) for n in range(fact.partitions)]
            committed = self._cluster.committed(everything)
            unread = [found for found in committed.values() if isinstance(found, str)]
            if unread:
                return self._wait(each, unread[0])
            free = [p for p in everything if _known(committed[p]).offset is None]
            positions = self._cluster.positions(free, self._start_from(topic))
            started.add(topic)
            why, initial = "first start", fact.partitions
        else:
            late = number >= initial
            positions = self._cluster.positions(
                [each.partition], "earliest" if late else self._start_from(topic)
            )
            why = "partition added" if late else "first start"
        rows.start(
            topic,
            fact.topic_id,
            {partition.number: at for partition, at in positions.items()},
            initial,
            why,
            Committed(None, None),
        )
        return None

    def _supersede(
        self, each: Owned, reading: Reading, decision: Supersede, rows: LockedRows
    ) -> None:
        if reading.log is None or reading.topic_id is None:
            return self._wait(each, "the log's range could not be read")
        rows.supersede(
            decision.old, each.partition, reading.topic_id, reading.log.start, reading.committed
        )
        each.due = self._clock()
        return None

    def _resume(self, plan: _Plan) -> None:
        positions = {}
        for each, row, committed, parked in plan.resume:
            each.row, each.parked = row, parked
            each.next_offset = each.sent_offset = each.published_offset = row.next_offset
            ours = read_metadata(committed.metadata)
            each.token_in_k = ours[1] if ours else None
            each.leader_epoch = row.leader_epoch
            each.empty_from = None
            each.truncated = each.refused = False
            each.waiting_since = 0.0
            if each.state is State.HALTED:
                self._partitions.move(each, State.RECOVERING)
            self._partitions.move(each, State.RUNNING)
            if not self._postponed(each, row):
                positions[each.partition] = (row.next_offset, row.leader_epoch)
        self._consumer.start(positions)

    def _postponed(self, each: Owned, row: Row) -> bool:
        """Whether its next message is not to be tried before a while."""
        tried = row.tried
        if tried is None or tried.offset < row.next_offset:
            return False
        self._remember(each.partition, tried)
        if row.retry_seconds <= 0:
            return False
        each.due = self._clock() + row.retry_seconds
        detail = f"offset {tried.offset} has failed {tried.attempts} times"
        self._partitions.move(each, State.BACKING_OFF, RETRY, detail)
        return True

    def _halt(self, each: Owned, decision: HaltAt) -> None:
        """A halt needs two complete, equal readings a second apart."""
        now = self._clock()
        if each.suspected != decision:
            each.suspected = decision
            each.due = now + SECOND_READING_SECONDS
            return
        each.due = now + self._halt_recheck_seconds
        if each.state is State.HALTED and each.reason != decision.reason:
            self._partitions.move(each, State.RECOVERING)
        self._partitions.move(
            each,
            State.HALTED,
            decision.reason.value,
            decision.detail,
            remedy(decision.reason, self._target, each.partition),
        )

    def _again(self, each: Owned) -> None:
        """A halted partition has something to commit: the full path, with a new producer."""
        self._publisher.retire()
        self._partitions.move(each, State.RECOVERING)
        each.due = self._clock()

    def _wait(self, each: Owned, why: str) -> None:
        """Ask again soon; after a while say so."""
        now = self._clock()
        if not each.waiting_since:
            each.waiting_since = now
        waited = now - each.waiting_since
        each.due = now + min(1.0, 0.05 + waited / 10)
        if waited > WAITING_AFTER_SECONDS and each.state in (State.RECOVERING, State.WAITING):
            if UNSTABLE in why and waited > STALE_AFTER_SECONDS:
                self._partitions.move(each, State.WAITING, "offset-unstable", why, FORGOTTEN_REMEDY)
            else:
                self._partitions.move(each, State.WAITING, "waiting", why)


def _known(found: Committed | str) -> Committed:
    assert isinstance(found, Committed), "partitions whose K is unknown wait"
    return found
