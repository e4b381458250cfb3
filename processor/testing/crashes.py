"""The worker dies at a named step, as by ``kill -9``, and is started again."""

from __future__ import annotations

from dataclasses import dataclass

from processor.engine.steps import Edge, Step
from processor.testing.results import PipelineTestError

BATCH_STEPS = (
    Step.HANDLE,
    Step.BEGIN,
    Step.FLUSH,
    Step.STORE,
    Step.COMMIT,
    Step.SEND,
    Step.SEND_OFFSETS,
    Step.END,
)
"""What a batch passes on its way; one without outputs passes the last three a little later."""
EDGES: tuple[Edge, ...] = ("before", "inside", "after")
"""Nothing was sent; the call has begun, and perhaps been served; it is done."""


@dataclass(slots=True)
class Crash:
    """One that is still to come: at the n-th visit of a step's edge.

    Recovery and housekeeping take some of a batch's steps as well; where one of those is named, the
    next batch's is meant.
    """

    step: Step
    edge: Edge
    visit: int
    visits: int = 0
    has_batch: bool = False
    """Handlers have begun since it was asked for."""

    def is_due(self, step: Step, edge: Edge) -> bool:
        """Told of each edge that the worker passes."""
        self.has_batch |= step is Step.HANDLE
        if (step, edge) != (self.step, self.edge):
            return False
        if step in BATCH_STEPS and not self.has_batch:
            return False
        self.visits += 1
        return self.visits == self.visit

    def __str__(self) -> str:
        times = f", visit {self.visit}" if self.visit > 1 else ""
        return f"{self.step}.{self.edge}{times}"


def crash_of(step: Step | str, edge: str, visit: int) -> Crash:
    """:raises PipelineTestError: for a step or an edge that there is not."""
    if step not in set(Step):
        raise PipelineTestError(f"there is no step {step!r}; the steps: {', '.join(Step)}")
    if edge not in EDGES:
        raise PipelineTestError(f"there is no edge {edge!r}; a step has: {', '.join(EDGES)}")
    if visit < 1:
        raise PipelineTestError(f"visit is {visit}; the first one is 1")
    return Crash(Step(step), edge, visit)
