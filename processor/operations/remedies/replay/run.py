"""Claims the partition, handles its messages batch by batch, and hands it back to its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from confluent_kafka import Message

from processor.engine.batch import Handled, Partition, Slice, Source
from processor.engine.database import Database, application_name
from processor.engine.outbox import PROVENANCE_HEADER, Provenance, seal
from processor.engine.recovery import Row
from processor.engine.store import Advance, Store
from processor.errors import Refused
from processor.operations.broker import Place
from processor.operations.progress import SILENT, Progress
from processor.operations.remedies.published import OutputTopics
from processor.operations.remedies.replay.batches import Batches
from processor.operations.remedies.replay.compare import Comparison, Outputs
from processor.operations.remedies.replay.feed import Feed
from processor.operations.remedies.replay.holding import claim, finish
from processor.operations.remedies.replay.plan import ACTION, Replay, plan_replay
from processor.operations.remedies.run import Outcome, Remedies, told
from processor.operations.remedies.values import Facts, Plan
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
        held = self._remedies.halting.ensure(partition) if do else False
        try:
            run = Run(self._remedies, self._pipeline, self._options, facts, plan)
            return run.do() if do else run.probe()
        except Refused:
            if held:
                self._remedies.halting.release(partition)
            raise


def planned(facts: Facts) -> Plan:
    """Where nothing is to be handled again.

    :raises Refused: when there is by now.
    """
    plan = plan_replay(facts)
    if isinstance(plan, Replay):
        raise Refused(f"{facts.reading.partition} has moved meanwhile; try again")
    return plan


class _Enough(Exception):
    """A sample was handled."""


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
            remedies.settings,
            remedies.group,
            remedies.broker,
            list(pipeline.outputs),
            remedies.progress,
        )
        self._published = Outputs(plan.start)
        topics.read(self._topic_id, self.partition, plan.lineage, self._note)
        self._incomplete = topics.incomplete()
        self.comparison = Comparison()
        self._row: Row | None = None
        self._tried: int | None = None
        """The end of the sample of a dry run."""

    def do(self) -> Outcome:
        """Claim, handle, hand back.

        :raises Refused: where it stopped; what was committed stands, and another run goes on there.
        """
        try:
            self._row = claim(self._remedies, self._facts, self._plan)
            self._feed(self._commit, self._remedies.progress)
            finish(self._remedies, self._facts, self._plan, self._row, self._detail())
        finally:
            self._store.rollback()
            self._database.close()
        return self._outcome(done=True)

    def probe(self) -> Outcome:
        """The first batch, of which nothing stays: all of it would hold locks for too long."""
        try:
            self._feed(self._probe)
        except _Enough:
            pass
        finally:
            self._store.rollback()
            self._database.close()
        return self._outcome(done=False)

    def _feed(self, handle: Callable[[Slice], Handled], progress: Progress = SILENT) -> None:
        feed = Feed(
            self.partition,
            self._plan.start,
            self._plan.end,
            self._published,
            batches=self._batches.is_batch(self.partition),
            progress=progress,
        )
        feed.read(self._remedies.settings, self._remedies.group, self._remedies.broker, handle)

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
            duplicates=handled.duplicates,
        )
        self._store.commit([advance], {row.id: (self.partition.topic, row.topic_id)})
        self._counted(handled)
        return handled

    def _probe(self, each: Slice) -> Handled:
        handled = self._batches.run(each) if each.messages else _nothing(each, self._plan.end)
        self._compare(handled)
        self._counted(handled)
        self._tried = handled.next
        raise _Enough

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
        self.comparison.duplicates += handled.duplicates

    def _note(self, place: Place, message: Message, source: Provenance) -> None:
        headers = list(message.headers() or ())
        at = max(i for i, (name, _) in enumerate(headers) if name == PROVENANCE_HEADER)
        del headers[at]
        self._published.add(source, (place[0], message.key(), message.value(), headers))

    # The answer

    def _detail(self) -> dict[str, object]:
        counts = {k: v for k, v in asdict(self.comparison).items() if k != "examples"}
        # The gap was made, and recorded, when the partition was claimed.
        ends = {"replayed_from": self._plan.start, "replayed_to": self._plan.end}
        return {**ends, **counts, "stage": "done"}

    def _outcome(self, *, done: bool) -> Outcome:
        found = self.comparison
        sample = () if done else (f"the first batch, up to {self._tried}, tried and undone:",)
        says = (
            *self._plan.says,
            *sample,
            f"{found.handled} handled, {found.dead_lettered} dead-lettered,"
            f" {found.skipped} skipped; outputs: {found.equal} as published,"
            f" {found.different} differences, {found.incomparable} not comparable",
            *found.examples,
        )
        place = self.partition
        return Outcome(place.topic, place.number, ACTION, done, None, says, self._detail())


def _nothing(each: Slice, end: int) -> Handled:
    """What is left are control records and aborted data."""
    return replace(Handled(each.partition, each.first, each.first), next=end)
