"""Claims the partition, handles its messages batch by batch, and hands it back to its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from confluent_kafka import Message

from processor.engine.batch import Handled, Partition, Slice, Source
from processor.engine.database import Database, application_name
from processor.engine.locked_rows import LockedRows, write_audit
from processor.engine.outbox import PROVENANCE_HEADER, Provenance, seal
from processor.engine.recovery import Row
from processor.engine.store import Advance, Store
from processor.errors import Refused
from processor.operations.broker import Place
from processor.operations.remedies.change import write
from processor.operations.remedies.published import OutputTopics
from processor.operations.remedies.replay.batches import Batches
from processor.operations.remedies.replay.compare import Comparison, Outputs
from processor.operations.remedies.replay.feed import Feed
from processor.operations.remedies.replay.plan import ACTION, Replay, plan_replay
from processor.operations.remedies.run import Outcome, Remedies, told
from processor.operations.remedies.values import Change, Facts, Plan, replacing
from processor.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Options:
    start: int | None = None
    accept_differences: bool = False
    """Keep effects whose outputs are not those that were published."""


class Replaying:
    """The handlers run again for one group's partitions, each by itself."""

    def __init__(self, remedies: Remedies, pipeline: Pipeline, options: Options) -> None:
        self._remedies = remedies
        self._pipeline = pipeline
        self._options = options

    def run(self, places: Sequence[Partition], *, do: bool) -> list[Outcome]:
        return [self._one(partition, do=do) for partition in places]

    def _one(self, partition: Partition, *, do: bool) -> Outcome:
        place = (partition.topic, partition.number, ACTION)
        try:
            with told():
                return self._try(partition, do=do)
        except Refused as error:
            return Outcome(*place, done=False, refused=str(error))

    def _try(self, partition: Partition, *, do: bool) -> Outcome:
        if partition.topic not in self._pipeline.routes:
            raise Refused(f"{partition.topic!r} is no input of this pipeline")
        with self._remedies.look.facts(partition) as (facts, _):
            pass
        plan = plan_replay(facts, self._options.start)
        if isinstance(plan, Plan):
            [outcome] = self._remedies.run(ACTION, [partition], lambda _: planned, do=do)
            return outcome
        if do:
            self._remedies.halting.ensure(partition)
        run = Run(self._remedies, self._pipeline, self._options, facts, plan)
        return run.do() if do else run.probe()


def planned(facts: Facts) -> Plan:
    """Where nothing is to be handled again.

    :raises Refused: when there is by now.
    """
    plan = plan_replay(facts)
    if isinstance(plan, Replay):
        raise Refused(f"{facts.reading.partition} has moved meanwhile; try again")
    return plan


