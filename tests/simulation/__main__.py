"""Simulate seeds: ``python -m tests.simulation --seeds 2000``, or one with its timeline:
``python -m tests.simulation --seed 17``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from tests.simulation.mutants import MUTANTS
from tests.simulation.search import WORLDS, chunk, search

CHUNK = 20
CHUNKS = 10
"""A process keeps a little of each seed, so after so many chunks another one takes over."""
SHOWN = 3
TELL_SECONDS = 60.0


def main() -> int:
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is chance as well, and the only one that the seed does not govern.
        # Tracebacks, of which each dead letter has one, take half as long without columns.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONNODEBUGRANGES": "1"}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment
        )
    if options.seed is not None:
        return one(options.seed, options.mutant, options.redrive)
    if options.mutants:
        seeds = None if options.known else range(options.first, options.first + options.seeds)
        return mutants(options.only or list(MUTANTS), seeds, options.processes)
    return many(options.first, options.seeds, options.processes, options.redrive)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="this one alone, with its timeline")
    parser.add_argument("--seeds", type=int, default=2_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--redrive", action="store_true", help="messages fail, and are handled again"
    )
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with this bug planted")
    parser.add_argument("--mutants", action="store_true", help="each bug, until a seed catches it")
    parser.add_argument("--known", action="store_true", help="of --mutants: with known seeds only")
    parser.add_argument("--only", nargs="*", choices=sorted(MUTANTS), help="of --mutants: these")
    return parser.parse_args()


def one(seed: int, mutant: str | None, redrives: bool) -> int:
    """One seed, line by line."""
    if mutant:
        with MUTANTS[mutant].plant():
            outcome = WORLDS[MUTANTS[mutant].redrives](seed, trace=True)
    else:
        outcome = WORLDS[redrives](seed, trace=True)
    print(outcome.timeline)
    print()
    print(outcome.plan)
    for violation in outcome.violations:
        print(f"VIOLATION  {violation}")
    print(f"{outcome.messages} messages, {outcome.seconds:.1f} virtual seconds")
    return 1 if outcome.violations else 0


def many(first: int, count: int, processes: int, redrives: bool) -> int:
    """Seeds in parallel; the failing ones are printed with the command that replays them."""
    began = told = perf_counter()
    done = messages = failed = 0
    virtual = 0.0
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=CHUNKS) as pool:
        for found in pool.imap(chunk, [(each, redrives) for each in _chunks(first, count)]):
            for seed, violations, sent, seconds in found:
                done += 1
                messages += sent
                virtual += seconds
                if violations:
                    failed += 1
                    if failed <= 20:
                        _tell(seed, violations, redrives)
            rate = done / (perf_counter() - began)
            so_far = f"{done:,} of {count:,} seeds, {rate:,.1f}/s, {failed} with a violation"
            if sys.stderr.isatty():
                print(f"\r{so_far}", end="", file=sys.stderr)
            elif perf_counter() - told > TELL_SECONDS:
                told = perf_counter()
                print(so_far, file=sys.stderr, flush=True)
    took = perf_counter() - began
    print(
        f"{done:,} seeds in {took:.0f} s, {done / took:.1f} seeds/s: {messages:,} messages in "
        f"{virtual / 3600:,.1f} virtual hours, {failed:,} seeds with a violation"
    )
    return 1 if failed else 0


def _tell(seed: int, violations: tuple[str, ...], redrives: bool) -> None:
    print(f"seed {seed}:")
    for violation in violations[:SHOWN]:
        print(f"  {violation}")
    print(f"  replay: python -m tests.simulation --seed {seed}{' --redrive' * redrives}")


def _chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, CHUNK):
        yield range(start, min(start + CHUNK, first + count))


def mutants(names: list[str], seeds: range | None, processes: int) -> int:
    """A table: each planted bug, with the first seed that caught it."""
    missed = 0
    # A process for each: nothing of one mutant may be left when the next one begins.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.simulation.search"])
    with ProcessPoolExecutor(processes, mp_context=forks, max_tasks_per_child=1) as pool:
        searches = pool.map(search, [(name, seeds) for name in names])
        for name, (seed, tried, violation) in zip(names, searches, strict=True):
            if seed is None:
                missed += 1
                print(f"{name:<40} NOT CAUGHT in {tried:,} seeds", flush=True)
            else:
                print(f"{name:<40} seed {seed:>5}  {violation[:100]}", flush=True)
    print(f"{len(names) - missed} of {len(names)} mutants caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
