"""The file that figures are kept in: what was measured last of each benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(file: Path) -> dict[str, dict[str, Any]]:
    """By benchmark: ``machine``, ``date``, and its ``result`` as JSON. Empty when there is none.

    :raises SystemExit: for a file that holds something else.
    """
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file} cannot be read: {error}; name another file") from None
    if not isinstance(found, dict):
        raise SystemExit(f"{file} holds something else than figures; name another file")
    return found


def keep(file: Path, new: Mapping[str, dict[str, Any]]) -> None:
    """Others that are there stay: a ratio is of one run, so each benchmark stands for itself."""
    file.write_text(json.dumps(read(file) | dict(new), indent=1) + "\n")
