"""libfaketime, which gives a process another clock."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from devstack.errors import StackError
from devstack.parts.folder import Source, allowed_source, pip_part

DEBIAN_PATTERN = "*/faketime/libfaketime.so.1"
PIP_LIBRARY = Path("libfaketime/vendor/libfaketime/src/libfaketime.so.1")
OFFSET_SECONDS = 86_400
PROBE_SECONDS = 10.0
ADVICE = "no libfaketime that works here: install one (Debian: apt install libfaketime)"


@functools.cache
def faketime() -> Path:
    """The library: the machine's, else that of a wheel from pip."""
    for library in _libraries():
        if _works(library):
            return library
    raise StackError(ADVICE)


def faketime_environment(clock: Path) -> dict[str, str]:
    """For a process whose wall clock is off by what stands in the file `clock`, as `+3600`.

    The monotonic clock stays as it is, as it does when a machine's clock is set.
    """
    return {
        "LD_PRELOAD": str(faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _libraries() -> Iterator[Path]:
    source = allowed_source()
    if source is not Source.PIP:
        yield from Path("/usr/lib").glob(DEBIAN_PATTERN)
    if source is not Source.MACHINE:
        try:
            yield pip_part("libfaketime") / PIP_LIBRARY
        except StackError:
            return


def _works(library: Path) -> bool:
    """Whether it moves the clock of a program of this machine's kind."""
    moved = {"LD_PRELOAD": str(library), "FAKETIME": f"+{OFFSET_SECONDS}s"}
    now, then = (_seconds(environment) for environment in ({}, moved))
    return then - now >= OFFSET_SECONDS - 1


def _seconds(environment: dict[str, str]) -> int:
    told = subprocess.run(
        ["date", "+%s"],
        capture_output=True,
        text=True,
        timeout=PROBE_SECONDS,
        env={**os.environ, **environment},
    ).stdout
    return int(told) if told.strip().isdigit() else 0
