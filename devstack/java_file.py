"""Runs a Java program of one file on Kafka's jars, with a compiler or without."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devstack.errors import StackError
from devstack.parts import compiler_jars, java, kafka_jars
from devstack.parts.folder import run
from devstack.parts.jars import class_path

TIMEOUT_SECONDS = 60.0


def run_java_file(source: Path, arguments: Sequence[str], standard_input: str = "") -> str:
    """What the program, the class named like the file, prints; StackError when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*_command(source, Path(folder)), *arguments],
            input=standard_input,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    if done.returncode:
        raise StackError(f"{source.name} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _command(source: Path, folder: Path) -> list[str | Path]:
    jars = kafka_jars()
    if java().has_compiler:
        return [java().program, "-cp", class_path(jars), source]
    _compile(source, jars, folder)
    return [java().program, "-cp", class_path((folder, *jars)), source.stem]


def _compile(source: Path, jars: tuple[Path, ...], folder: Path) -> None:
    options: list[str | Path] = ["-17", "-nowarn", "-cp", class_path(jars), "-d", folder, source]
    run([java().program, "-jar", *compiler_jars(), *options], "ECJ")
