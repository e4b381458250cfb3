"""The scene of the recovery table, shared by the tests of its rows and of their remedies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres
from tests.support.halted import arrange
from tests.support.halts import Halted


@pytest.fixture(scope="module")
def halted(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Halted]:
    """A service that runs; each of its partitions has met one row of the table.

    One for each file: remedies take outputs away that the table's rows are judged by.
    """
    scene = Halted(kafka, postgres, admin, tmp_path_factory.mktemp("halted"))
    try:
        arrange(scene)
        yield scene
    finally:
        scene.close()
