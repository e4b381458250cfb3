"""The database is put back to an older state, which Kafka is ahead of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres
from devstack.waiting import wait_until
from processor.engine.halts import Halt
from processor.engine.recovery import Row
from tests.support.databases import Observed, PostgresWorld, step
from tests.support.running import WAIT_SECONDS, Scene, numbered

LOST = Halt.DATABASE_HISTORY_LOST.value
TABLES = ("processor.progress", "processor.outbox", "public.effects")
STOP_SECONDS = 25
"""At most; the test wakes it up."""


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, postgres, admin, tmp_path)
    yield scene
    scene.close()


def back_up(observed: Observed) -> None:
    observed.execute("CREATE SCHEMA backup")
    for table in TABLES:
        observed.execute(f"CREATE TABLE backup.{table.split('.')[1]} AS TABLE {table}")


def put_back(observed: Observed) -> None:
    """At once, as by a failover: whoever is connected sees the older state from here on."""
    with observed.connection.transaction():
        for table in TABLES:
            observed.execute(f"DELETE FROM {table}")
            observed.execute(
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE backup.{table.split('.')[1]}"
            )


@pytest.mark.timeout(120)
def test_an_idle_partition_notices_without_a_message(scene: Scene) -> None:
    with scene.service(topic_check_seconds="0.5"):
        scene.produce(0, *numbered(0))
        scene.wait_rest(0)
        back_up(scene.observed)
        scene.produce(0, *numbered(1))
        scene.wait_rest(0)
        put_back(scene.observed)
        scene.wait_state(0, "halted", LOST)
    assert scene.effects(0) == [0]
    assert scene.told(0) == [0, 1]


@pytest.mark.timeout(180)
def test_a_worker_that_read_k_before_and_renews_after_hides_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    """`a` has read K = 0 and stands still; `b` takes over, handles message 0 and publishes it; the
    database is put back to where `b` began; `a` wakes up, renews the token at K = H = 0, and
    handles message 0 once more. H = K then, under a token that the row knows.
    """
    fired = tmp_path / "fired"
    fired.mkdir()
    settings = {"kafka__session_timeout_seconds": "6", "faults_folder": str(fired)}
    # It starts, commits K, and is about to go on.
    fault = f"lock.before=stop:{STOP_SECONDS}@3"
    with scene.service(instance="a", faults=fault, **settings) as a:
        wait_until(lambda: list(fired.iterdir()), WAIT_SECONDS, "a to stand still")
        with scene.service(instance="b", **settings):
            scene.wait_state(0, "running")
            assert scene.state(0)["slot"] == f"{scene.group}:b:0"
            back_up(scene.observed)
            scene.produce(0, *numbered(0))
            scene.wait_rest(0)
            told = scene.k(0)
        [stopped] = a.workers()
        put_back(scene.observed)
        token = token_of(scene)
        assert told is not None
        assert (told.metadata or "").endswith(token)
        a.continue_worker(stopped)
        wait_until(lambda: token_of(scene) != token, WAIT_SECONDS, "a to renew the token")
    handle_again(scene)
    assert scene.k(0) == told
    with scene.service(instance="b"):
        found = scene.wait_state(0, "halted", LOST)
    assert "Kafka is at 1, the database is back at 0" in found["detail"]
    assert scene.told(0) == [0]


def token_of(scene: Scene) -> str:
    row = scene.row(0)
    assert row is not None
    return str(row["token"])


def handle_again(scene: Scene) -> None:
    """What `a` can do before it hears that it has lost the partition: its COMMIT is not fenced.

    Mostly it hears of that first, so this is done in its place.
    """
    found = scene.row(0)
    assert found is not None
    if found["next_offset"] == 0:
        names = {field.name for field in dataclasses.fields(Row)} & set(found)
        row = Row(**{name: found[name] for name in names}, untouched=True)
        world = PostgresWorld(scene.url, scene.group)
        world.store().commit([step(row, 0, 1)], {row.id: (scene.acts, row.topic_id)})
        world.close()
    assert scene.h(0) == 1
