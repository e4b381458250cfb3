"""Time for tests of logic: it passes when it is told to."""

from __future__ import annotations


class ManualClock:
    """Implements the engine's ``Clock``."""

    def __init__(self, seconds: float = 100.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
