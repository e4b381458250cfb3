"""After a kill: how soon every partition moves again, and how fast a long outbox is published."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.contenders import processor
from bench.cpu import tree
from bench.ground import Ground, Shape
from bench.results import Result, Series
from bench.throughput import FULL
from bench.trial import Trial

WARM_SECONDS = 5.0
"""Its spare worker, which takes the place of one that dies, has started by then."""
MOVE_SECONDS = 60.0
LONG_BATCH = 100_000
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
    with_work = Trial(ground, processor("full"), ground.filled(FULL), FULL.partitions)
    try:
        with_work.wait(lambda k: len(k) == FULL.partitions, MOVE_SECONDS)
        time.sleep(WARM_SECONDS)
        os.kill(worker_of(with_work.running.pid), signal.SIGKILL)
        began, before = time.monotonic(), with_work.committed.by_partition()
        with_work.wait(lambda k: any(k.get(n, 0) > at for n, at in before.items()), MOVE_SECONDS)
        first = time.monotonic() - began
        with_work.wait(lambda k: all(k.get(n, 0) > at for n, at in before.items()), MOVE_SECONDS)
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
    trial = Trial(ground, contender, ground.filled(OUTBOX), OUTBOX.partitions)
    try:
        trial.wait(lambda k: sum(k.values()) == OUTBOX.total, MOVE_SECONDS)
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


def worker_of(supervisor: int) -> int:
    """The worker of slot 0; the spare one has no slot yet."""
    for pid in tree(supervisor):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"processor.operations.work" in words and words[-2] == b"0":
            return pid
    raise SystemExit("there is no worker: no figure")
