"""When which blow falls: decided beforehand, without looking at anything.

>>> plan = make_plan(seconds=45, kills_at_least=10, random=Random(1))
>>> sum(blow.kind is Kind.KILL for blow in plan) >= 10
True
>>> plan[-1].at < 45
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from random import Random

TYPICAL_GAP_SECONDS = 3.2
KILLS_PER_FREEZE = 5
FREEZE_WEIGHT = 1.5
FROZEN_SHARE = 0.6
"""Of the time until the next blow, so that the next kill meets a worker that is back."""


class Kind(Enum):
    """By the signal's name."""

    KILL = "SIGKILL"
    FREEZE = "SIGSTOP"


@dataclass(frozen=True, slots=True)
class Blow:
    """``at`` is in seconds after the first event."""

    at: float
    kind: Kind
    frozen_seconds: float = 0.0


def make_plan(seconds: float, kills_at_least: int, random: Random) -> list[Blow]:
    """Kills, and now and then a freeze, at uneven distances over the whole time.

    However short the time, all the kills asked for are in it.
    """
    kinds = _kinds(seconds, kills_at_least, random)
    gaps = [_weight(kind) * random.uniform(0.7, 1.3) for kind in kinds]
    # One more, after the last blow: its recovery is to be seen as well.
    unit = seconds / (sum(gaps) + 1.0)
    plan, at = [], unit * 0.5
    for kind, gap in zip(kinds, gaps, strict=True):
        frozen = gap * unit * FROZEN_SHARE if kind is Kind.FREEZE else 0.0
        plan.append(Blow(at, kind, frozen))
        at += gap * unit
    return plan


def _kinds(seconds: float, kills_at_least: int, random: Random) -> list[Kind]:
    share = KILLS_PER_FREEZE / (KILLS_PER_FREEZE + FREEZE_WEIGHT)
    kills = max(kills_at_least, round(seconds / TYPICAL_GAP_SECONDS * share))
    freezes = math.ceil(kills / KILLS_PER_FREEZE)
    kinds = [Kind.KILL] * kills
    # Never first: what a kill looks like should be seen before anything more subtle.
    for _ in range(freezes):
        kinds.insert(random.randint(1, len(kinds)), Kind.FREEZE)
    return kinds


def _weight(kind: Kind) -> float:
    return FREEZE_WEIGHT if kind is Kind.FREEZE else 1.0
