"""What the loop makes of failures, over mocks of its rooms."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

from processor.engine.failures import Doubt
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.worker import Rooms, Worker
from tests.unit.test_consumer import FIRST


def test_a_start_that_fails_after_a_back_off_is_a_doubt() -> None:
    partitions = Partitions({FIRST: Owned(FIRST, State.BACKING_OFF)})
    clock: Any = MagicMock()
    clock.now.return_value = 1.0
    rooms = Rooms(partitions, *(MagicMock() for _ in range(5)), clock)  # type: ignore[arg-type]
    worker = Worker(rooms, "incarnation", lambda: False)
    worker.consumer, worker.recoverer, worker.housekeeping = (MagicMock() for _ in range(3))
    worker.consumer.start.side_effect = Doubt("seek: refused")
    worker.consumer.fetch.return_value.slices = []
    worker.turn()
    assert partitions[FIRST].state is State.RECOVERING
