"""Faults aimed at the steps of a batch, where a missing guard would show.

The workers are started with a list of them (``PROCESSOR_FAULTS``), each disarmed by a file of its
name. Taking the file away arms it for one worker, whichever comes to that step first.
"""

from __future__ import annotations

from pathlib import Path

CRASHES = (
    "handle.after",
    "flush.inside",
    "store.after",
    "commit.before",
    "commit.inside",
    "commit.after",
    "send.after",
    "send-offsets.inside",
    "end.before",
    "end.inside",
    "end.after",
    "raise.inside",
)
STOPS = {
    "flush.inside": 9,
    "store.before": 8,
    "store.after": 13,
    "commit.before": 9,
    "commit.inside": 8,
    "commit.after": 9,
    "send.after": 13,
    "send-offsets.inside": 8,
    "end.before": 9,
    "end.inside": 13,
}
"""Seconds: longer than the session, some longer than a transaction may last."""
STALLS = {
    "handle.before": 3,
    "store.before": 4,
    "commit.before": 4,
    "commit.after": 12,
    "send-offsets.after": 4,
    "end.before": 12,
    "end.after": 4,
    "raise.before": 3,
}
"""Only the worker's own thread stands still: it stays a member, and its time-outs run."""
ERRORS = ("store.after", "commit.after", "send.before", "end.after", "renew.after", "load.after")
"""Replies that are lost."""
EVERY = 5
"""A step's visits at which a file is looked for: not each, which would cost."""
RARE = ("renew", "load", "raise")
"""Steps that are not part of a batch: there each visit counts."""

AIMS = {
    "crash": {f"{edge}=crash": 0.0 for edge in CRASHES},
    "stop": {f"{edge}=stop": float(seconds) for edge, seconds in STOPS.items()},
    "stall": {f"{edge}=stall": float(seconds) for edge, seconds in STALLS.items()},
    "raise": {f"{edge}=raise": 0.0 for edge in ERRORS},
}
"""By action: the name of each fault's file, and how long it lasts."""


def disarm(folder: Path) -> None:
    """Nothing fires until a file is taken away."""
    for name in _names():
        (folder / name).touch()


def environment(folder: Path) -> dict[str, str]:
    """For a worker."""
    planned = []
    for name, seconds in _names().items():
        lasting = f":{seconds:g}" if seconds else ""
        every = 1 if name.partition(".")[0] in RARE else EVERY
        planned.append(f"{name}{lasting}@{every}+")
    return {"PROCESSOR_FAULTS": " ".join(planned), "PROCESSOR_FAULTS_FOLDER": str(folder)}


def _names() -> dict[str, float]:
    return {name: seconds for aims in AIMS.values() for name, seconds in aims.items()}
