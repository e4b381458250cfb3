"""What a message costs: processor time by who spends it and by step, bytes written, memory."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.contenders import Contender, Running, floor, processor
from bench.cpu import largest_resident_bytes
from bench.ground import Ground
from bench.results import Result, Series
from bench.throughput import FULL, OWN, Case, watched


def cost(ground: Ground, count: int) -> Result:
    """Microseconds and bytes a message; memory in all."""
    contenders = [
        processor("transform"),
        processor("full"),
        processor("batch"),
        floor("at-least-once"),
        floor("raw", tables=False),
    ]
    values: dict[str, list[float]] = defaultdict(list)
    ground.filled(FULL)  # before any log is measured
    for _ in range(count):
        for contender in contenders:
            for what, value in costs(ground, contender).items():
                values[f"{contender.name}: {what}"].append(value)
    result = Result("cost", "What a message costs", "as named")
    result.series = {name: Series(tuple(each)) for name, each in values.items()}
    for work in ("full", "transform"):
        result.notes += steps(ground, work)
    return result


def costs(ground: Ground, contender: Contender) -> dict[str, float]:
    wal, log = wal_bytes(ground), segments(ground)
    memory: list[int] = []

    def watch(running: Running) -> None:
        memory.append(largest_resident_bytes(running.pid))

    speed, done = watched(ground, Case(contender, FULL), before_end=watch)
    found = {f"µs of {who}": speed.micros(who) for who in (OWN, *ground.processes)}
    found["bytes of WAL"] = (wal_bytes(ground) - wal) / done
    found["bytes of Kafka's logs"] = grown(log, segments(ground)) / done
    found["MB of memory"] = memory[0] / 1e6
    return found


def wal_bytes(ground: Ground) -> int:
    with ground.connect() as connection:
        [[at]] = connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchall()
    return int(at)


def segments(ground: Ground) -> dict[int, int]:
    """The sizes of all partitions' logs by file. What is deleted stays for a minute, renamed."""
    sizes = {}
    # Unlike rglob this takes folders that go away meanwhile.
    for folder, _, names in os.walk(ground.stack.data_dir / "kafka"):
        for path in map(Path(folder).joinpath, filter(_is_segment, names)):
            with suppress(FileNotFoundError):
                found = path.stat()
                sizes[found.st_ino] = found.st_size
    return sizes


def grown(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """By how many bytes; what is there no more had been written before."""
    return sum(size - before.get(file, 0) for file, size in after.items())


def _is_segment(name: str) -> bool:
    number, _, kind = name.partition(".")
    return number.isdecimal() and kind in ("log", "log.deleted")


def steps(ground: Ground, work: str) -> list[str]:
    """Where a worker's time goes, by its own timers, in lines."""
    reference = f"bench.work.pipelines:{work}"
    contender = replace(
        processor(work, f"timed {work}"),
        command=(sys.executable, "-m", "bench.work.timed", reference),
    )
    logs: list[Path] = []
    watched(ground, Case(contender, FULL), before_end=lambda running: logs.append(running.log))
    told = json.loads(logs[0].read_text().splitlines()[-1])
    handled = told["handled"]
    lines = [f"{work}, µs a message by step (wall clock):"]
    for name, (times, seconds) in sorted(told["steps"].items(), key=lambda each: -each[1][1]):
        micros = seconds * 1e6 / handled
        if micros >= 0.05:
            lines.append(f"  {name:12} {micros:6.2f}  ({seconds / times * 1e3:.2f} ms each)")
    return lines
