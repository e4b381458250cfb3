"""Runs of many seeds, as tasks of worker processes."""

from __future__ import annotations

import gc
from collections.abc import Callable

from tests.simulation import redrive, redrive_mutants
from tests.simulation.mutants import MUTANTS
from tests.simulation.pipeline import DEEDS
from tests.simulation.plan import draw
from tests.simulation.simulation import Outcome, simulate

assert redrive_mutants.__doc__, "they are among the others once they are imported"


Simulate = Callable[..., Outcome]
WORLDS: dict[bool, Simulate] = {False: simulate, True: redrive.simulate}


def chunk(wanted: tuple[range, bool]) -> list[tuple[int, tuple[str, ...], int, float]]:
    """Seeds one after the other: violations, messages and virtual seconds of each.

    :param wanted: the seeds, and whether letters are handled again.
    """
    found = []
    seeds, redrives = wanted
    gc.disable()  # a third of the time otherwise
    gc.freeze()  # modules stay: no need to look at them again
    for seed in seeds:
        outcome = WORLDS[redrives](seed)
        found.append((seed, outcome.violations, outcome.messages, outcome.seconds))
    gc.collect()
    gc.enable()
    return found


def search(wanted: tuple[str, range | None]) -> tuple[int | None, int, str]:
    """The first seed that catches a mutant, how many were tried, and what was seen.

    :param wanted: the mutant's name, and the seeds to try; None for the one that is known to.
    """
    name, seeds = wanted
    mutant = MUTANTS[name]
    simulated = WORLDS[mutant.redrives]
    seeds = seeds or range(mutant.seed, mutant.seed + 1)
    for tried, seed in enumerate(seeds, 1):
        if mutant.needs is not None and mutant.needs not in draw(seed, DEEDS).kinds:
            continue
        with mutant.plant():
            outcome = simulated(seed)
        # A seed that fails without the mutant proves nothing about it.
        if outcome.violations and not simulated(seed).violations:
            return seed, tried, outcome.violations[0]
    return None, len(seeds), ""
