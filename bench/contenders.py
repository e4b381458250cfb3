"""Who does the work: the processor, and what it is measured beside."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.work.bad import none_bad
from devstack.process import Child
from processor.settings import Settings

END_SECONDS = 60.0
FLOOR_WARM_SECONDS = 2.0
"""A loop is warm sooner than a service, which also starts a spare worker."""
BOUND = Settings.model_fields["batch_max_messages"].default
"""Messages a batch, of the processor and of what is beside it."""


@dataclass(frozen=True)
class Contender:
    """A program that reads BENCH_INPUT from its start as BENCH_GROUP, and writes to BENCH_OUTPUT.

    It keeps the messages' keys, commits the offsets of what it has done, and ends on SIGTERM.
    ``tables``: whether it writes rows and counters too; ``counters``: whether those as well as
    rows.
    """

    name: str
    command: tuple[str | Path, ...]
    tables: bool = False
    counters: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    is_bad: Callable[[int, int], bool] = none_bad
    """By partition and offset: such a message becomes a dead letter, and nothing more."""
    warm_seconds: float | None = None
    """Before it is measured; as the benchmark has it unless given."""
    directory: Path | None = None
    once: bool = False
    """Only the first message of an order is to take effect."""
    prepare: Callable[[Any, str], None] = lambda *_: None
    """Is called before it starts, with a connection and its group."""


def processor(work: str, name: str = "", workers: int = 1, **settings: object) -> Contender:
    """The processor with one of the pipelines of bench/work/pipelines.py."""
    reference = f"bench.work.pipelines:{work}"
    return Contender(
        name or f"processor, {work}",
        (sys.executable, "-m", "processor", "run", reference, "--workers", str(workers)),
        tables=work != "transform",
        environment={f"PROCESSOR_{key.upper()}": str(value) for key, value in settings.items()},
    )


def floor(work: str, *, tables: bool = True, bound: int = BOUND) -> Contender:
    """One of the loops of bench/work/floors.py."""
    return Contender(
        f"{work} loop",
        (sys.executable, "-m", "bench.work.floors", work),
        tables=tables,
        environment={"BENCH_BOUND": str(bound)},
        warm_seconds=FLOOR_WARM_SECONDS,
    )


class Running:
    """A contender at work, until :meth:`end`."""

    def __init__(
        self,
        contender: Contender,
        environment: Mapping[str, str],
        topics: tuple[str, str],
        group: str,
        log: Path,
    ) -> None:
        self.contender = contender
        self.input, self.output = topics
        self.group = group
        self._child = Child(
            contender.name,
            list(contender.command),
            log=log,
            directory=contender.directory,
            environment={
                **environment,
                "BENCH_INPUT": self.input,
                "BENCH_OUTPUT": self.output,
                "BENCH_GROUP": group,
                "PROCESSOR_GROUP_ID": group,
                "PROCESSOR_INSTANCE": "bench",
                **contender.environment,
            },
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log(self) -> Path:
        return self._child.log

    def log_tail(self) -> str:
        """What it said last."""
        return self._child.log_tail()

    def check(self) -> None:
        """:raises StackError: when it has ended by itself."""
        self._child.check()

    def end(self) -> None:
        """SIGTERM, and until it has ended: what it has begun is done then."""
        self._child.stop(signal.SIGTERM, END_SECONDS)

    def kill(self) -> None:
        if self._child.alive:
            self._child.kill()
