"""Faults on purpose: brings a worker down at a named step, for tests.

``PROCESSOR_FAULTS`` holds them, separated by spaces, each
``STEP.EDGE=ACTION[:SECONDS][@VISIT[+]]``: ``commit.after=raise``, ``end.inside=crash@3``,
``store.before=stop:2``, ``commit.before=stop:9@5+``.

Edges: ``before``, nothing was sent (of ``send-offsets``, which waits for what was sent early:
before the wait); ``inside``, a moment after the call began, its reply not seen;
``after``, it is done, and an error that is raised there is a reply that was lost.

Actions: ``crash``, SIGKILL to itself; ``stop``, the whole process stands still (SIGSTOP) for so
many seconds; ``stall``, its own thread does, and heartbeats go on; ``raise``, the error by which
the step would fail. Inside a call only crash and stop are possible.

A fault fires in each process at that step's n-th visit, with a ``+`` at every n-th. With
``PROCESSOR_FAULTS_FOLDER`` it fires once in all processes together, at that visit or a later one,
and leaves a file of its name there; with a ``+``, whenever there is no such file: who takes the
file away asks for one more.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import psycopg
from confluent_kafka import KafkaError, KafkaException

from processor.engine.failures import DatabaseDoubt, Doubt, PublishDoubt
from processor.engine.steps import Edge, Fault, Step
from processor.errors import ConfigurationError

VARIABLE = "PROCESSOR_FAULTS"
FOLDER_VARIABLE = "PROCESSOR_FAULTS_FOLDER"
MOMENT_SECONDS = 0.0005
"""How long after its beginning a call is interrupted."""
DEFAULT_SECONDS = 1.0

Action = Literal["crash", "stop", "stall", "raise"]

_SYNTAX = re.compile(
    r"(?P<step>[a-z-]+)\.(?P<edge>before|inside|after)=(?P<action>crash|stop|stall|raise)"
    r"(:(?P<seconds>\d+(\.\d+)?))?(@(?P<visit>[1-9]\d*)(?P<again>\+)?)?"
)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault, not yet fired."""

    step: Step
    edge: Edge
    action: Action
    seconds: float = DEFAULT_SECONDS
    visit: int = 1
    again: bool = False

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.step}.{self.edge}={self.action}"

    def due(self, visits: int) -> bool:
        return visits % self.visit == 0 if self.again else visits >= self.visit


def from_environment() -> Fault | None:
    """What the variables ask for; None, which costs nothing, when they ask for nothing.

    :raises ConfigurationError: for a fault that cannot be read, or a folder that is not there.
    """
    planned = [parse(each) for each in os.environ.get(VARIABLE, "").split()]
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise ConfigurationError(f"{FOLDER_VARIABLE}: there is no folder {folder!r}")
    return Faults(planned, Path(folder) if folder else None) if planned else None


def parse(text: str) -> Planned:
    """:raises ConfigurationError: for a fault that cannot be read, or that is not possible."""
    found = _SYNTAX.fullmatch(text)
    if found is None or found["step"] not in set(Step):
        raise ConfigurationError(
            f"{VARIABLE}: {text!r} is not STEP.EDGE=ACTION[:SECONDS][@VISIT[+]]"
        )
    if found["edge"] == "inside" and found["action"] in ("raise", "stall"):
        raise ConfigurationError(f"{VARIABLE}: {text!r}: inside a call only crash and stop work")
    return Planned(
        Step(found["step"]),
        cast("Edge", found["edge"]),
        cast("Action", found["action"]),
        float(found["seconds"] or DEFAULT_SECONDS),
        int(found["visit"] or 1),
        bool(found["again"]),
    )


class Faults:
    """Implements :class:`Fault`."""

    def __init__(self, planned: Sequence[Planned], folder: Path | None = None) -> None:
        self._planned = list(planned)
        self._folder = folder
        self._visits: Counter[tuple[Step, Edge]] = Counter()

    def __call__(self, step: Step, edge: Edge) -> None:
        self._visits[step, edge] += 1
        visits = self._visits[step, edge]
        for each in list(self._planned):
            if (each.step, each.edge) == (step, edge) and each.due(visits):
                if not each.again:
                    self._planned.remove(each)
                if self._claim(each):
                    fire(each)
                    return

    def _claim(self, fault: Planned) -> bool:
        """Whether no other process has fired it."""
        if self._folder is None:
            return True
        try:
            (self._folder / fault.name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def fire(fault: Planned) -> None:
    if fault.action == "raise":
        raise ERRORS[fault.step](f"{fault.name}, on purpose")
    if fault.action == "stall":
        time.sleep(fault.seconds)
        return
    act = crash if fault.action == "crash" else lambda: stop(fault.seconds)
    if fault.edge == "inside":
        threading.Timer(MOMENT_SECONDS, act).start()
    else:
        act()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(seconds: float) -> None:
    """Stand still, threads and all, as in a machine that was suspended.

    Another process stops this one and lets it go on, in that order whatever else does the same; it
    has the machine's own clock.
    """
    pid = os.getpid()
    command = ["/bin/sh", "-c", f"kill -STOP {pid}; sleep {seconds}; kill -CONT {pid}"]
    subprocess.Popen(command, start_new_session=True, env={}).wait()  # noqa: S603


def _kafka_error(reason: str) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._FAIL, reason))


ERRORS: dict[Step, Callable[[str], BaseException]] = {
    Step.CONSUME: _kafka_error,
    Step.CLOSE: _kafka_error,
    Step.HANDLE: RuntimeError,
    Step.CONNECT: psycopg.OperationalError,
    Step.ROLLBACK: psycopg.OperationalError,
    **dict.fromkeys(
        (
            Step.BEGIN, Step.FLUSH, Step.STORE, Step.COMMIT, Step.LOCK, Step.LOAD, Step.RENEW,
            Step.START, Step.CLEAR_INTENT, Step.RAISE, Step.WATCH, Step.REPORT, Step.ASK,
        ),
        DatabaseDoubt,
    ),
    **dict.fromkeys(
        (Step.SEND, Step.SEND_OFFSETS, Step.END, Step.ABORT, Step.INITIALISE), PublishDoubt
    ),
    **dict.fromkeys((Step.READ_TOPICS, Step.READ_OFFSETS, Step.READ_LOG), Doubt),
}  # fmt: skip
"""As which error each step fails."""
