"""Runs the real command: in this process where that is enough, else in its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from devstack import Kafka
from processor.cli import main

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that a failed command tells, after whatever it was waiting for."""
        lines = self.err.splitlines()
        assert "Traceback" not in self.err, self.err
        assert lines, self.out
        assert all(line.startswith("waiting") for line in lines[:-1]), self.err
        return lines[-1]


class CommandLine:
    """`processor` with its own configuration, in its own directory."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.settings = {f"PROCESSOR_{name.upper()}": value for name, value in settings.items()}

    def __call__(self, *arguments: str, **settings: str) -> Finished:
        """In this process: saves the second that the imports take."""
        out, err = io.StringIO(), io.StringIO()
        sys.modules.pop("job", None)
        with (
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch.dict(os.environ, self.environment(**settings), clear=True),
            patch.object(sys, "argv", ["processor", *arguments]),
            patch.object(sys, "path", list(sys.path)),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return Finished(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, **settings: str) -> Finished:
        """As a user runs it."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "processor", *arguments]

    def environment(self, **settings: str) -> Mapping[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PROCESSOR_")}
        own = {f"PROCESSOR_{name.upper()}": value for name, value in settings.items()}
        return {**kept, **self.settings, **own}


def command_line(directory: Path, kafka: Kafka, database: str) -> CommandLine:
    return CommandLine(
        directory, kafka__bootstrap_servers=kafka.bootstrap_servers, database__url=database
    )


PIPELINE = """
from sqlalchemy import BigInteger, Column, MetaData, Table, Text
from processor import Output, Pipeline

metadata = MetaData()
seen = Table(
    "seen",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)
pipeline = Pipeline("{group}", outputs=["{output}"], tables=metadata)

@pipeline.handler("{input}")
def handle(value: bytes):
    yield Output("{output}", value=value)
"""


def write_pipeline(directory: Path, group: str, input_topic: str, output_topic: str) -> str:
    """A small pipeline as a module of its own; returns its reference."""
    text = PIPELINE.format(group=group, input=input_topic, output=output_topic)
    (directory / "job.py").write_text(text)
    return "job:pipeline"
