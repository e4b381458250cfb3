"""Carries out the plan: signals to the workers, each at its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from demo.plan import Blow, Kind
from demo.story import Mood
from devstack import Service

Tell = Callable[[Mood, str], None]
Name = Callable[[int], str]
Struck = Callable[[int, bool], None]
"""Takes a pid, and whether it was killed; else it was frozen and goes on now."""

PATIENCE_SECONDS = 3.0


class Blows:
    """Blows fall at their times, or a little later: when no worker is up at that moment, and
    when the last blow has not been overcome, for a limited time. Those that follow are later,
    too. A slow machine then shows recoveries as well, and not one long outage.
    """

    def __init__(
        self,
        plan: Sequence[Blow],
        service: Service,
        random: Random,
        name: Name,
        tell: Tell,
        struck: Struck,
        patience_seconds: float,
    ) -> None:
        """:param patience_seconds: how long may be waited for recoveries, in all."""
        self.kills = 0
        self._patience = patience_seconds
        self._plan = list(plan)
        self._service = service
        self._random = random
        self._name = name
        self._tell = tell
        self._struck = struck
        self._began = time.monotonic()
        """Moved by what the blows are late."""
        self._frozen: dict[int, float] = {}

    @property
    def frozen(self) -> frozenset[int]:
        """The pids that stand still."""
        return frozenset(self._frozen)

    @property
    def over(self) -> bool:
        """All have fallen, and nothing is frozen any more."""
        return not self._plan and not self._frozen

    def strike(self, overcome: bool) -> None:
        """Do what is due.

        :param overcome: everything runs again since the last blow.
        """
        self._thaw()
        if not self._plan:
            return
        late = time.monotonic() - self._began - self._plan[0].at
        wait = 0.0 if overcome else min(PATIENCE_SECONDS, self._patience)
        if late >= wait and self._hit(self._plan[0]):
            self._plan.pop(0)
            self._began += late
            self._patience = max(0.0, self._patience - late)

    def _hit(self, blow: Blow) -> bool:
        candidates = [pid for pid in self._service.workers() if pid not in self._frozen]
        if not candidates:
            return False
        pid = self._random.choice(candidates)
        if blow.kind is Kind.KILL:
            return self._kill(pid)
        return self._freeze(pid, blow.frozen_seconds)

    def _kill(self, pid: int) -> bool:
        if self._service.kill_worker(pid) is None:
            return False
        self.kills += 1
        self._tell(Mood.BLOW, f"SIGKILL {self._name(pid)}")
        self._struck(pid, True)
        return True

    def _freeze(self, pid: int, seconds: float) -> bool:
        if self._service.stop_worker(pid) is None:
            return False
        self._frozen[pid] = time.monotonic() + seconds
        self._tell(Mood.PAUSE, f"SIGSTOP {self._name(pid)}, for {seconds:.1f} s")
        return True

    def _thaw(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            del self._frozen[pid]
            self._service.continue_worker(pid)
            self._tell(Mood.THAW, f"SIGCONT {self._name(pid)}")
            self._struck(pid, False)
