"""``make poison``: 0 when each bad message is one letter, and took effect once when repaired."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from devstack import StackError
from tests.faults.chaos.audit import UnauditableError
from tests.faults.chaos.stage import forget_settings
from tests.faults.poison.campaign import run
from tests.faults.poison.plan import Plan
from tests.faults.poison.report import complaints, remarks, sentence

BAD, BROKEN_OFF = 1, 130


def main() -> int:
    """The exit code."""
    chosen = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_settings()
    console = Console(stderr=True)
    logs = Path(tempfile.gettempdir()) / f"poison-{chosen.seed}"
    began = time.monotonic()

    def tell(text: str) -> None:
        line = f"{time.monotonic() - began:6.0f} s  {text}"
        console.print(line, highlight=False, soft_wrap=True)

    plan = Plan(chosen.messages, chosen.seed, rate=chosen.rate)
    tell(f"seed {plan.seed}: {plan.messages:,} messages, {len(plan.kinds()):,} of them bad")
    try:
        result = run(plan, tell, logs)
    except (UnauditableError, StackError, RuntimeError) as error:
        tell(f"no figures: {error}; logs in {logs}")
        return BAD
    except KeyboardInterrupt:
        return BROKEN_OFF
    for line in remarks(result):
        tell(line)
    if not result.fine:
        tell(f"the promise does not hold; logs in {logs}")
        for line in complaints(result):
            tell(line)
    print(sentence(result))
    return 0 if result.fine else BAD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.poison", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=2_500.0, help="messages a second")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    return parser


if __name__ == "__main__":
    sys.exit(main())