class Run:
    """One partition's replay."""

    def __init__(
        self,
        remedies: Remedies,
        pipeline: Pipeline,
        options: Options,
        facts: Facts,
        plan: Replay,
    ) -> None:
        self._remedies = remedies
        self._options = options
        self._facts = facts
        self._plan = plan
        self.partition = facts.reading.partition
        self._topic_id = facts.reading.topic_id or ""
        self._database = Database(
            remedies.settings.database,
            application_name(remedies.group, f"{remedies.group}:replay"),
            pipeline.isolation.upper(),
            remedies.steps,
        )
        self._store = Store(self._database, remedies.group, remedies.steps)
        self._batches = Batches(
            pipeline, remedies.settings, remedies.group, self._store, remedies.steps
        )
        topics = OutputTopics(
            remedies.settings, remedies.group, remedies.broker, list(pipeline.outputs)
        )
        self._published = Outputs(plan.start)
        topics.read(self._topic_id, self.partition.number, plan.lineage, self._note)
        self._incomplete = topics.incomplete()
        self.comparison = Comparison()
        self._row: Row | None = None

    def do(self) -> Outcome:
        """Claim, handle, hand back.

        :raises Refused: where it stopped; what was committed stands, and another run goes on there.
        """
        try:
            self._row = self._claim()
            self._feed(self._commit)
            self._finish(self._row)
        finally:
            self._store.rollback()
            self._database.close()
        return self._outcome(done=True)

    def probe(self) -> Outcome:
        """All of it in one transaction, of which nothing stays."""
        try:
            self._feed(self._probe)
        finally:
            self._store.rollback()
            self._database.close()
        return self._outcome(done=False)

    def _feed(self, handle: Callable[[Slice], Handled]) -> None:
        feed = Feed(
            self.partition,
            self._plan.start,
            self._plan.end,
            self._published,
            batches=self._batches.is_batch(self.partition),
        )
        feed.read(self._remedies.settings, self._remedies.group, self._remedies.broker, handle)

    # The row

    def _claim(self) -> Row:
        """The row under a token of our own; whoever holds another one moves it no more."""
        plan, remedies = self._plan, self._remedies
        with remedies.look.facts(self.partition) as (now, rows):
            if (now.row, now.reading.committed) != (self._facts.row, self._facts.reading.committed):
                raise Refused(f"{self.partition} has moved meanwhile; try again")
            if now.row is None:
                _insert(rows, now, plan)
            found = rows.connection.execute(
                _CLAIM,
                {
                    "group": remedies.group,
                    "cluster": remedies.cluster_id,
                    "topic": self.partition.topic,
                    "topic_id": self._topic_id,
                    "partition": self.partition.number,
                    "start": plan.start,
                    "lineage": plan.lineage,
                },
            ).fetchone()
            assert found is not None, "the row is there and locked"
            progress_id, token, tokens = found
            rows.connection.execute(
                "DELETE FROM processor.outbox WHERE progress_id = %s", (progress_id,)
            )
            write_audit(
                rows.connection,
                remedies.cluster_id,
                remedies.group,
                self.partition,
                ACTION,
                {**plan.detail, "stage": "begun"},
                remedies.actor,
            )
        return Row(
            progress_id, self._topic_id, plan.start, plan.start, None, plan.lineage, token,
            tuple(tokens), self._facts.reading.system_identifier, None, None, 0, False,
        )  # fmt: skip

    def _finish(self, row: Row) -> None:
        """K keeps its offset and gets the row's token, by the partition's owner."""
        k = self._plan.end
        with self._remedies.look.facts(self.partition) as (now, rows):
            if now.row is None or now.row.token != row.token or now.row.next_offset != k:
                raise Refused(
                    f"{self.partition}: another one is at work on it; look, and try again"
                )
            if now.reading.committed != self._facts.reading.committed:
                raise Refused(f"{self.partition}: K was changed meanwhile; status names what to do")
            detail = {**self._detail(), "stage": "done"}
            plan = Plan(ACTION, Change(k, k, replacing(now, k, ACTION)), (), detail)
            remedies = self._remedies
            write(rows, now, plan, remedies.cluster_id, remedies.group, remedies.actor)

    # A batch

    def _commit(self, each: Slice) -> Handled:
        handled = self._batches.run(each) if each.messages else _nothing(each, self._plan.end)
        if self._compare(handled) and not self._options.accept_differences:
            self._store.rollback()
            raise Refused(
                f"{self.partition}: the outputs of [{handled.first}, {handled.next}) are not those"
                f" that were published ({'; '.join(self.comparison.examples)}); its effects were"
                " not kept; --accept-differences keeps them"
            )
        row = self._row
        assert row is not None, "claimed before"
        source = Source(
            row.topic_id, self.partition.number, row.lineage, handled.first, handled.next
        )
        advance = Advance(
            progress_id=row.id,
            lineage=row.lineage,
            token=row.token,
            first=handled.first,
            next=handled.next,
            entry=seal(row.id, source, handled.records),
            leader_epoch=handled.leader_epoch,
            handled=handled.handled,
            dead_letters=handled.dead_letters,
            skipped=handled.skipped,
        )
        self._store.commit([advance], {row.id: (self.partition.topic, row.topic_id)})
        self._counted(handled)
        return handled

    def _probe(self, each: Slice) -> Handled:
        handled = self._batches.probe(each) if each.messages else _nothing(each, self._plan.end)
        self._compare(handled)
        self._counted(handled)
        return handled

    def _compare(self, handled: Handled) -> int:
        return self.comparison.compare(
            handled.first,
            handled.next,
            handled.records,
            self._published,
            {topic for topic, _ in self._incomplete},
        )

    def _counted(self, handled: Handled) -> None:
        self.comparison.handled += handled.handled
        self.comparison.dead_lettered += len(handled.dead_letters)
        self.comparison.skipped += handled.skipped

    def _note(self, place: Place, message: Message, source: Provenance) -> None:
        headers = list(message.headers() or ())
        at = max(i for i, (name, _) in enumerate(headers) if name == PROVENANCE_HEADER)
        del headers[at]
        self._published.add(source, (place[0], message.key(), message.value(), headers))

    # The answer

    def _detail(self) -> dict[str, object]:
        counts = {k: v for k, v in asdict(self.comparison).items() if k != "examples"}
        # The gap was made, and recorded, when the partition was claimed.
        return {"replayed_from": self._plan.start, "replayed_to": self._plan.end, **counts}

    def _outcome(self, *, done: bool) -> Outcome:
        found = self.comparison
        says = (
            *self._plan.says,
            f"{found.handled} handled, {found.dead_lettered} dead-lettered,"
            f" {found.skipped} skipped; outputs: {found.equal} as published,"
            f" {found.different} differences, {found.incomparable} not comparable",
            *found.examples,
        )
        place = self.partition
        return Outcome(place.topic, place.number, ACTION, done, None, says, self._detail())


def _insert(rows: LockedRows, facts: Facts, plan: Replay) -> None:
    topic, reading = facts.reading.partition.topic, facts.reading
    assert reading.topic_id is not None
    initial = rows.initial_partitions(topic, reading.topic_id) or facts.partitions
    positions = {reading.partition.number: plan.start}
    rows.start(topic, reading.topic_id, positions, initial, ACTION, reading.committed)


def _nothing(each: Slice, end: int) -> Handled:
    """What is left are control records and aborted data."""
    return replace(Handled(each.partition, each.first, each.first), next=end)


_CLAIM = """
UPDATE processor.progress SET
    next_offset = %(start)s, published_offset = %(start)s, lineage = %(lineage)s, intent = NULL,
    token = replace(gen_random_uuid()::text, '-', ''), leader_epoch = NULL,
    verified_offset = NULL, updated_at = now()
WHERE group_id = %(group)s AND cluster_id = %(cluster)s AND topic = %(topic)s
    AND topic_id = %(topic_id)s AND partition = %(partition)s
RETURNING id, token, tokens_in_k
"""
