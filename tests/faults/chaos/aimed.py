"""A worker fails, stops or stalls at a step that was chosen for it."""

from __future__ import annotations

from functools import partial
from random import Random

from devstack import StackError
from devstack.waiting import wait_until
from tests.faults.chaos.armed import AIMS
from tests.faults.chaos.nemesis import Heal, Nemesis, nothing
from tests.faults.chaos.stage import Stage

FIRES_SECONDS = 8.0


def aim(action: str, stage: Stage, rng: Random) -> Heal | None:
    """Arm one fault, and wait until a worker has come to it."""
    name, seconds = rng.choice(list(AIMS[action].items()))
    file = stage.armed / name
    file.unlink(missing_ok=True)
    try:
        wait_until(file.exists, FIRES_SECONDS, name)
    except StackError:
        file.touch()
        return None
    # It ends by itself.
    return partial(stage.stopping.wait, seconds) if seconds else nothing


KINDS = [
    Nemesis("worker stopped at a step", partial(aim, "stop"), weight=3, touches="stop"),
    Nemesis("worker's thread stalled at a step", partial(aim, "stall"), weight=2, touches="stall"),
    Nemesis("worker killed at a step", partial(aim, "crash"), weight=5, touches="crash"),
    Nemesis("worker's call fails at a step", partial(aim, "raise"), weight=3, touches="raise"),
]
