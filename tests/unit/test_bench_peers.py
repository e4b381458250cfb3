"""What the benchmarks' peers are made of, without a server."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.peers.bench import jdbc_url
from bench.peers.environments import LOCK, POM
from devstack.parts import kafka_version


def test_kafka_streams_is_of_the_brokers_version() -> None:
    versions = {
        dependency.findtext("artifactId"): dependency.findtext("version")
        for dependency in ElementTree.parse(POM).iterfind("dependencies/dependency")
    }
    assert versions["kafka-streams"] == kafka_version()


def test_every_package_of_quix_is_pinned_and_hashed() -> None:
    [_, *packages] = re.split(r"^(?=[a-z])", LOCK.read_text(), flags=re.MULTILINE)
    assert any(package.startswith("quixstreams==") for package in packages)
    for package in packages:
        assert re.match(r"[a-z0-9-]+==\S+", package)
        assert "--hash=sha256:" in package


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://postgres@127.0.0.1:5432/postgres",
            "jdbc:postgresql://127.0.0.1:5432/postgres?user=postgres",
        ),
        (
            "postgresql://me:secret@localhost:5432/mine",
            "jdbc:postgresql://localhost:5432/mine?user=me&password=secret",
        ),
    ],
)
def test_the_jdbc_driver_is_told_the_user_behind_the_place(url: str, expected: str) -> None:
    assert jdbc_url(url) == expected
