"""How the broker's Java is started: small, and quick thanks to a class data archive."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from devstack.parts import java, kafka_jars
from devstack.parts.folder import parts_folder
from devstack.parts.jars import class_path

FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
# Overrides: "-XX:TieredStopAtLevel=4" compiles as a production broker does, for measurements.
OPTIONS_VARIABLE = "DEVSTACK_JAVA_OPTIONS"
# An archive that does not fit (another Java, other jars) must not be fatal, nor talked about.
ARCHIVE_FLAGS = ("-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")


def command(
    main_class: str, arguments: Sequence[str | Path], *, heap: str, options: Sequence[str] = ()
) -> list[str | Path]:
    """Runs a class of Kafka's jars; with the archive, where one has been made."""
    archive = archive_file()
    shared = [*ARCHIVE_FLAGS, f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    own = shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
    flags = [*FLAGS, f"-Xmx{heap}", *shared, *options, *own]
    return [java().program, *flags, "-cp", class_path(kafka_jars()), main_class, *arguments]


def archive_file() -> Path:
    """The archive for this Java and these jars: anything else has another name."""
    key = hashlib.sha256(java().version.encode())
    key.update(str(java().program.resolve()).encode())
    for jar in kafka_jars():
        state = jar.stat()
        key.update(f"{jar} {state.st_size} {state.st_mtime_ns}\n".encode())
    return parts_folder() / "archives" / f"kafka-{key.hexdigest()[:16]}.jsa"
