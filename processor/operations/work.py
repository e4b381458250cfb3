"""One worker process: ``python -m processor.operations.work REFERENCE SLOT``.

With ``-`` for the slot it gets ready and waits until its number comes on standard input.

Started by the supervisor. It beats through the pipe that it was given, and stops when asked to or
when the supervisor is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from time import monotonic

from processor.engine.assembly import run_worker
from processor.engine.supervisor import BEAT_VARIABLE, SPARE
from processor.errors import Exit, ProcessorError
from processor.operations import logs
from processor.operations.loading import load_pipeline
from processor.settings import load

BEAT_SECONDS = 0.5


class Life:
    """Whether to go on, and the proof of it."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.pop(BEAT_VARIABLE, "-1"))
        self._stop = False
        self._beaten = 0.0
        signal.signal(signal.SIGTERM, self._stopped)
        signal.signal(signal.SIGINT, signal.SIG_IGN if self._pipe >= 0 else self._stopped)

    def stopping(self) -> bool:
        return self._stop

    def beat(self) -> None:
        now = monotonic()
        if self._pipe < 0 or now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        try:
            os.write(self._pipe, b".")
        except BrokenPipeError:
            self._stop = True  # the supervisor is gone; nobody would start us again

    def _stopped(self, number: int, frame: object) -> None:  # noqa: ARG002
        self._stop = True


def main(arguments: list[str]) -> int:
    """The worker's exit code."""
    life = Life()
    reference, slot = arguments
    try:
        settings = load()
        logs.configure(settings)
        pipeline = load_pipeline(reference)
        if slot == SPARE:
            slot = sys.stdin.readline().strip()
        if not slot or life.stopping():
            return Exit.OK
        observer = logs.LogObserver(int(slot))
        return run_worker(pipeline, settings, int(slot), observer, life.stopping, life.beat)
    except ProcessorError as error:
        print(f"error: worker {slot}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception:
        print(f"error: worker {slot} ends by a bug and is started again", file=sys.stderr)
        traceback.print_exc()
        return Exit.BUG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
