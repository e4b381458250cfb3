"""What the owners of the partitions say of them."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from tests.faults.chaos.pipeline import GROUP

_STATES = """
SELECT partition, slot, state, reason, detail FROM processor.partition_states WHERE group_id = %s
"""


class State(NamedTuple):
    """What a partition's owner last said of it."""

    partition: int
    slot: str
    state: str
    reason: str | None
    detail: str | None


def states(url: str) -> list[State]:
    """Of all partitions."""
    with psycopg.connect(url, connect_timeout=2) as connection:
        return [State(*row) for row in connection.execute(_STATES, (GROUP,)).fetchall()]
