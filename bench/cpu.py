"""Processor time of processes, and of all below them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, its ended children included."""
    ticks = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks * TICK_SECONDS


def largest_resident_bytes(pid: int) -> int:
    """The most memory that a process of the tree has had at once: the worker's, of a service."""
    found = [0]
    for each in tree(pid):
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:
            continue
        peak = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        found += [int(line.split()[1]) * 1024 for line in peak]
    return max(found)


def tree(pid: int) -> Sequence[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        try:
            tasks = list(Path(f"/proc/{each}/task").iterdir())
            for task in tasks:
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found
