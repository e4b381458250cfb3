"""What ends a batch before its messages do: the size of its outputs, and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from processor.engine.batch import Handled


@dataclass(slots=True)
class Limits:
    """What ends a batch before its messages do.

    Each slice has an equal part of the time that is left, so that a slow one does not have it all.
    """

    output_bytes: int
    """What those that are still to be counted may have together."""
    deadline: float
    clock: Callable[[], float]
    began: float = 0.0
    until: float = 0.0
    """The slice's own time."""

    def begin(self, left: int) -> None:
        """A slice begins.

        :param left: how many there are, with this one.
        """
        self.began = now = self.clock()
        self.until = now + (self.deadline - now) / left

    def reached(self, handled: Handled) -> bool:
        """:param handled: what is under way, not counted yet."""
        return handled.output_bytes >= self.output_bytes or self.clock() > self.until

    def count(self, handled: Handled) -> None:
        """The slice is done."""
        self.output_bytes -= handled.output_bytes
        handled.seconds = self.clock() - self.began
