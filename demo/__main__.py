"""`python -m demo`, or `make demo`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demo.acts import Options

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 fine, 1 a wrong verdict or a failure, 130 after Ctrl-C."""
    try:
        _interrupt_once()
        # Imported here: Ctrl-C may come as early as this.
        from demo.run import run

        return run(_options(arguments))
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running", file=sys.stderr)
        return EXIT_INTERRUPTED


def _interrupt_once() -> None:
    """A second Ctrl-C would cut short the cleaning up, which is bounded anyway.

    SIGTERM and a closed terminal clean up in the same way.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _options(arguments: Sequence[str] | None) -> Options:
    from demo.acts import Options

    usual = Options()
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="The main job on a real Kafka and a real Postgres, killed at random.",
    )
    parser.add_argument("--keep", action="store_true", help="keep it running, to look around")
    parser.add_argument(
        "--seconds", type=float, default=usual.seconds, help="of killing (%(default)g)"
    )
    parser.add_argument("--workers", type=int, default=usual.workers, help="%(default)s")
    parser.add_argument(
        "--kills-at-least", type=int, default=usual.kills_at_least, help="%(default)s"
    )
    parser.add_argument(
        "--rate", type=float, default=usual.rate, help="events per second (%(default)g)"
    )
    found = parser.parse_args(arguments)
    if found.seconds <= 0 or found.workers < 1 or found.kills_at_least < 0 or found.rate <= 0:
        parser.error("--seconds, --workers and --rate must be above 0, --kills-at-least not below")
    return Options(**vars(found))


if __name__ == "__main__":
    sys.exit(main())
