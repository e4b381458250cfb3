"""What the peers run in, fetched when first asked for: their jars and classes, Quix's own venv."""

from __future__ import annotations

import functools
from pathlib import Path

from bench.environments import python_with, tell
from devstack.parts import compiler_jars, java
from devstack.parts.folder import fetched, run
from devstack.parts.jars import class_path, resolve

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
JAVA = HERE / "java"
LOCK = HERE / "quix.txt"
JAVA_RELEASE = "-17"
HEAP = "-Xmx1g"


def java_command(main_class: str) -> tuple[str | Path, ...]:
    """Runs a class of ``java/`` as Java does it unasked; only the heap has a bound."""
    return (java().program, HEAP, "-cp", class_path((classes(), *jars())), main_class)


@functools.cache
def jars() -> tuple[Path, ...]:
    """Those of ``pom.xml``, and what they need."""

    def fetch(folder: Path) -> None:
        tell("fetching Kafka Streams, kafka-clients and JDBC")
        resolve(POM, folder)

    return tuple(sorted(fetched("peer-jars", POM.read_bytes(), fetch).glob("*.jar")))


@functools.cache
def classes() -> Path:
    """The folder of what ``java/`` is compiled to, by the same compiler with any Java."""
    sources = sorted(JAVA.glob("*.java"))

    def compile_into(folder: Path) -> None:
        options = (JAVA_RELEASE, "-nowarn", "-cp", class_path(jars()), "-d", folder)
        tell("compiling the Java peers")
        run([java().program, "-jar", *compiler_jars(), *options, *sources], "ECJ")

    recipe = b"".join(path.read_bytes() for path in (POM, *sources))
    return fetched("peer-classes", recipe, compile_into)


@functools.cache
def quix_python() -> Path:
    """The Python of a venv that has what ``quix.txt`` locks, and nothing else."""

    return python_with("quix", LOCK, "Quix Streams")
