"""One batch: handlers run, and what they asked for takes effect in both stores, or in neither."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from processor.engine.batch import Handled, Partition, Slice, Source
from processor.engine.clock import Clock
from processor.engine.failures import DatabaseDoubt, Doubt, Restart, SessionExpired
from processor.engine.handling import Handling, Run
from processor.engine.housekeeping import offset_of, row_of, sent
from processor.engine.isolation import Isolation
from processor.engine.outbox import seal
from processor.engine.partitions import Partitions
from processor.engine.publisher import Publisher
from processor.engine.store import Advance, Postponed, Store
from processor.transaction import Session

MAX_RESTARTS = 5
CAUTIOUS_BATCHES = 100
"""After a batch that the database refused: sending its outputs in vain costs new producers."""
CAREFUL_BATCHES = 100
"""After a batch in which a handler failed."""


class Suspected(Exception):
    """The batch before held what the database refuses: this one is not tried as a whole."""


@dataclass(slots=True)
class Batch:
    """A batch on its way."""

    slices: Sequence[Slice]
    snapshot: object
    """The group metadata of the assignment under which the slices were read."""
    began: float
    """When its handlers did (monotonic seconds)."""
    run: Run | None = None
    failure: Exception | None = None
    """Of the last attempt."""
    tried_at: float = 0.0
    """When the last attempt ended."""
    effects: Effects | None = None
    """Known once its outputs are sealed; they travel then."""
    landed: bool = False
    """It has taken effect in both stores."""
    careful: bool = False
    """A message whose handler fails is set aside by itself."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What has become of a batch: effects, or a doubt."""

    batch: Batch
    handled: Sequence[Handled]
    seconds: float
    doubt: Doubt | None = None

    @property
    def partitions(self) -> list[Partition]:
        return [each.partition for each in self.batch.slices]

    @property
    def whole(self) -> bool:
        """Whether it took effect, and what was handled behind it may as well."""
        return self.doubt is None and not any(map(matters_behind, self.handled))


def matters_behind(handled: Handled) -> bool:
    """Whether a batch behind it would have been handled otherwise, or not at all."""
    return bool(handled.stop or handled.rest or handled.new_keys)


@dataclass(slots=True)
class Effects:
    """What a batch is to change, and how far that has got."""

    handled: Sequence[Handled]
    moved: Sequence[Handled]
    advances: Sequence[Advance]
    postponed: Sequence[Postponed]
    sent: bool
    """Its outputs are on their way."""
    stored: bool = False
    """Its advances are written, not committed."""


