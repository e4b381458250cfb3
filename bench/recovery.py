"""After a kill: how soon every partition moves again, and how fast a long outbox is published."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.contenders import Contender, Running, processor
from bench.cpu import tree
from bench.gauge import Committed
from bench.ground import Ground, Shape
from bench.results import Result, Series
from bench.throughput import FULL, audit

WARM_SECONDS = 5.0
"""Its spare worker, which takes the place of one that dies, has started by then."""
MOVE_SECONDS = 60.0
POLL_SECONDS = 0.01
LONG_BATCH = 100_000
Reached = Callable[[Mapping[int, int]], bool]
"""Whether offsets, by partition, are where they are waited for."""
OUTBOX = Shape(100_000)
CRASH = "end.before=crash@2"
"""The first transaction sets K where nothing was handled yet."""


def recovery(ground: Ground, count: int) -> Result:
    """Seconds from SIGKILL; outputs a second of a republish."""
    firsts, killed, rates = [], [], []
    for _ in range(count):
        first, every = seconds_to_move(ground)
        firsts.append(first)
        killed.append(every)
        print(f"  moved {first:.2f} s after the kill, all by {every:.2f} s", file=sys.stderr)
        rates.append(republish_rate(ground))
        print(f"  published again: {rates[-1]:,.0f}/s", file=sys.stderr)
    result = Result("recovery", "After kill -9 of the only worker", "as named")
    result.series = {
        "seconds until K moves": Series(tuple(firsts)),
        "seconds until every partition, each with a backlog, has moved": Series(tuple(killed)),
        "outputs a second, published again from a long outbox": Series(tuple(rates)),
    }
    return result


def seconds_to_move(ground: Ground) -> tuple[float, float]:
    """From SIGKILL of the worker until K of any, and of each partition is beyond what it was."""
    with_work = Trial(ground, processor("full"), FULL)
    try:
        with_work.wait(lambda k: len(k) == FULL.partitions)
        time.sleep(WARM_SECONDS)
        os.kill(worker_of(with_work.running.pid), signal.SIGKILL)
        began, before = time.monotonic(), with_work.committed.by_partition()
        with_work.wait(lambda k: any(k.get(n, 0) > at for n, at in before.items()))
        first = time.monotonic() - began
        with_work.wait(lambda k: all(k.get(n, 0) > at for n, at in before.items()))
        every = time.monotonic() - began
        with_work.end()
    finally:
        with_work.kill()
    return first, every


def republish_rate(ground: Ground) -> float:
    """One batch is stored and never published; the next process publishes it from the outbox."""
    fired = ground.folder / ground.name("fired")
    fired.mkdir()
    contender = processor(
        "transform",
        batch_max_messages=LONG_BATCH,
        batch_max_bytes=1_000_000_000,
        batch_max_output_bytes=1_000_000_000,
        batch_max_seconds=60,
        faults=CRASH,
        faults_folder=fired,
        log_format="json",
    )
    trial = Trial(ground, contender, OUTBOX)
    try:
        trial.wait(lambda k: sum(k.values()) == OUTBOX.total)
        rate = told_rate(trial.running.log)
        trial.end()
    finally:
        trial.kill()
    return rate


def told_rate(log: Path) -> float:
    """By the worker's own log: from the first decision to publish again to the last one done."""
    began: list[datetime] = []
    ended: list[datetime] = []
    outputs = 0
    for line in log.read_text().splitlines():
        event = parsed(line)
        if event.get("event") == "recovery" and "Republish" in event.get("decision", ""):
            began.append(datetime.fromisoformat(event["timestamp"]))
        elif event.get("event") == "republished":
            ended.append(datetime.fromisoformat(event["timestamp"]))
            outputs += event["outputs"]
    if not began or not ended:
        raise SystemExit(f"nothing was published again: no figure\n{log.read_text()[-2_000:]}")
    return outputs / (max(ended) - min(began)).total_seconds()


def parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Trial:
    """A contender over a topic, its offsets watched."""

    def __init__(self, ground: Ground, contender: Contender, shape: Shape) -> None:
        self._ground = ground
        self._topics = (ground.filled(shape), ground.topic("output"))
        group = ground.name("group")
        if contender.tables:
            ground.empty_tables()
        self.committed = Committed(ground.servers, group, self._topics[0], shape.partitions)
        environment = ground.stack.environment
        self.running = Running(contender, environment, self._topics, group, ground.log(group))

    def wait(self, reached: Reached) -> None:
        """:raises SystemExit: when the offsets do not get there."""
        deadline = time.monotonic() + MOVE_SECONDS
        while not reached(self.committed.by_partition()):
            self.running.check()
            if time.monotonic() > deadline:
                raise SystemExit(f"it stands still: no figure{self.running.log_tail()}")
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """:raises SystemExit: when anything was lost or doubled."""
        self.running.end()
        done = self.committed.by_partition()
        faults = audit(self._ground, self.running.contender, self._topics[1], done)
        if faults:
            raise SystemExit(f"{'; '.join(faults[:5])}: no figure")
        self._ground.drop(self._topics[1])

    def kill(self) -> None:
        self.running.kill()
        self.committed.close()


def worker_of(supervisor: int) -> int:
    """The worker of slot 0; the spare one has no slot yet."""
    for pid in tree(supervisor):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"processor.operations.work" in words and words[-2] == b"0":
            return pid
    raise SystemExit("there is no worker: no figure")
