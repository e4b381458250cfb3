"""``processor …`` in processes of their own, forked from one that has imported all of it.

A command can so be killed at any of its steps, and costs no second of imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finished:
    """How a command ended; ``code`` is negative for the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """Runs commands one after the other; their environment is ``PROCESSOR_…`` and what is given."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **settings: str) -> Finished:
        own = {f"PROCESSOR_{name.upper()}": value for name, value in settings.items()}
        out, err = self._folder / "command.out", self._folder / "command.err"
        request = {
            "arguments": ["processor", *arguments],
            "environment": {**self._environment, **own},
            "out": str(out),
            "err": str(err),
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Finished(code, out.read_text(), err.read_text())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


def serve() -> None:
    """Fork for each request: no thread and no client is there before."""
    import alembic.command  # noqa: F401
    import confluent_kafka.admin  # noqa: F401
    import psycopg  # noqa: F401

    import processor.cli
    import processor.operations.remedies.replay.run
    import processor.operations.verify
    import processor.settings  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(request: Mapping[str, Any]) -> None:
    """In the child, which ends here."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        for name in [name for name in os.environ if name.startswith("PROCESSOR_")]:
            del os.environ[name]
        os.environ.update(request["environment"])
        sys.argv = request["arguments"]
        from processor.cli import main

        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