class Batches:
    """Runs batches: :meth:`begin`, :meth:`depart`, :meth:`land`, :meth:`end`, each batch in turn.

    The handlers of a batch may run while the one before lands in another thread: ``begin`` touches
    neither connection nor producer as long as no handler asks Postgres, and ``land`` nothing else.
    """

    def __init__(
        self,
        partitions: Partitions,
        handling: Handling,
        isolation: Isolation,
        store: Store,
        publisher: Publisher,
        clock: Clock,
        idle_seconds: float,
    ) -> None:
        """:param idle_seconds: after how long Postgres ends a session that does nothing."""
        self._partitions = partitions
        self._handling = handling
        self._isolation = isolation
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._cautious = 0
        """Batches until outputs are sent before the writes are flushed again."""
        self._careful = 0
        """Batches until handlers are believed in again."""
        self._suspicious = False

    @property
    def session(self) -> Session:
        """What handlers ask Postgres through."""
        return self._store.session

    def begin(
        self, slices: Sequence[Slice], snapshot: object, session: Session | None = None
    ) -> Batch:
        """Run the handlers; a failure is kept for :meth:`end`.

        :param session: what they ask Postgres through, if not :attr:`session`.
        """
        careful = self._careful > 0 or self._handling.triage.expects(slices)
        batch = Batch(slices, snapshot, self._clock.now(), careful=careful)
        try:
            if self._suspicious:
                raise Suspected
            batch.run = self._handling.handle(slices, session, careful=batch.careful)
        except Exception as error:
            self._failed(batch, error)
        return batch

    def depart(self, batch: Batch) -> None:
        """Let the outputs travel, unless the writes are likely to fail.

        A failure is kept for :meth:`end`; nothing of the batch is open then.
        """
        assert batch.run is not None, "its handlers have succeeded"
        try:
            self._handling.check(batch.run)
            if not self._cautious:
                batch.effects = self._send(batch, batch.run.handled)
        except Exception as error:
            self._undo()
            self._failed(batch, error)

    def land(self, batch: Batch) -> None:
        """Have it take effect in both stores; failures are kept as those of :meth:`depart`."""
        assert batch.run is not None, "its handlers have succeeded"
        effects = batch.effects
        try:
            # The rows of progress are locked before any of the handlers': who takes the partitions
            # over finds a session that stands still by them, and ends it.
            self._handling.flush(batch.run, partial(self._write, effects) if effects else None)
            self._take_effect(batch, effects or self._send(batch, batch.run.handled))
        except Exception as error:
            self._undo()
            self._failed(batch, error)

    def end(self, batch: Batch) -> Ended:
        """Land it, if that is still to be done, in as many attempts as it takes."""
        try:
            self._persist(batch)
        except Doubt as doubt:
            self._undo()
            took = batch.tried_at - batch.began
            if isinstance(doubt, DatabaseDoubt) and took > self._idle_seconds:
                expired = SessionExpired(f"{doubt}, after {took:.1f} s in one batch")
                expired.__cause__ = doubt
                doubt = expired
            return Ended(batch, (), took, doubt)
        self._cautious = max(0, self._cautious - 1)
        self._careful = max(0, self._careful - 1)
        assert batch.effects is not None, "it has landed"
        if batch.careful and any(each.dead_letters or each.stop for each in batch.effects.handled):
            self._careful = CAREFUL_BATCHES
        for each in batch.effects.moved:
            self._handling.triage.settled(each.partition, each.next)
            self._believe(each, batch.effects.sent)
        return Ended(batch, batch.effects.handled, batch.tried_at - batch.began)

    def _persist(self, batch: Batch) -> None:
        """All at once; with care if a handler fails, and in groups if the database refuses, or if
        deadlocks do not end: then the message that meets them stops its partition alone.

        :raises Doubt: what stands is for recovery to find out.
        """
        if not batch.landed:
            self._go(batch)
        alone = False
        for attempt in range(MAX_RESTARTS * 2):
            failure, batch.failure = batch.failure, None
            if failure is None:
                return
            self._undo()
            if isinstance(failure, Doubt) or (alone and not isinstance(failure, Restart)):
                raise failure
            if isinstance(failure, Restart):
                self._cautious = CAUTIOUS_BATCHES
                alone = alone or attempt + 1 >= MAX_RESTARTS
                self._clock.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311
            elif batch.run is None and not batch.careful and not self._suspicious:
                self._careful = CAREFUL_BATCHES
                batch.careful = True
            else:
                self._cautious = CAUTIOUS_BATCHES
                alone = True
            self._once_more(batch, alone)
        raise Doubt("serialization failures do not end")

    def _once_more(self, batch: Batch, alone: bool) -> None:
        batch.run = None
        try:
            if alone:
                handled = self._isolation.run(batch.slices)
                self._suspicious = self._isolation.failures > 0
                self._take_effect(batch, self._send(batch, handled))
                return
            batch.run = self._handling.handle(batch.slices, careful=batch.careful)
        except Exception as error:
            self._undo()
            self._failed(batch, error)
            return
        self._go(batch)

    def _go(self, batch: Batch) -> None:
        """From the handlers' end on, as far as it gets."""
        if batch.failure is None and batch.effects is None:
            self.depart(batch)
        if batch.failure is None:
            self.land(batch)

    def _failed(self, batch: Batch, error: Exception) -> None:
        batch.failure, batch.tried_at, batch.effects = error, self._clock.now(), None

    def _undo(self) -> None:
        """Before another run: nothing of this one may be kept, in either store."""
        self._store.rollback()
        self._publisher.abandon()

    def _send(self, batch: Batch, handled: Sequence[Handled]) -> Effects:
        """Seal the outputs, and let them and the offsets travel; all stays invisible."""
        moved = [each for each in handled if each.next > each.first]
        advances = [self._advance(each) for each in moved]
        entries = [a.entry for a in advances if a.entry is not None and a.entry.records]
        if entries:
            offsets = [offset_of(self._partitions[each.partition], each.next) for each in moved]
            self._publisher.prepare()
            self._publisher.send(entries, offsets, batch.snapshot)
        postponed = [found for each in handled if (found := self._postponed(each))]
        return Effects(handled, moved, advances, postponed, bool(entries))

    def _take_effect(self, batch: Batch, effects: Effects) -> None:
        """Postgres commits, and then Kafka: never before that commit is known."""
        if effects.moved or effects.postponed:
            self._write(effects)
            self._store.commit_written()
            if effects.sent:
                self._publisher.commit()
        else:
            self._store.rollback()
        batch.effects, batch.landed, batch.tried_at = effects, True, self._clock.now()

    def _write(self, effects: Effects) -> None:
        if (effects.moved or effects.postponed) and not effects.stored:
            topics = self._topics(effects.moved)
            self._store.write(effects.advances, topics, effects.postponed)
            effects.stored = True

    def _postponed(self, handled: Handled) -> Postponed | None:
        stop = handled.stop
        if stop is None or stop.tried is None or stop.retry_after_seconds is None:
            return None
        row = row_of(self._partitions[handled.partition])
        return Postponed(
            row.id, row.lineage, row.token, handled.next, stop.tried, stop.retry_after_seconds
        )

    def _advance(self, handled: Handled) -> Advance:
        owned = self._partitions[handled.partition]
        row = row_of(owned)
        source = Source(
            row.topic_id, handled.partition.number, row.lineage, handled.first, handled.next
        )
        return Advance(
            progress_id=row.id,
            lineage=row.lineage,
            token=row.token,
            first=handled.first,
            next=handled.next,
            entry=seal(row.id, source, handled.records),
            extends=None if handled.records else owned.empty_from,
            leader_epoch=handled.leader_epoch,
            handled=handled.handled,
            dead_letters=handled.dead_letters,
            skipped=handled.skipped,
            replayed=handled.replayed,
            returned=handled.returned,
            released=handled.released,
            duplicates=handled.duplicates,
        )

    def _topics(self, moved: Sequence[Handled]) -> dict[int, tuple[str, str]]:
        rows = [(each.partition.topic, row_of(self._partitions[each.partition])) for each in moved]
        return {row.id: (topic, row.topic_id) for topic, row in rows}

    def _believe(self, handled: Handled, was_sent: bool) -> None:
        """H moved; a row without outputs waits to be lengthened until its end is sent as K."""
        owned = self._partitions[handled.partition]
        if handled.records:
            owned.empty_from = None
        elif owned.empty_from is None:
            owned.empty_from = handled.first
        owned.parked.update(handled.new_keys)
        owned.next_offset = handled.next
        if handled.leader_epoch is not None:
            owned.leader_epoch = handled.leader_epoch
        owned.doubts = owned.expired = 0
        if was_sent:
            sent(owned)
