"""Workers are killed at random moments, all along."""

from __future__ import annotations

import threading
from random import Random

from tests.faults.poison.stage import WORKERS, Stage

FEW = 0.3
"""How often one is killed while others are being started again, or nothing has moved since the last
kill: on a busy machine nobody would get to work in the end."""


class Killer:
    """A thread, in a ``with`` block; ``kills`` counts."""

    def __init__(self, stage: Stage, rng: Random, seconds: tuple[float, float]) -> None:
        self.kills = 0
        self._reached = 0
        self._stage, self._rng, self._seconds = stage, rng, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._rng.uniform(*self._seconds)):
            is_up = self._stage.workers() == WORKERS and self._stage.reached() != self._reached
            if is_up or self._rng.random() < FEW:
                self._reached = self._stage.reached()
                self.kills += self._stage.kill_worker(self._rng)
