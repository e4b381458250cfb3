"""After ``replay-effects``, before any owner has taken the partition up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres
from tests.support.halts import NUMBERS, REFERENCE, H, Halted


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Halted]:
    scene = Halted(kafka, postgres, admin, tmp_path, partitions=1)
    yield scene
    scene.close()


@pytest.mark.parametrize("known", [True, False], ids=["known", "stale"])
def test_verify_asks_for_no_output_that_was_only_made_to_be_compared(
    scene: Halted, known: bool
) -> None:
    """Where K's token is the row's own (``known``), nobody has to commit K anew."""
    scene.produce_all([(scene.acts, 0)])
    scene.run()
    scene.wait_rest(0)
    scene.stop()
    scene.roll_back(0, 1, known=known)
    done = scene.command("offsets", "replay-effects", REFERENCE, "--yes", partition=0)
    assert done.code == 0, done.err
    row = scene.row(0) or {}
    assert (row["next_offset"], row["published_offset"]) == (H, H)
    assert scene.observed.outbox(row["id"]) == []
    assert sorted(scene.effects(0)) == NUMBERS
    found = scene.commands("verify", REFERENCE, "--json")
    assert found.code == 0, found.out
    findings = [each["findings"] for each in json.loads(found.out)["partitions"]]
    assert not any(findings)
