"""One worker of the processor whose steps are timed: ``python -m bench.work.timed REFERENCE``.

Ended by SIGTERM, it prints how often each step was taken and how many seconds it took in all.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import defaultdict

from processor.engine.assembly import run_worker
from processor.engine.observer import NullObserver
from processor.engine.steps import Step
from processor.operations.loading import load_pipeline
from processor.settings import load


class Timed(NullObserver):
    """Sums up, from the first batch on: what a start takes is not a message's."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self.handled = 0

    def step_took(self, step: Step, seconds: float) -> None:
        if self.handled:
            total = self.steps[step]
            total[0] += 1
            total[1] += seconds

    def committed(
        self,
        partitions: int,  # noqa: ARG002
        handled: int,
        outputs: int,  # noqa: ARG002
        dead_letters: int,  # noqa: ARG002
        duplicates: int,  # noqa: ARG002
        seconds: float,  # noqa: ARG002
    ) -> None:
        self.handled += handled


def main(reference: str) -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    timed = Timed()
    code = run_worker(
        load_pipeline(reference), load(), 0, timed, lambda: bool(stopped), lambda: None
    )
    print(json.dumps({"handled": timed.handled, "steps": timed.steps}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
