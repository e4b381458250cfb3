"""What the engine reports, and to whom. The engine decides nothing by it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from processor.engine.batch import Partition
from processor.engine.register import Report
from processor.engine.steps import Step


class Observer(Protocol):
    """Told of what happens; must not raise and must not block."""

    def step_took(self, step: Step, seconds: float) -> None: ...

    def committed(
        self,
        partitions: int,
        handled: int,
        outputs: int,
        dead_letters: int,
        duplicates: int,
        seconds: float,
    ) -> None:
        """A batch took effect in both stores."""

    def doubted(self, reason: str, partitions: Collection[Partition]) -> None:
        """Something is not known any more; recovery will read it back."""

    def decided(self, partition: Partition, decision: object) -> None:
        """Recovery decided something for a partition."""

    def entered(self, report: Report) -> None:
        """A partition entered a state."""

    def assigned(self, partitions: Collection[Partition]) -> None: ...

    def noted(self, event: str, **fields: object) -> None:
        """Anything else worth a line."""


class NullObserver:
    """Watches nothing."""

    def step_took(self, step: Step, seconds: float) -> None: ...

    def committed(
        self,
        partitions: int,
        handled: int,
        outputs: int,
        dead_letters: int,
        duplicates: int,
        seconds: float,
    ) -> None: ...

    def doubted(self, reason: str, partitions: Collection[Partition]) -> None: ...

    def decided(self, partition: Partition, decision: object) -> None: ...

    def entered(self, report: Report) -> None: ...

    def assigned(self, partitions: Collection[Partition]) -> None: ...

    def noted(self, event: str, **fields: object) -> None: ...
