"""Under backlog a batch takes effect while the handlers of the next one run.

At most one batch does. What was handled behind it is kept only if it took effect whole; all that
handlers buffer is independent of what came before, and one that asks Postgres waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, LiteralString

from processor.engine.batch import Partition, Slice
from processor.engine.batches import Batch, Batches, Ended, matters_behind
from processor.engine.clients import Background
from processor.engine.failures import Doubt, Overtaken
from processor.transaction import Parameters, Row, Session, Statement
from processor.writes import CopyWrite, UpsertWrite


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn of the loop has brought."""

    ended: Sequence[Ended]
    unhandled: Sequence[Slice] = ()
    """Read behind a batch that did not take effect whole; to be handled where they still fit."""


class Overlap:
    """Runs batches, and lets a large one land in the background.

    The partitions of a batch that lands are not to be changed before it is settled.
    """

    def __init__(self, batches: Batches, background: Background, min_messages: int) -> None:
        """:param min_messages: a smaller batch is not worth another thread."""
        self._batches = batches
        self._background = background
        self._min_messages = min_messages
        self._landing: Landing | None = None

    @property
    def landing(self) -> bool:
        """Whether a batch is to be settled."""
        return self._landing is not None

    def expected(self, partition: Partition) -> int | None:
        """H of a partition, once the batch that lands has done so; None if it has no part in it."""
        return None if self._landing is None else self._landing.ends.get(partition)

    def run(self, slices: Sequence[Slice], snapshot: object) -> Turn:
        """Handle a batch, settle the one before, and let this one take effect.

        :param snapshot: the group metadata of the assignment under which the slices were read.
        """
        behind = None if self._landing is None else Behind(self._batches.session, self._landing)
        batch = self._batches.begin(slices, snapshot, behind)
        ended = self.settle()
        if not all(each.whole for each in ended):
            return Turn(ended, slices)
        if behind is not None and behind.overtaken:
            batch = self._batches.begin(slices, snapshot)
        if self._is_worth_it(batch):
            self._batches.depart(batch)
            if batch.failure is None:
                self._landing = self._land(batch)
                return Turn(ended)
        return Turn([*ended, self._batches.end(batch)])

    def settle(self) -> list[Ended]:
        """Wait for the batch that lands; one that failed is run again."""
        landing, self._landing = self._landing, None
        return [] if landing is None else [self._batches.end(landing.wait())]

    def let_go(self) -> list[Ended]:
        """As :meth:`settle`, but one that failed is dropped: its partitions may be another's."""
        landing, self._landing = self._landing, None
        if landing is None:
            return []
        batch = landing.wait()
        if batch.failure is not None and not isinstance(batch.failure, Doubt):
            batch.failure = Doubt(f"a batch was dropped after {batch.failure!r}")
        return [self._batches.end(batch)]

    def _land(self, batch: Batch) -> Landing:
        """In the loop's context: types and dumpers of the pipeline's own find what it has set."""
        run = copy_context().run
        return Landing(batch, self._background(partial(run, self._batches.land, batch)))

    def _is_worth_it(self, batch: Batch) -> bool:
        if batch.run is None or any(map(matters_behind, batch.run.handled)):
            return False
        return sum(len(each.messages) for each in batch.slices) >= self._min_messages


class Landing:
    """A batch that takes effect in the background."""

    def __init__(self, batch: Batch, done: Future[object]) -> None:
        assert batch.run is not None, "its handlers have succeeded"
        self.ends = {each.partition: each.next for each in batch.run.handled}
        self._batch = batch
        self._done = done

    def wait(self) -> Batch:
        self._done.result()
        return self._batch


class Behind:
    """Implements ``processor.transaction.Session`` for a batch that is handled behind another."""

    def __init__(self, session: Session, before: Landing) -> None:
        self._session = session
        self._before = before
        self.overtaken = False
        """A handler has asked, and what it would have seen is not what it should."""

    def copy(self, write: CopyWrite) -> None:
        self._ours().copy(write)

    def upsert(self, write: UpsertWrite) -> None:
        self._ours().upsert(write)

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        return self._ours().execute(statement, parameters)

    def fetch_one(self, statement: Statement, parameters: Parameters) -> Row | None:
        return self._ours().fetch_one(statement, parameters)

    def fetch_all(self, statement: Statement, parameters: Parameters) -> list[Any]:
        return self._ours().fetch_all(statement, parameters)

    def ask(self, query: LiteralString, parameters: Sequence[Any]) -> list[Row]:
        return self._ours().ask(query, parameters)

    def _ours(self) -> Session:
        """:raises Overtaken: when the batch before did not take effect."""
        if not self._before.wait().landed:
            self.overtaken = True
            raise Overtaken("the batch before has to be run again")
        return self._session
