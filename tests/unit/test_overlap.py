"""A batch lands in the background while the next one is handled, and nothing gets out of order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from threading import Thread
from typing import Any, cast

import pytest

from processor.engine.batch import Handled, Partition, Slice, Stop
from processor.engine.batches import Batch, Batches, Effects, Ended
from processor.engine.failures import Doubt, Overtaken
from processor.engine.handling import Run
from processor.engine.overlap import Overlap
from processor.transaction import Session, Transaction

WORD: ContextVar[str] = ContextVar("word")
ONE, OTHER = Partition("input", 0), Partition("input", 1)


class Lazy(Future[object]):
    """A call that is made when somebody waits for it."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def result(self, timeout: float | None = None) -> object:
        if not self.done():
            self.set_result(self._call())
        return super().result(timeout)


class Scripted:
    """In place of ``Batches``: writes down what happens to batches, which it knows by ``first``."""

    session = cast("Session", None)

    def __init__(self, **outcomes: Exception | Stop) -> None:
        """:param outcomes: how landing ends: ``at_5=Doubt(…)``; a ``Stop`` shows once more."""
        self.told: list[str] = []
        self.asks: set[int] = set()
        """Batches of which a handler asks Postgres, and swallows what it is told."""
        self._outcomes = outcomes

    def begin(self, slices: Any, snapshot: object, session: Session | None = None) -> Batch:
        first = slices[0].first
        self.told.append(f"handle {first}")
        if first in self.asks and session is not None:
            try:
                session.fetch_one("SELECT", None)
            except Overtaken:
                self.told.append("overtaken")
            except AttributeError:
                self.told.append("asked")
        done = [Handled(s.partition, s.first, s.first + len(s.messages)) for s in slices]
        return Batch(slices, snapshot, 0.0, Run(done, cast("Transaction", None)))

    def depart(self, batch: Batch) -> None:
        self.told.append(f"send {batch.slices[0].first}")

    def land(self, batch: Batch) -> None:
        first = batch.slices[0].first
        self.told.append(f"land {first}")
        outcome = self._outcomes.get(f"at_{first}")
        if outcome is None:
            batch.landed = True
        else:
            batch.failure = Doubt("x") if isinstance(outcome, Stop) else outcome
        self._outcome = outcome

    def end(self, batch: Batch) -> Ended:
        assert batch.run is not None
        first = batch.slices[0].first
        if not batch.landed and batch.failure is None:
            self.land(batch)
        outcome = self._outcomes.get(f"at_{first}")
        if isinstance(outcome, Stop):
            batch.failure = None
            batch.run.handled[0].stop = outcome
        self.told.append(f"end {first}")
        doubt = batch.failure if isinstance(batch.failure, Doubt) else None
        batch.effects = Effects(batch.run.handled, (), (), (), sent=False)
        return Ended(batch, () if doubt else batch.run.handled, 0.0, doubt)


def piece(first: int, count: int = 2, partition: Partition = ONE) -> Slice:
    return Slice(partition, first, [object()] * count)


def overlap(batches: Scripted, min_messages: int = 2) -> Overlap:
    return Overlap(cast("Batches", batches), Lazy, min_messages)


def test_a_small_batch_ends_at_once() -> None:
    batches = Scripted()
    turn = overlap(batches).run([piece(0, 1)], "snapshot")
    assert batches.told == ["handle 0", "land 0", "end 0"]
    assert [each.batch.snapshot for each in turn.ended] == ["snapshot"]


def test_the_next_batch_is_handled_before_a_large_one_has_landed() -> None:
    batches = Scripted()
    under = overlap(batches)
    assert not under.run([piece(0)], None).ended
    assert under.landing
    assert [each.handled[0].next for each in under.run([piece(2)], None).ended] == [2]
    assert [each.handled[0].next for each in under.settle()] == [4]
    first = ["handle 0", "send 0", "handle 2", "land 0", "end 0"]
    assert batches.told == [*first, "send 2", "land 2", "end 2"]
    assert not under.landing
    assert not under.settle()


def test_h_is_expected_where_the_batch_that_lands_ends() -> None:
    under = overlap(Scripted())
    assert under.expected(ONE) is None
    under.run([piece(5, 3), piece(9, 1, OTHER)], None)
    assert (under.expected(ONE), under.expected(OTHER)) == (8, 10)
    under.settle()
    assert under.expected(ONE) is None


@pytest.mark.parametrize("outcome", [Doubt("lost"), Stop("retry", "later", 1.0)])
def test_what_was_handled_behind_a_batch_that_was_not_whole_is_dropped(
    outcome: Doubt | Stop,
) -> None:
    batches = Scripted(at_0=outcome)
    under = overlap(batches)
    under.run([piece(0)], None)
    behind = [piece(2), piece(7, 2, OTHER)]
    turn = under.run(behind, None)
    assert [each.whole for each in turn.ended] == [False]
    assert turn.unhandled == behind
    assert not under.landing
    assert "land 2" not in batches.told


def test_a_handler_that_asks_waits_for_the_batch_before() -> None:
    batches = Scripted()
    batches.asks = {2}
    under = overlap(batches)
    under.run([piece(0)], None)
    under.run([piece(2)], None)
    assert batches.told == ["handle 0", "send 0", "handle 2", "land 0", "asked", "end 0", "send 2"]


def test_what_asked_too_early_is_handled_again() -> None:
    """Though the batch before was whole at its second attempt, and the handler hid the error."""
    batches = Scripted(at_0=RuntimeError("a violated constraint"))
    batches.asks = {2}
    under = overlap(batches)
    under.run([piece(0)], None)
    under.run([piece(2)], None)
    handled = ["handle 0", "send 0", "handle 2", "land 0", "overtaken", "end 0"]
    assert batches.told == [*handled, "handle 2", "send 2"]


@pytest.mark.parametrize("outcome", [Doubt("lost"), RuntimeError("a violated constraint")])
def test_a_batch_that_is_let_go_is_not_tried_again(outcome: Exception) -> None:
    batches = Scripted(at_0=outcome)
    under = overlap(batches)
    under.run([piece(0)], None)
    [ended] = under.let_go()
    assert isinstance(ended.doubt, Doubt)
    assert batches.told == ["handle 0", "send 0", "land 0", "end 0"]
    assert not under.let_go()


def test_a_batch_that_was_cut_is_not_left_behind() -> None:
    """What it had no room for is the next thing to be handled."""

    class Cut(Scripted):
        def begin(self, slices: Any, snapshot: object, session: Session | None = None) -> Batch:
            batch = super().begin(slices, snapshot, session)
            assert batch.run is not None
            batch.run.handled[0].rest = [object()]
            return batch

    under = overlap(Cut())
    [ended] = under.run([piece(0)], None).ended
    assert not ended.whole
    assert not under.landing


def test_a_batch_lands_in_the_context_of_the_loop() -> None:
    """Types of the pipeline's own, and decimals, find there what was set at the start."""
    seen: list[str] = []

    class Looking(Scripted):
        def land(self, batch: Batch) -> None:
            seen.append(WORD.get())
            super().land(batch)

    under = overlap(Looking())
    WORD.set("of the start")
    under.run([piece(0)], None)
    thread = Thread(target=under.settle)
    thread.start()
    thread.join()
    assert seen == ["of the start"]
