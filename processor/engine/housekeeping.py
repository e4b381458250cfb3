"""What is done between batches, about once a second.

Idle ends, K, P, topic ids, rows, reports, periods of business keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf

from processor.engine.batch import Committed, Partition, Source
from processor.engine.cluster import Cluster, TopicFacts
from processor.engine.consumer import Consumer
from processor.engine.failures import DatabaseDoubt, Doubt
from processor.engine.halts import resume_remedy
from processor.engine.ledger import Belief, Claim, Ledger
from processor.engine.observer import Observer
from processor.engine.outbox import seal
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.periods import Periods
from processor.engine.publisher import Publisher
from processor.engine.recovery import Row, make_metadata, read_metadata
from processor.engine.register import Register
from processor.engine.store import NO_EPOCH, Advance, Store

PUBLISH_SECONDS = 1.0
SEEN_SECONDS = 5.0
CONTROL_SECONDS = 1.0
OPERATOR_HALT = "operator-halt"
MANY_TOKENS = 8
"""A K with the current token is sent, so that older tokens can be forgotten."""


class TopicReplaced(Doubt):
    """A topic's id is not the one that its rows were made under."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} was deleted or recreated")
        self.topic = topic


class Housekeeping:
    """Keeps K close behind H, P close behind K, and topic ids and rows checked."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        store: Store,
        publisher: Publisher,
        consumer: Consumer,
        partitions: Partitions,
        register: Register,
        observer: Observer,
        clock: Callable[[], float],
        topic_check_seconds: float,
        incarnation: str,
        target: str = "PIPELINE",
        replays: str | None = None,
        periods: Periods | None = None,
    ) -> None:
        """:param target: how a command names the pipeline or the group.
        :param replays: a topic that is consumed as soon as it exists.
        :param periods: of business keys, where there are any.
        """
        self._replays = replays
        self._periods = periods
        self._target = target
        self._cluster = cluster
        self._ledger = ledger
        self._store = store
        self._publisher = publisher
        self._consumer = consumer
        self._partitions = partitions
        self._register = register
        self._observer = observer
        self._clock = clock
        self._topic_check_seconds = topic_check_seconds
        self._incarnation = incarnation
        self._verified: dict[int, int] = {}
        """By the row's id, so that no V lands on the row of another topic id."""
        self._next_publish = self._next_check = self._next_seen = self._next_control = 0.0

    @property
    def is_due(self) -> bool:
        """Whether :meth:`run` has anything to do."""
        soonest = min(self._next_check, self._next_publish, self._next_seen, self._next_control)
        if self._periods is not None:
            soonest = min(soonest, self._periods.due)
        return bool(self._partitions.changed) or self._clock() >= soonest

    def run(self) -> None:
        """Whatever is due.

        :raises Doubt: the running partitions are recovered then.
        """
        now = self._clock()
        if self._periods is not None and now >= self._periods.due:
            self._periods.keep()
        if self._partitions.changed:
            self._report()
        if now >= self._next_check:
            self._next_check = now + self._topic_check_seconds
            self._look_for_replays()
            self._check_topics(self._partitions.running())
            self._check_rows(self._partitions.running())
        if now >= self._next_publish:
            self._next_publish = now + PUBLISH_SECONDS
            self._advance_idle(self._partitions.running())
            self._send_offsets(self._partitions.running())
            self._raise_published(self._partitions.running())
        if now >= self._next_seen:
            self._next_seen = now + SEEN_SECONDS
            self._register.seen(self._incarnation)
        if now >= self._next_control:
            self._next_control = now + CONTROL_SECONDS
            self._take_requests()

    def finish(self, partitions: Collection[Partition]) -> None:
        """K = H, read back, P: before partitions are given away, or at the end.

        :raises Doubt: whoever owns them next recovers them.
        """
        running = [each for each in self._partitions.running() if each.partition in partitions]
        self._send_offsets(running)
        self._raise_published(running)

    def leave(self) -> None:
        self._register.leave()

    def _report(self) -> None:
        reports = self._partitions.take_reports()
        for report in reports:
            self._observer.entered(report)
        try:
            self._register.report(reports)
        except DatabaseDoubt:
            self._partitions.changed |= {report.partition for report in reports}
            raise

    def _advance_idle(self, running: Sequence[Owned]) -> None:
        """At the log's end with nothing in hand, H moves past control records and aborted data."""
        advances, ends = [], []
        for each in running:
            end = self._consumer.idle_end(each.partition, each.next_offset)
            if end is not None:
                advances.append(empty_advance(each, end))
                ends.append((each, end))
        if not advances:
            return
        try:
            self._store.commit(advances, {})
        except Doubt:
            self._store.rollback()
            raise
        for each, end in ends:
            each.empty_from = each.next_offset if each.empty_from is None else each.empty_from
            each.next_offset = end
            each.leader_epoch = None
            self._consumer.moved(each.partition, end)

    def _send_offsets(self, running: Sequence[Owned]) -> None:
        """K follows where a batch had no outputs."""
        behind = [each for each in running if each.sent_offset < each.next_offset or _stale(each)]
        if not behind:
            return
        self._publisher.prepare()
        offsets = [offset_of(each, each.next_offset) for each in behind]
        self._publisher.send([], offsets, self._consumer.snapshot)
        self._publisher.commit()
        for each in behind:
            sent(each)

    def _raise_published(self, running: Sequence[Owned]) -> None:
        """P is raised to a K that was read back, never to one that is only believed.

        A row that refuses it has another token or offsets that do not fit: recovery finds out.
        """
        behind = [
            each
            for each in running
            if each.published_offset < each.sent_offset
            or each.token_sent not in (None, each.token_in_k)
            or row_of(each).id in self._verified
        ]
        if not behind:
            return
        committed = self._cluster.committed([each.partition for each in behind])
        claims = {}
        for each in behind:
            claim = self._claim(each, committed[each.partition])
            if claim is not None:
                claims[claim.progress_id] = (each, claim)
        if not claims:
            return
        raised = self._ledger.raise_published([claim for _, claim in claims.values()])
        for progress_id, published in raised.items():
            each, claim = claims[progress_id]
            each.published_offset = published
            each.token_in_k = claim.token_in_metadata
            self._verified.pop(progress_id, None)
        refused = [str(claims[each][0].partition) for each in claims if each not in raised]
        if refused:
            raise Doubt(f"the rows of {', '.join(refused)} are not as they were left")

    def _claim(self, each: Owned, committed: Committed | str) -> Claim | None:
        """None when the offset could not be read, or is none of ours: recovery will tell why."""
        if isinstance(committed, str):
            return None
        ours, row = read_metadata(committed.metadata), row_of(each)
        if committed.offset is None or ours is None or ours[0] != row.lineage:
            raise Doubt(f"the offset of {each.partition} was changed by somebody else")
        return Claim(
            row.id,
            row.lineage,
            row.token,
            committed.offset,
            ours[1],
            self._verified.get(row.id),
        )

    def _look_for_replays(self) -> None:
        """The group's topic of replays is made when it is first needed."""
        topic = self._replays
        if topic is None or self._consumer.consumes(topic):
            return
        if isinstance(self._cluster.topics({topic})[topic], TopicFacts):
            self._observer.noted("replays-found", topic=topic)
            self._consumer.add(topic)

    def _check_topics(self, running: Sequence[Owned]) -> None:
        """A topic that was recreated is read on in silence otherwise; only its id tells."""
        reached = {each.partition: each.next_offset for each in running}
        if not reached:
            return
        facts = self._cluster.topics({partition.topic for partition in reached})
        for each in running:
            fact = facts[each.partition.topic]
            if isinstance(fact, str):
                if "UNKNOWN_TOPIC" in fact:
                    raise TopicReplaced(each.partition.topic)
                continue
            if not isinstance(fact, TopicFacts) or fact.topic_id != row_of(each).topic_id:
                raise TopicReplaced(each.partition.topic)
            if reached[each.partition] != row_of(each).verified_offset:
                self._verified[row_of(each).id] = reached[each.partition]

    def _check_rows(self, running: Sequence[Owned]) -> None:
        """A restored database is noticed by the next batch; without one, only here."""
        beliefs = {row_of(each).id: each for each in running}
        if not beliefs:
            return
        as_left = self._ledger.as_left([_belief(each) for each in running])
        others = [str(beliefs[each].partition) for each in beliefs if each not in as_left]
        if others:
            raise Doubt(f"the rows of {', '.join(others)} are not as they were left")

    def _take_requests(self) -> None:
        if not len(self._partitions):
            return
        for partition, request in self._register.take_requests(
            list(self._partitions.owned)
        ).items():
            each = self._partitions[partition]
            if request.command == "resume" and each.state is State.HALTED:
                self._partitions.move(each, State.RECOVERING)
                each.due = self._clock()
                self._observer.noted("resumed", partition=str(partition))
            elif request.command == "halt" and each.state is not State.HALTED:
                self._halt(each, request.requested_by)

    def _halt(self, each: Owned, requested_by: str) -> None:
        """Between batches, so that nothing of the partition is open; only a word resumes it."""
        self._consumer.hold([each.partition])
        each.due = inf
        remedy = resume_remedy(self._target, each.partition)
        detail = f"{requested_by} is at work on its offsets"
        self._partitions.move(each, State.HALTED, OPERATOR_HALT, detail, remedy)


