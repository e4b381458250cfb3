"""``make bench``: every benchmark, or one by its name (``python -m bench work --rounds 5``).

Peers are run by their name only: ``make bench-peers``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

from bench import check, cliffs, cost, dedup, failures, latency, record, recovery, throughput
from bench.ground import Ground, ground
from bench.machine import machine
from bench.peers.bench import peers, waiting
from bench.results import Result

BENCHES: dict[str, Callable[[Ground, int], Result]] = {
    "work": throughput.work,
    "bounds": throughput.bounds,
    "partitions": throughput.partitions,
    "sizes": throughput.sizes,
    "workers": throughput.workers,
    "dedup": dedup.dedup,
    "latency": latency.latency,
    "cost": cost.cost,
    "recovery": recovery.recovery,
    "cliffs": cliffs.cliffs,
    "failures": failures.failures,
}
BY_NAME_ONLY = {"peers": peers, "peers-latency": waiting}
"""What they run in is fetched first, and they take their time to get warm."""
ALL = BENCHES | BY_NAME_ONLY


def main() -> int:
    chosen = _options()
    if chosen.json:
        record.read(chosen.json)  # before minutes are spent
    with tempfile.TemporaryDirectory() as folder, ground(Path(folder)) as servers:
        if chosen.check or chosen.commit:
            return _guard(servers, commit=chosen.commit)
        where = {"machine": machine(servers.postgres_version), "date": date.today().isoformat()}
        for name in chosen.names or BENCHES:
            result = _run(servers, name, chosen.rounds)
            if chosen.json:
                record.keep(chosen.json, {name: {**where, "result": result.as_json()}})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="against bench/ratios.json, in short")
    parser.add_argument("--commit", action="store_true", help="write bench/ratios.json")
    parser.add_argument(
        "--json", type=Path, help="keep the figures there, beside those of other benchmarks"
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - ALL.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    return chosen


def _run(servers: Ground, name: str, rounds: int) -> Result:
    print(f"{name}: {rounds} rounds", file=sys.stderr)
    result = ALL[name](servers, rounds)
    print("\n".join(result.lines()), flush=True)
    return result


def _guard(servers: Ground, *, commit: bool) -> int:
    if not commit:
        check.require_committed()
    result = check.measured(servers)
    print("\n".join(result.lines()), flush=True)
    if commit:
        check.commit(result)
        return 0
    worse = check.compared(result)
    print("\n".join(worse) or "no slower than committed")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
