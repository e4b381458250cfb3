"""Workers are killed at random moments, all along."""

from __future__ import annotations

import threading
from random import Random

from tests.faults.poison.stage import WORKERS, Stage

FEW = 0.3
"""How often one is killed while others are being started again: the supervisor waits longer and
longer for one that dies young, and in the end nobody would work."""


class Killer:
    """A thread, in a ``with`` block; ``kills`` counts."""

    def __init__(self, stage: Stage, rng: Random, seconds: tuple[float, float]) -> None:
        self.kills = 0
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
            if self._stage.workers() == WORKERS or self._rng.random() < FEW:
                self.kills += self._stage.kill_worker(self._rng)
