"""Where fetched parts are kept: `.devstack/parts`, complete or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from devstack.errors import StackError

REPOSITORY = Path(__file__).resolve().parents[2]
PIP_FILES = Path(__file__).with_name("pip")
FETCH_SECONDS = 600


class Source(StrEnum):
    """Where a part may come from: the values of DEVSTACK_PARTS."""

    AUTO = "auto"
    MACHINE = "machine"
    PIP = "pip"


def allowed_source() -> Source:
    """What DEVSTACK_PARTS says; `auto` when it is not set."""
    value = os.environ.get("DEVSTACK_PARTS") or Source.AUTO
    try:
        return Source(value)
    except ValueError:
        raise StackError(f"DEVSTACK_PARTS is {value!r}; it may be {', '.join(Source)}") from None


def parts_folder() -> Path:
    """`.devstack/parts` of this checkout, or of the folder that DEVSTACK_HOME names."""
    home = os.environ.get("DEVSTACK_HOME")
    return (Path(home) if home else REPOSITORY / ".devstack") / "parts"


def fetched(name: str, recipe: bytes, fetch: Callable[[Path], None]) -> Path:
    """The folder of a part, fetched again whenever its recipe (a pom, a lock file) changes.

    Other processes may ask at the same time: one fetches, the others wait for it.
    """
    folder = parts_folder() / name
    stamp = hashlib.sha256(recipe).hexdigest()
    if not _is_complete(folder, stamp):
        with _locked(name):
            if not _is_complete(folder, stamp):
                _fetch(folder, stamp, fetch)
    return folder


def pip_part(name: str, *, dependencies: bool = False) -> Path:
    """The folder that holds a pip package, version and hashes pinned in `pip/NAME.txt`."""
    lock = PIP_FILES / f"{name}.txt"
    options = [] if dependencies else ["--no-deps"]

    def install(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--require-hashes", *options, "--target", folder, "-r", lock], name)

    return fetched(name, lock.read_bytes(), install)


def run(command: Sequence[str | Path], what: str) -> str:
    """Runs a helper program; its output, or a StackError with the end of it."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=FETCH_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{what}: {error}") from error
    if done.returncode:
        tail = "\n".join(f"  | {line}" for line in done.stdout.splitlines()[-15:])
        raise StackError(f"{what}: {command[0]} ended with {done.returncode}\n{tail}")
    return done.stdout


def _is_complete(folder: Path, stamp: str) -> bool:
    try:
        return (folder / ".complete").read_text() == stamp
    except OSError:
        return False


def _fetch(folder: Path, stamp: str, fetch: Callable[[Path], None]) -> None:
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        fetch(fresh)
        (fresh / ".complete").write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    # One lock for each part: fetching the jars may mean fetching their Maven client first.
    parts_folder().mkdir(parents=True, exist_ok=True)
    with (parts_folder() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