def row_of(each: Owned) -> Row:
    assert each.row is not None, "a running partition has been recovered"
    return each.row


def offset_of(each: Owned, offset: int) -> tuple[Partition, int, str]:
    """K as it is to be sent, with lineage and token."""
    row = row_of(each)
    return each.partition, offset, make_metadata(row.lineage, row.token)


def sent(each: Owned) -> None:
    """K = H was sent and nothing cast a doubt on it."""
    each.sent_offset = each.next_offset
    each.token_sent = row_of(each).token
    each.empty_from = None


def empty_advance(each: Owned, end: int) -> Advance:
    """H to ``end`` without outputs; consecutive ones whose end was not sent share a row."""
    row = row_of(each)
    source = Source(row.topic_id, each.partition.number, row.lineage, each.next_offset, end)
    return Advance(
        progress_id=row.id,
        lineage=row.lineage,
        token=row.token,
        first=each.next_offset,
        next=end,
        entry=seal(row.id, source, []),
        extends=each.empty_from,
        leader_epoch=NO_EPOCH,
    )


def _belief(each: Owned) -> Belief:
    row = row_of(each)
    return Belief(row.id, row.lineage, row.token, each.next_offset, each.published_offset)


def _stale(each: Owned) -> bool:
    row = row_of(each)
    return each.token_in_k != row.token and len(row.tokens_in_k) >= MANY_TOKENS
