"""Which fault comes when: drawn from a seed; some overlap, none breaks what is broken already."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

from tests.faults.chaos.nemesis import Nemesis
from tests.faults.chaos.stage import Stage

TICK_SECONDS = 0.05
MOST_AT_ONCE = 3

PATIENCE_SECONDS = 2.5
"""How long to wait until the last faults are overcome, before the next one."""
OVERLAPPING = 0.3
"""The share of faults for which is not waited."""

Mended = Callable[[str], None]
"""Is told each fault's kind when it is over."""


class Schedule:
    """Inflicts faults on the stage until told to stop.

    The seed decides the kinds, their order, how long they last and where they strike; when exactly
    depends on the machine.
    """

    def __init__(
        self,
        stage: Stage,
        kinds: Sequence[Nemesis],
        seed: int,
        gap_seconds: float,
        mended: Mended,
        overcome: Callable[[], bool] = lambda: True,
    ) -> None:
        """:param overcome: whether everything runs again since the last fault."""
        self.done: list[str] = []
        """The kinds of the faults that were inflicted."""
        self._stage, self._kinds = stage, kinds
        self._rng = Random(seed)
        self._gap_seconds = gap_seconds
        self._mended = mended
        self._overcome = overcome
        self._patience = 0.0
        self._broken: set[str] = set()
        self._active: list[str] = []
        self._running: set[Future[None]] = set()
        self._lock = threading.Lock()

    def now(self) -> str:
        """What is broken at this moment."""
        with self._lock:
            return ", ".join(sorted(self._active)) or "nothing"

    def run(self, seconds: float, tick: Callable[[], None]) -> None:
        """Returns when all faults are taken back.

        :param tick: called all the time; raises when the campaign cannot go on.
        """
        until = time.monotonic() + seconds
        coverage = list(self._kinds)
        self._rng.shuffle(coverage)
        with ThreadPoolExecutor(2 * MOST_AT_ONCE, thread_name_prefix="nemesis") as pool:
            try:
                next_at = time.monotonic()
                while time.monotonic() < until:
                    tick()
                    time.sleep(TICK_SECONDS)
                    self._collect()
                    if self._is_time(next_at):
                        self._strike(pool, coverage)
                        next_at = time.monotonic() + self._rng.expovariate(1 / self._gap_seconds)
                        self._patience = (
                            0.0 if self._rng.random() < OVERLAPPING else PATIENCE_SECONDS
                        )
                while self._running:
                    tick()
                    time.sleep(TICK_SECONDS)
                    self._collect()
            except BaseException:
                self._stage.stopping.set()
                raise

    def _is_time(self, due: float) -> bool:
        late = time.monotonic() - due
        if late < 0 or len(self._running) >= MOST_AT_ONCE:
            return False
        return late >= self._patience or (not self._running and self._overcome())

    def _strike(self, pool: ThreadPoolExecutor, coverage: list[Nemesis]) -> None:
        """Each kind once at first, then by weight."""
        with self._lock:
            free = [kind for kind in self._kinds if kind.touches not in self._broken]
            first = next((kind for kind in coverage if kind in free), None)
            if first is not None:
                coverage.remove(first)
            chosen = first or self._rng.choices(free, [kind.weight for kind in free])[0]
            if chosen.touches:
                self._broken.add(chosen.touches)
        own = Random(self._rng.getrandbits(64))
        self._running.add(pool.submit(self._inflict, chosen, own))

    def _inflict(self, kind: Nemesis, rng: Random) -> None:
        try:
            heal = kind.inflict(self._stage, rng)
            if heal is None:
                return
            with self._lock:
                self.done.append(kind.name)
                self._active.append(kind.name)
            self._stage.stopping.wait(kind.draw(rng))
            heal()
            with self._lock:
                self._active.remove(kind.name)
            self._mended(kind.name)
        finally:
            with self._lock:
                self._broken.discard(kind.touches)

    def _collect(self) -> None:
        """:raises Exception: what a fault could not do."""
        for future in [each for each in self._running if each.done()]:
            self._running.discard(future)
            future.result()
