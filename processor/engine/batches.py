"""One batch: handlers run, and what they asked for takes effect in both stores, or in neither."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from processor.engine.batch import Handled, Slice, Source
from processor.engine.clock import Clock
from processor.engine.failures import DatabaseDoubt, Doubt, Restart, SessionExpired
from processor.engine.handling import Handling
from processor.engine.housekeeping import offset_of, row_of, sent
from processor.engine.isolation import Isolation
from processor.engine.outbox import seal
from processor.engine.partitions import Partitions
from processor.engine.publisher import Publisher
from processor.engine.store import Advance, Store

MAX_RESTARTS = 5
CAUTIOUS_BATCHES = 100
"""After a failed batch: sending its outputs in vain costs new producers."""


@dataclass(slots=True)
class Effects:
    """What a batch is to change, and how far that has got."""

    moved: Sequence[Handled]
    advances: Sequence[Advance]
    sent: bool
    """Its outputs are on their way."""
    stored: bool = False
    """Its advances are written, not committed."""


class Ahead:
    """Implements ``handling.Ahead``: Kafka and Postgres have their work while the batch goes on."""

    def __init__(
        self, send: Callable[[Sequence[Handled]], Effects], store: Callable[[Effects], None]
    ) -> None:
        self._send = send
        self._store = store
        self.effects: Effects | None = None

    def handled(self, handled: Sequence[Handled]) -> None:
        self.effects = self._send(handled)

    def flushed(self) -> None:
        if self.effects is not None:
            self._store(self.effects)


class Batches:
    """Runs batches, one at a time."""

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
        self._snapshot: object = None
        self._cautious = 0
        """Batches until outputs are sent before the writes are flushed again."""

    def run(self, slices: Sequence[Slice], snapshot: object) -> list[Handled]:
        """One batch, in one Postgres and one Kafka transaction.

        :param snapshot: the group metadata of the assignment under which the slices were read.
        :raises Doubt: nothing is open any more, and what stands is for recovery to find out.
        """
        self._snapshot = snapshot
        began = self._clock.now()
        try:
            handled, effects = self._handle(slices)
            self._take_effect(effects)
        except Doubt as doubt:
            self._undo()
            took = self._clock.now() - began
            if isinstance(doubt, DatabaseDoubt) and took > self._idle_seconds:
                raise SessionExpired(f"{doubt}, after {took:.1f} s in one batch") from doubt
            raise
        return handled

    def _handle(self, slices: Sequence[Slice]) -> tuple[list[Handled], Effects]:
        """Run the handlers: all at once, and if that fails message by message.

        The outputs of a batch that is expected to succeed travel while its writes are flushed.
        """
        alone = False
        for attempt in range(MAX_RESTARTS * 2):
            ahead = None if alone or self._cautious else Ahead(self._send, self._write)
            try:
                if alone:
                    handled = self._isolation.run(slices)
                else:
                    handled = self._handling.run(slices, ahead)
            except Restart:
                self._undo()
                self._cautious = CAUTIOUS_BATCHES
                self._clock.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311
            except Doubt:
                raise
            except Exception:
                if alone:
                    raise
                self._undo()
                self._cautious = CAUTIOUS_BATCHES
                alone = True
            else:
                self._cautious = max(0, self._cautious - 1)
                return handled, (ahead and ahead.effects) or self._send(handled)
        raise Doubt("deadlocks or serialization failures do not end")

    def _undo(self) -> None:
        """Before another run: nothing of this one may be kept, in either store."""
        self._store.rollback()
        self._publisher.abandon()

    def _send(self, handled: Sequence[Handled]) -> Effects:
        """Seal the outputs, and let them and the offsets travel; all stays invisible."""
        moved = [each for each in handled if each.next > each.first]
        advances = [self._advance(each) for each in moved]
        entries = [a.entry for a in advances if a.entry is not None and a.entry.records]
        if entries:
            offsets = [offset_of(self._partitions[each.partition], each.next) for each in moved]
            self._publisher.prepare()
            self._publisher.send(entries, offsets, self._snapshot)
        return Effects(moved, advances, bool(entries))

    def _take_effect(self, effects: Effects) -> None:
        """Postgres commits, and then Kafka: never before that commit is known."""
        moved = effects.moved
        if not moved:
            self._store.rollback()
            return
        self._write(effects)
        self._store.commit_written()
        for each in moved:
            self._believe(each)
        if effects.sent:
            self._publisher.commit()
            for each in moved:
                sent(self._partitions[each.partition])

    def _write(self, effects: Effects) -> None:
        if effects.moved and not effects.stored:
            self._store.write(effects.advances, self._topics(effects.moved))
            effects.stored = True

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
        )

    def _topics(self, moved: Sequence[Handled]) -> dict[int, tuple[str, str]]:
        rows = [(each.partition.topic, row_of(self._partitions[each.partition])) for each in moved]
        return {row.id: (topic, row.topic_id) for topic, row in rows}

    def _believe(self, handled: Handled) -> None:
        """H moved; a row without outputs waits to be lengthened until its end is sent as K."""
        owned = self._partitions[handled.partition]
        if handled.records:
            owned.empty_from = None
        elif owned.empty_from is None:
            owned.empty_from = handled.first
        owned.next_offset = handled.next
        if handled.leader_epoch is not None:
            owned.leader_epoch = handled.leader_epoch
        owned.doubts = owned.expired = 0
