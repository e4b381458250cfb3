"""What triggers set off, by what Postgres says of letters and queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from processor.engine.replays import Replays
from processor.engine.triggers import queue_triggers, read_trigger
from tests.support.messages import Raw
from tests.support.stores import ListSession

QUEUE = 7


class Waiting(ListSession):
    """One queue, which is locked, and the letters that are parked in it."""

    def __init__(self, parked: int) -> None:
        super().__init__()
        self.parked = parked

    def ask(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        if "parked_keys k WHERE" in query:
            return [(QUEUE,)]
        if "count(*)" in query:
            return [(self.parked,)]
        if "'pending'" in query:
            return []
        rows = min(self.parked, parameters[1])
        return [(n, "steps", 0, n, b"key", b"", b"\x90", None, QUEUE) for n in range(rows)]


@pytest.mark.parametrize(
    ("parked", "growing", "releases", "sent"),
    [(0, False, True, 0), (0, True, False, 1), (1, False, False, 1), (1, True, False, 1)],
)
def test_a_key_flows_again_only_when_nothing_is_parked_by_this_batch_either(
    parked: int, growing: bool, releases: bool, sent: int
) -> None:
    """What the batch is about to park is in no table yet, and no lock keeps it from itself."""
    [(_, last)] = queue_triggers(b"key", QUEUE, 0)
    [task] = Replays("group").read(
        Waiting(parked), [Raw(0, last)], {QUEUE} if growing else frozenset()
    )
    assert task.releases is releases
    triggers = [read_trigger(value) for _, value in task.sends]
    assert [each.queue for each in triggers if each is not None] == [QUEUE] * sent
