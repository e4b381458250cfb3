"""Pictures of figures. ``draw.py`` runs in an environment of its own, which has matplotlib."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.environments import python_with

HERE = Path(__file__).parent
LOCK = HERE / "requirements.txt"


def draw(figures: Path, folder: Path) -> None:
    """One SVG for each benchmark in the file.

    :param folder: where they are written to.
    """
    python = python_with("plots", LOCK, "matplotlib")
    subprocess.run([python, "-P", HERE / "draw.py", figures, folder], check=True)
