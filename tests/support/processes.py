"""What the kernel says of a process."""

from __future__ import annotations

from pathlib import Path

STOPPED, GONE = "T", "X"


def state_of(pid: int) -> str:
    """One letter, as ``S`` for asleep, ``T`` for stopped, ``Z`` for a zombie; ``X`` when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return GONE
