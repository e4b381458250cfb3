"""A command whose stderr is a terminal, and whose stdout is piped elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLUMNS = "100"


def at_terminal(
    command: Sequence[str], environment: Mapping[str, str], term: str = "xterm"
) -> tuple[str, str]:
    """What it writes to stdout, and to the terminal; it must end well."""
    terminal, end = pty.openpty()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=end,
        env={**os.environ, "TERM": term, "COLUMNS": COLUMNS, **environment},
        cwd=ROOT,
        text=True,
    ) as process:
        os.close(end)
        drawn = _read(terminal)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0, drawn
    return out, drawn


def _read(terminal: int) -> str:
    """Until nobody has the other side open, which Linux tells as an error."""
    found = b""
    while True:
        try:
            found += os.read(terminal, 4096)
        except OSError:
            break
    os.close(terminal)
    return found.decode()
