"""The Docker files agree with the code, as far as it can be seen without an engine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from typer.main import get_command

from processor import settings
from processor.cli import app
from processor.operations.loading import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_compose_itself_finds_nothing_wrong() -> None:
    binary = Path(sys.executable).parent / "docker-compose"
    command = [binary, "-f", "docker-compose.yml", "config", "-q"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def words(command: Any) -> Iterator[list[str]]:
    """The simple commands of a compose command, as lists of words."""
    listed = command if isinstance(command, list) else shlex.split(command)
    if listed[:1] in (["CMD"], ["CMD-SHELL"]):
        listed = listed[1:]
    if listed[:2] == ["sh", "-c"]:
        for part in listed[2].split("&&"):
            yield shlex.split(part)
    else:
        yield listed


def commands() -> Iterator[list[str]]:
    for name in OURS:
        yield from words(SERVICES[name]["command"])
        yield from words(SERVICES[name].get("healthcheck", {}).get("test", ["true"]))


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "processor"], ids=" ".join)
def test_every_command_is_one_of_ours(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    group: Any = get_command(app)
    rest = command[1:]
    while hasattr(group, "commands"):
        group, rest = group.commands[rest[0]], rest[1:]
    context = group.make_context(command[0], rest)
    if "pipeline" in context.params:
        assert load_pipeline(context.params["pipeline"]).outputs


def test_migrations_are_named_as_alembic_knows_them() -> None:
    names = [c[c.index("-n") + 1] for c in commands() if c[0] == "alembic"]
    assert names == ["user_events"]
    assert all(f"[{name}]" in (ROOT / "alembic.ini").read_text() for name in names)


def test_no_other_programs_are_run() -> None:
    assert {command[0] for command in commands()} <= {"processor", "alembic", "true"}


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_a_valid_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    assert all(key.startswith("PROCESSOR_") for key in environment)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PROCESSOR_")}
    with patch.dict(os.environ, {**kept, **environment}, clear=True):
        configured = settings.load()
    brokers = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert configured.kafka.bootstrap_servers in brokers
    database = SERVICES["postgres"]["environment"]
    url = "postgresql://{POSTGRES_USER}:{POSTGRES_PASSWORD}@postgres:5432/{POSTGRES_DB}"
    assert configured.database.url.get_secret_value() == url.format(**database)


def test_a_stop_waits_for_the_drain() -> None:
    grace = int(SERVICES["processor"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.Settings().drain_timeout_seconds + 5


def test_the_instance_outlives_the_container() -> None:
    """A container's host name is new with each container; the instance must not be."""
    assert SERVICES["processor"]["environment"]["PROCESSOR_INSTANCE"]


def test_nothing_listens_beyond_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_kafka_is_the_version_that_is_tested() -> None:
    pom = (ROOT / "devstack/kafka/pom.xml").read_text()
    image, version = SERVICES["kafka"]["image"].split(":")
    assert image == "apache/kafka"
    assert f"<version>{version}</version>" in pom


def test_there_is_no_zookeeper() -> None:
    assert "zookeeper" not in (ROOT / "docker-compose.yml").read_text().lower()


def test_services_wait_for_what_they_need() -> None:
    conditions = {
        name: {need: how["condition"] for need, how in SERVICES[name]["depends_on"].items()}
        for name in OURS
    }
    assert conditions["migrate"] == {"kafka": "service_healthy", "postgres": "service_healthy"}
    assert conditions["processor"]["migrate"] == "service_completed_successfully"
    for service in ("kafka", "postgres", "processor"):
        assert "test" in SERVICES[service]["healthcheck"]


def sources() -> list[str]:
    """What the Dockerfile copies from the build context."""
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for copy in copies for source in copy.split()[:-1]]


def test_everything_that_is_copied_exists_and_is_sent() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    for source in sources():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.split("/")[0], rule) for rule in sent), source
    assert set(sent) <= {source.split("/")[0] for source in sources()}


def test_the_image_has_all_that_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        *wheel["packages"],
        *wheel["force-include"],
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    assert needed <= set(sources())


def test_the_image_is_not_run_by_root() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["processor"]


def test_python_is_one_that_is_supported() -> None:
    images = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert images == {"python:3.12-slim"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Programming Language :: Python :: 3.12" in project["classifiers"]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements-runtime.lock", "requirements-build.lock"])
def test_the_image_has_the_versions_that_are_tested(name: str) -> None:
    assert pins(name).items() <= pins("requirements.lock").items()
    text = (ROOT / name).read_text()
    assert text.count("--hash=sha256:") >= len(pins(name)) > 0
    assert "://" not in text


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {re.split(r"[\[<>=]", each)[0] for each in project["project"]["dependencies"]}
    assert needed <= set(pins("requirements-runtime.lock"))
    (backend,) = project["build-system"]["requires"]
    assert backend in (ROOT / "requirements-build.lock").read_text()
