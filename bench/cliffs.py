"""Where a service might fall over an edge: a long backlog, a slow partition, its own start."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator

from bench.contenders import Contender, processor
from bench.cpu import largest_resident_bytes
from bench.ground import Ground, Shape, fill
from bench.results import Result, Series
from bench.throughput import FULL
from bench.trial import Trial

LONG = Shape(10_000_000)
SHORT = Shape(200_000)
WATCHED_SECONDS, MOVE_SECONDS, POLL_SECONDS = 12.0, 60.0, 0.05
SLOW_PARTITION = 0
"""As bench/work/pipelines.py has it: ten milliseconds for each of its messages."""
IDLE_SECONDS = 20.0
"""Longer than anything that is done now and then, a session and a transaction's time included."""
BURST = "seconds from a burst to its first effect, after {:.0f} s with nothing to do"
COLD = "seconds from the command to the first effect, from cold"
MEMORY = "MB of memory, {} messages behind"
STILL = "longest seconds in which a fast partition stood still beside {}"
FAST = "messages/s of eleven partitions beside {}"
OTHERS, SLOW = "another", "a slow one"


def cliffs(ground: Ground, count: int) -> Result:
    """Seconds and megabytes, each beside the same without what might be an edge."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(count):
        for case, value in once(ground):
            print(f"  {case}: {value:.1f}", file=sys.stderr)
            found[case].append(value)
    series = {case: Series(tuple(values)) for case, values in found.items()}
    result = Result("cliffs", "Edges", "as named", series)
    short, long = (MEMORY.format(f"{shape.messages:,}") for shape in (SHORT, LONG))
    result.ratio(long, short, 1.3, at_most=True)
    result.ratio(FAST.format(SLOW), FAST.format(OTHERS), 0.8)
    result.notes.append("The slow partition's handler takes 10 ms a message, the others' none.")
    ground.forget(LONG)
    ground.forget(SHORT)
    return result


def once(ground: Ground) -> Iterator[tuple[str, float]]:
    for shape in (SHORT, LONG):
        first, memory = cold_and_memory(ground, shape)
        if shape is LONG:
            yield COLD, first
        yield MEMORY.format(f"{shape.messages:,}"), memory
    yield BURST.format(IDLE_SECONDS), burst(ground)
    for name, contender in ((OTHERS, processor("full")), (SLOW, processor("slow"))):
        still, rate = fast_ones(ground, contender)
        yield STILL.format(name), still
        yield FAST.format(name), rate


def cold_and_memory(ground: Ground, shape: Shape) -> tuple[float, float]:
    """Seconds until the first offset is committed, and the most memory after a while."""
    topic = ground.filled(shape)
    began = time.monotonic()
    trial = Trial(ground, processor("full"), topic, shape.partitions)
    try:
        trial.wait(lambda k: any(k.values()), MOVE_SECONDS)
        first = time.monotonic() - began
        time.sleep(WATCHED_SECONDS)
        memory = largest_resident_bytes(trial.running.pid) / 1e6
        trial.end()
    finally:
        trial.kill()
    return first, memory


def burst(ground: Ground) -> float:
    """Many messages at once, for a worker that has had none for a while."""
    topic = ground.topic("input", SHORT.partitions)
    trial = Trial(ground, processor("full"), topic, SHORT.partitions)
    try:
        fill(ground.servers, topic, Shape(SHORT.partitions, SHORT.partitions))
        trial.wait(lambda k: len(k) == SHORT.partitions, MOVE_SECONDS)
        time.sleep(IDLE_SECONDS)
        before, began = trial.committed.by_partition(), time.monotonic()
        fill(ground.servers, topic, SHORT, first=1)
        trial.wait(lambda k: k != before, MOVE_SECONDS)
        first = time.monotonic() - began
        trial.wait(lambda k: sum(k.values()) == SHORT.total + SHORT.partitions, MOVE_SECONDS)
        trial.end()
    finally:
        trial.kill()
        ground.drop(topic)
    return first


def fast_ones(ground: Ground, contender: Contender) -> tuple[float, float]:
    """All partitions but the slow one, once each has moved: the longest seconds in which any of
    them stood still, and their messages a second.
    """
    trial = Trial(ground, contender, ground.filled(FULL), FULL.partitions)
    try:
        trial.wait(lambda k: len(k) == FULL.partitions, MOVE_SECONDS)
        longest, moved, at = 0.0, {}, dict.fromkeys(range(FULL.partitions), 0)
        began = time.monotonic()
        before, end = trial.committed.by_partition(), began + WATCHED_SECONDS
        while (now := time.monotonic()) < end:
            for number, offset in trial.committed.by_partition().items():
                if offset != at[number]:
                    at[number], moved[number] = offset, now
            fast = [now - when for number, when in moved.items() if number != SLOW_PARTITION]
            longest = max(longest, *fast)
            time.sleep(POLL_SECONDS)
        rate = sum(at[n] - before[n] for n in at if n != SLOW_PARTITION) / (now - began)
        trial.end()
    finally:
        trial.kill()
    return longest, rate
