"""``python -m processor.testing.guard COMMAND…``: a command that ends with whoever has started it.

It stops the command at SIGTERM, and at the end of its own input: the pipe's other end is held by
the test run, whose death, ``kill -9`` for example, closes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

STDIN = 0


def main(command: Sequence[str]) -> int:
    """Its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_await_end, args=(child,), daemon=True).start()
    return child.wait()


def _await_end(child: subprocess.Popen[bytes]) -> None:
    # Not by ``sys.stdin``, whose lock the interpreter would want at its end.
    while os.read(STDIN, 1):
        pass
    child.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
