"""``make bench``: every benchmark, or one by its name (``python -m bench work --rounds 5``).

Peers are run by their name only: ``make bench-peers``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import latency, throughput
from bench.ground import Ground, ground
from bench.peers.bench import peers
from bench.results import Result

BENCHES: dict[str, Callable[[Ground, int], Result]] = {
    "work": throughput.work,
    "bounds": throughput.bounds,
    "partitions": throughput.partitions,
    "sizes": throughput.sizes,
    "workers": throughput.workers,
    "latency": latency.latency,
}
BY_NAME_ONLY = {"peers": peers}
"""What they run in is fetched first, and they take their time to get warm."""
ALL = BENCHES | BY_NAME_ONLY


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures are written to")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - ALL.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    results = []
    with tempfile.TemporaryDirectory() as folder, ground(Path(folder)) as servers:
        for name in chosen.names or BENCHES:
            print(f"{name}: {chosen.rounds} rounds", file=sys.stderr)
            result = ALL[name](servers, chosen.rounds)
            print("\n".join(result.lines()), flush=True)
            results.append(result.as_json())
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
