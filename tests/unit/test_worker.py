"""What the loop makes of failures, over mocks of its rooms."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from processor.engine.batch import Handled, Partition, Slice
from processor.engine.batches import Batch, Ended
from processor.engine.consumer import Fetched
from processor.engine.failures import Doubt
from processor.engine.overlap import Turn
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.worker import Rooms, Worker
from tests.unit.test_consumer import FIRST, SECOND


def worker_of(partitions: Partitions) -> tuple[Worker, Any]:
    """With its rooms, all of them mocks."""
    rooms: Any = Rooms(partitions, *(MagicMock() for _ in range(6)))  # type: ignore[arg-type]
    rooms.clock.now.return_value = 1.0
    rooms.overlap.landing = False
    rooms.overlap.expected.return_value = None
    worker = Worker(rooms, "incarnation", lambda: False)
    worker.consumer, worker.recoverer, worker.housekeeping = (MagicMock() for _ in range(3))
    return worker, rooms


def running(*partitions: Partition) -> Partitions:
    return Partitions({p: Owned(p, State.RUNNING, next_offset=5) for p in partitions})


def ended(doubt: Doubt | None = None, *handled: Handled) -> Ended:
    return Ended(Batch([Slice(FIRST, 5, [])], None, 0.0), handled, 0.1, doubt)


def test_a_start_that_fails_after_a_back_off_is_a_doubt() -> None:
    partitions = Partitions({FIRST: Owned(FIRST, State.BACKING_OFF)})
    worker, _ = worker_of(partitions)
    start: Any = worker.consumer.start
    start.side_effect = Doubt("seek: refused")
    fetch: Any = worker.consumer.fetch
    fetch.return_value = Fetched()
    worker.turn()
    assert partitions[FIRST].state is State.RECOVERING


def test_no_k_is_sent_for_a_batch_in_doubt_when_partitions_are_given_away() -> None:
    """What it has published may stand: K as it was before would go back behind that."""
    partitions = running(FIRST, SECOND)
    worker, rooms = worker_of(partitions)
    rooms.overlap.let_go.return_value = [ended(Doubt("lost"))]
    finish: Any = worker.housekeeping.finish
    finish.side_effect = lambda _: found.extend(partitions.running())
    found: list[Owned] = []
    worker.revoked([FIRST, SECOND])
    assert [each.partition for each in found] == [SECOND]
    rooms.publisher.retire.assert_called()


@pytest.mark.parametrize("change", ["assigned", "revoked", "lost"])
def test_a_batch_that_lands_is_let_go_before_the_assignment_changes(change: str) -> None:
    partitions = running(FIRST)
    worker, rooms = worker_of(partitions)
    rooms.overlap.let_go.side_effect = lambda: seen.append(set(partitions.owned)) or []
    seen: list[set[Partition]] = []
    getattr(worker, change)([FIRST] if change != "assigned" else [SECOND])
    assert seen == [{FIRST}]


def test_what_was_read_behind_a_failed_batch_is_given_back_before_that_is_dropped() -> None:
    partitions = running(FIRST, SECOND)
    worker, rooms = worker_of(partitions)
    behind = [Slice(FIRST, 5, ["a"]), Slice(SECOND, 5, ["b"])]
    fetch: Any = worker.consumer.fetch
    fetch.return_value = Fetched(list(behind))
    rooms.overlap.run.return_value = Turn([ended(Doubt("lost"))], behind)
    worker.turn()
    consumer: Any = worker.consumer
    told = [(call[0], *call.args) for call in consumer.mock_calls if call[0] != "fetch"]
    assert told[:3] == [
        ("give_back", behind[1]),
        ("give_back", behind[0]),
        ("hold", [FIRST]),
    ], "what does not fit is dropped after that"


def test_a_batch_that_fits_behind_the_one_that_lands_is_trusted() -> None:
    partitions = running(FIRST)
    worker, rooms = worker_of(partitions)
    rooms.overlap.expected.return_value = 9
    rooms.overlap.run.return_value = Turn([])
    fetch: Any = worker.consumer.fetch
    for first, state in ((9, State.RUNNING), (5, State.RECOVERING)):
        fetch.return_value = Fetched([Slice(FIRST, first, ["a"])])
        worker.turn()
        assert partitions[FIRST].state is state
