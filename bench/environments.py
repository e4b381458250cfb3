"""Pythons of their own, for what does not belong beside the processor's packages."""

from __future__ import annotations

import sys
from pathlib import Path

from devstack.parts.folder import fetched, run


def python_with(name: str, lock: Path, what: str) -> Path:
    """The Python of a venv that has what the lock file names, made when first asked for.

    :param name: of its folder.
    :param what: what is fetched, in words.
    """

    def install(folder: Path) -> None:
        tell(f"fetching {what}")
        run([sys.executable, "-m", "venv", "--without-pip", folder], "venv")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        target = ("--python", folder / "bin" / "python")
        run([*pip, *target, "install", "--quiet", "--require-hashes", "-r", lock], what)

    recipe = lock.read_bytes() + sys.version.encode()
    return fetched(name, recipe, install) / "bin" / "python"


def tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr)
