"""Calls and handlers that do not return, and transactions that last too long: a worker gets out of
it by itself, nothing is lost and nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Direction, Kafka, Postgres, Proxy
from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, Scene, numbered

PARTITIONS = 2
TRANSACTION_SECONDS = 10


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, postgres, admin, tmp_path, partitions=PARTITIONS)
    yield scene
    scene.close()


def agree(scene: Scene, partition: int, numbers: list[int]) -> None:
    scene.wait_rest(partition)
    assert scene.effects(partition) == numbers
    assert scene.told(partition) == numbers


def test_a_handler_that_hangs_is_ended_with_its_worker(scene: Scene, tmp_path: Path) -> None:
    """After max.poll.interval.ms the group would give its partitions away."""
    with scene.service(
        kafka__max_poll_interval_seconds="6", kafka__session_timeout_seconds="6"
    ) as service:
        scene.produce(0, Act(1), Act(2, "hang", str(tmp_path / "hung")), Act(3))
        agree(scene, 0, [1, 2, 3])
        assert "'handle' hangs" in service.child.log.read_text()
        assert service.drain() == Exit.OK


def test_a_handler_that_outlasts_its_session_is_named_and_holds_up_no_other(
    scene: Scene, tmp_path: Path
) -> None:
    """Postgres ends a session that stands idle in a transaction, or its locks would stay."""
    mark = tmp_path / "slow"
    mark.touch()
    with scene.service(database__idle_in_transaction_timeout_seconds="1") as service:
        scene.wait_state(1, "running")
        scene.produce(0, Act(1), Act(2, "linger", str(mark)))
        found = scene.wait_state(0, "recovering", "handler-too-slow")
        assert "slow work before their first statement" in found["remedy"]
        scene.produce(1, *numbered(1, 2))
        agree(scene, 1, [1, 2])
        assert scene.effects(0) in ([], [1])
        mark.unlink()
        agree(scene, 0, [1, 2])
        assert service.drain() == Exit.OK


def test_a_commit_without_an_answer_ends_the_worker(scene: Scene, postgres: Postgres) -> None:
    """It may have been done: what stands is read back by whoever comes next."""
    proxy = Proxy("127.0.0.1", postgres.port)
    url = scene.url.replace(f":{postgres.port}/", f":{proxy.port}/")
    assert url != scene.url

    def hold_answers(direction: Direction, data: bytes) -> bytes | None:
        if direction is Direction.TO_SERVER and b"; COMMIT" in data:
            proxy.on_data = None
            proxy.stall(Direction.TO_CLIENT)
        return data

    try:
        with scene.service(database__url=url, call_timeout_seconds="2") as service:
            scene.wait_state(0, "running")
            proxy.on_data = hold_answers
            scene.produce(0, *numbered(1, 2, 3))
            wait_until(
                lambda: "'commit' hangs" in service.child.log.read_text(),
                WAIT_SECONDS,
                "the watchdog",
            )
            proxy.restore()
            agree(scene, 0, [1, 2, 3])
            assert service.drain() == Exit.OK
    finally:
        proxy.close()


@pytest.mark.timeout(120)
def test_a_transaction_that_outlives_its_time_out_is_published_again(
    postgres: Postgres, tmp_path: Path
) -> None:
    """The broker aborts it after Postgres has committed: the outbox has the outputs."""
    looks = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}
    fired = tmp_path / "fired"
    fired.mkdir()
    settings = {
        "faults": f"end.before=stall:{TRANSACTION_SECONDS + 2}@2",
        "faults_folder": str(fired),
        "kafka__transaction_timeout_seconds": str(TRANSACTION_SECONDS),
    }
    with Kafka(tmp_path / "kafka", broker_config=looks) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        scene = Scene(kafka, postgres, admin, tmp_path, partitions=PARTITIONS)
        with scene.service(**settings) as service:
            scene.wait_state(0, "running")
            scene.produce(0, *numbered(1))
            scene.produce(0, *numbered(2, 3))
            agree(scene, 0, [1, 2, 3])
            assert list(fired.iterdir())
            assert "doubt" in service.child.log.read_text()
            assert service.drain() == Exit.OK
        scene.close()
