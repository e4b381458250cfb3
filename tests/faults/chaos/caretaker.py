"""Looks after the partitions while the campaign runs, as an operator would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg

from devstack import Kafka
from tests.faults.chaos.offsets import Offsets
from tests.faults.chaos.pipeline import GROUP

POLL_SECONDS = 1.0
SETTLE_SECONDS = 20.0
"""After a remedy, before the next one."""

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


class Caretaker:
    """Restarts the group's coordinator where the processor says that this is the remedy.

    Kafka 4.3.1, killed and restarted, at times keeps a transaction that has ended in the memory of
    its group coordinator (docs/architecture.md, What surprised us).
    """

    def __init__(self, url: str, kafka: Kafka, tell: Callable[[str], None]) -> None:
        self.remedies = 0
        self._url, self._kafka, self._tell = url, kafka, tell
        self._offsets = Offsets(kafka.bootstrap_servers)
        self._paused = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            if not self._paused and self._is_stale():
                self._tell("the remedy for offset-unstable: the group's coordinator is restarted")
                self._kafka.restart(self._offsets.coordinator() or 0)
                self.remedies += 1
                self._stop.wait(SETTLE_SECONDS)

    def _is_stale(self) -> bool:
        with suppress(psycopg.Error):
            return any(each.reason == "offset-unstable" for each in states(self._url))
        return False


def states(url: str) -> list[State]:
    """Of all partitions."""
    with psycopg.connect(url, connect_timeout=2) as connection:
        return [State(*row) for row in connection.execute(_STATES, (GROUP,)).fetchall()]
