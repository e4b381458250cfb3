"""``make chaos MINUTES=10``: 0 when each message is there once, else 1 and no figure."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import KafkaException
from rich.console import Console

from devstack import StackError
from tests.faults.chaos.audit import UnauditableError
from tests.faults.chaos.campaign import Result, Tell, phases, run
from tests.faults.chaos.failover import WentOnError
from tests.faults.chaos.planted import BUGS, VARIABLE
from tests.faults.chaos.report import Report, complaints, write_json, write_markdown
from tests.faults.chaos.stage import forget_settings

BAD, BROKEN_OFF = 1, 130
RATE = 3_300.0
GAP_SECONDS = 0.7


def main() -> int:
    """The exit code."""
    chosen = _parser().parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    forget_settings()
    if chosen.planted:
        os.environ[VARIABLE] = chosen.planted
    console = Console(stderr=True)
    logs = Path(tempfile.gettempdir()) / f"chaos-{chosen.seed}"
    began = time.monotonic()

    def tell(text: str) -> None:
        line = f"{time.monotonic() - began:6.0f} s  {text}"
        console.print(line, highlight=False, soft_wrap=True)

    tell(f"seed {chosen.seed}")
    try:
        results = _campaign(chosen, logs, tell)
    except (UnauditableError, WentOnError, StackError, RuntimeError, KafkaException) as error:
        tell(f"no figures: {error}; logs in {logs}")
        return BAD
    except KeyboardInterrupt:
        return BROKEN_OFF
    if not all(each.fine for each in results):
        tell(f"the promise does not hold; logs in {logs}")
        for line in (line for each in results for line in complaints(each)):
            tell(line)
        return BAD
    report = Report(results, chosen.seed, f"make chaos MINUTES={chosen.minutes:g}")
    report.print(Console())
    if chosen.json:
        write_json(report, chosen.json)
    if chosen.markdown:
        write_markdown(report, chosen.markdown)
    return 0


def _campaign(chosen: argparse.Namespace, logs: Path, tell: Tell) -> list[Result]:
    results = []
    for number, phase in enumerate(phases(60 * chosen.minutes, chosen.rate, chosen.gap)):
        tell(f"{phase.name}: {phase.seconds:.0f} s of faults, {phase.rate:,.0f} messages/s")
        results.append(run(phase, chosen.seed + number, tell, logs / str(number)))
        if not results[-1].fine:
            break
    return results


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults, in all")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second")
    parser.add_argument(
        "--gap", type=float, default=GAP_SECONDS, help="seconds between faults, at least"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--planted", choices=BUGS, help="take a guard out: it must be caught")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page with marks for them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
