"""Jars, resolved with their dependencies from a pinned pom: by Maven, else by jgo from pip."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from devstack.errors import StackError
from devstack.parts.apt import apt_install
from devstack.parts.folder import Source, allowed_source, fetched, pip_part, run

KAFKA_POM = Path(__file__).parents[1] / "kafka" / "pom.xml"
COMPILER_POM = Path(__file__).with_name("ecj") / "pom.xml"
CHECKER_POM = Path(__file__).with_name("tla") / "pom.xml"
ADVICE = "cannot resolve the jars: install Maven (Debian: apt install maven)"

# One root a call: given several at once, jgo 3.2 does not pick versions as Maven does. What two
# roots need in different versions comes from the later one, which is what Maven makes of our pom.
JGO_SCRIPT = """
import pathlib, re, shutil, sys
sys.path.insert(0, sys.argv[1])
import jgo
target = pathlib.Path(sys.argv[2])
for root in sys.argv[3:]:
    environment = jgo.build(root, cache_dir=target / "cache")
    for jar in environment.path.rglob("*.jar"):
        artifact = re.match(r"(.+?)-[0-9]", jar.name)[1]
        for other in target.glob(f"{artifact}-[0-9]*.jar"):
            other.unlink()
        shutil.copyfile(jar, target / jar.name)
shutil.rmtree(target / "cache")
"""


@functools.cache
def kafka_jars() -> tuple[Path, ...]:
    """Kafka's broker, tools and Java client, in class path order."""
    return _resolved("kafka", KAFKA_POM)


@functools.cache
def compiler_jars() -> tuple[Path, ...]:
    """Eclipse's Java compiler (ECJ), for a Java without javac."""
    return _resolved("ecj", COMPILER_POM)


@functools.cache
def checker_jars() -> tuple[Path, ...]:
    """TLC, which checks the specification in `spec/`."""
    return _resolved("tla", CHECKER_POM)


def kafka_version() -> str:
    """As the pom pins it."""
    return _roots(KAFKA_POM)[0].rpartition(":")[2]


def _resolved(name: str, pom: Path) -> tuple[Path, ...]:
    folder = fetched(name, pom.read_bytes(), lambda folder: resolve(pom, folder))
    # Sorted: a class data archive is valid for one order of the class path only.
    return tuple(sorted(folder.glob("*.jar")))


def resolve(pom: Path, folder: Path) -> None:
    """Puts the jars of a pom's dependencies there, the first way that works."""
    ways: dict[Source, list[Callable[[Path, Path], None]]] = {
        Source.AUTO: [_by_maven, _by_jgo, _by_maven_from_apt],
        Source.MACHINE: [_by_maven],
        Source.PIP: [_by_jgo],
    }
    problems = []
    for way in ways[allowed_source()]:
        try:
            return way(pom, folder)
        except StackError as error:
            problems.append(str(error))
    raise StackError("\n".join([ADVICE, *problems]))


def _by_maven(pom: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError("no mvn on PATH")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    run([maven, "--quiet", "--batch-mode", "--file", pom, *goal], "Maven")


def _by_maven_from_apt(pom: Path, folder: Path) -> None:
    if not apt_install("maven"):
        raise StackError("apt cannot install maven here")
    _by_maven(pom, folder)


def _by_jgo(pom: Path, folder: Path) -> None:
    jgo = pip_part("jgo", dependencies=True)
    run([sys.executable, "-c", JGO_SCRIPT, jgo, folder, *_roots(pom)], "jgo")


def _roots(pom: Path) -> list[str]:
    fields = ("groupId", "artifactId", "version")
    return [
        ":".join(dependency.findtext(field, "") for field in fields)
        for dependency in ElementTree.parse(pom).iterfind("dependencies/dependency")
    ]


def class_path(jars: tuple[Path, ...]) -> str:
    """For java's -cp."""
    return os.pathsep.join(map(str, jars))
