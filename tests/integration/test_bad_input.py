"""Bad input and bad days while the service runs: nothing is lost, and good messages go on.

What is found before it runs (settings, modules, topics, passwords) is in test_cli.py.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from devstack import Kafka, Postgres
from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, Scene, numbered

PARTITIONS = 12

_partitions = itertools.count(1)
"""Partition 0 takes whatever cannot be decoded."""


@pytest.fixture(scope="module")
def shared(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("bad-input")
    scene = Scene(kafka, postgres, admin, folder, partitions=PARTITIONS)
    with scene.service() as service:
        yield scene
        service.child.check()
        assert "Traceback" not in service.child.log.read_text()
    scene.close()


@pytest.fixture
def partition() -> int:
    return next(_partitions)


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, postgres, admin, tmp_path)
    yield scene
    scene.close()


def agree(scene: Scene, partition: int, numbers: list[int]) -> None:
    scene.wait_rest(partition)
    assert scene.effects(partition) == numbers
    assert scene.told(partition) == numbers


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"null",
        b'"text"',
        b"[" * 10_000,
        b'{"type": "act"}',
        b'{"type": "act", "n": "one"}',
        b'{"type": 5, "n": 1}',
        b'{"type": "act", "n": 1',
        b'{"type": "act", "n": 1e400}',
        b'{"type": "\\ud800", "n": 1}',
        json.dumps({"type": "\x00" * 50, "n": 1}).encode(),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_whatever_cannot_be_decoded_is_dead_lettered_alone(shared: Scene, value: bytes) -> None:
    before, letters = shared.h(0, shared.acts), len(shared.dead_letters(0))
    end = shared.produce(0, Act(1, "quiet"), value, Act(2, "quiet"))
    shared.wait_h(0, end)
    assert end > before
    found = shared.dead_letters(0)
    assert len(found) == letters + 1
    assert bytes(found[-1]["value"]) == value
    assert found[-1]["reason"]


@pytest.mark.parametrize("field", ["partition", "timestamp", "early", "header", "surrogate", "key"])
def test_an_output_that_no_broker_would_take_is_dead_lettered_alone(
    shared: Scene, partition: int, field: str
) -> None:
    """Found before anything is committed, while there is a message to blame."""
    shared.produce(partition, Act(1), Act(2, "odd", field), Act(3))
    agree(shared, partition, [1, 3])
    assert [letter["offset"] for letter in shared.dead_letters(partition)] == [1]


def test_slow_handlers_make_smaller_batches(shared: Scene, partition: int) -> None:
    """H moves every few seconds, however much is waiting."""
    shared.produce(partition, *numbered(*range(120), do="slow"))
    shared.wait_h(partition, 1)
    assert shared.h(partition) < 120
    shared.wait_h(partition, 120)
    agree(shared, partition, list(range(120)))


def test_outputs_larger_together_than_a_batch_may_be_are_all_published(scene: Scene) -> None:
    with scene.service(batch_max_output_bytes="2000"):
        scene.produce(0, *numbered(*range(400)))
        agree(scene, 0, list(range(400)))
        row = scene.row(0)
        assert row is not None
        assert row["handled"] == 400


def test_a_broker_that_comes_late_is_waited_for(scene: Scene, kafka: Kafka) -> None:
    [proxy] = kafka.proxies
    proxy.cut()
    try:
        with scene.service(kafka__bootstrap_servers=kafka.proxied_bootstrap_servers) as service:
            wait_until(waiting(service.child.log), WAIT_SECONDS, "a line about it")
            proxy.restore()
            scene.produce(0, *numbered(1, 2))
            agree(scene, 0, [1, 2])
            assert "Traceback" not in service.child.log.read_text()
            assert service.drain() == Exit.OK
    finally:
        proxy.restore()


def test_a_database_that_comes_late_is_waited_for(scene: Scene, postgres: Postgres) -> None:
    postgres.stop()
    try:
        with scene.service() as service:
            wait_until(waiting(service.child.log), WAIT_SECONDS, "a line about it")
            postgres.start()
            scene.produce(0, *numbered(1, 2))
            agree(scene, 0, [1, 2])
            assert "Traceback" not in service.child.log.read_text()
            assert service.drain() == Exit.OK
    finally:
        postgres.start()


def waiting(log: Path) -> Callable[[], bool]:
    """Whether the log says, in a line, that something is waited for."""
    return lambda: log.exists() and "waiting up to" in log.read_text()


def test_an_output_topic_that_disappears_is_waited_for_and_loses_nothing(
    scene: Scene, admin: AdminClient
) -> None:
    """Its outputs stay in the outbox; other partitions, with nothing for it, go on."""
    with scene.service():
        scene.produce(0, *numbered(1))
        agree(scene, 0, [1])
        admin.delete_topics([scene.output])[scene.output].result(WAIT_SECONDS)
        scene.produce(0, *numbered(2, 3))
        state = scene.wait_state(0, "waiting", "output-refused")
        assert "create the topic" in state["remedy"]
        scene.produce(0, *numbered(5, do="quiet"), topic=scene.acts)
        admin.create_topics([NewTopic(scene.output, 2)])[scene.output].result(WAIT_SECONDS)
        scene.kafka.wait_ready()
        scene.wait_rest(0)
        assert scene.effects(0) == [1, 2, 3, 5]
        assert scene.told(0) == [2, 3]


def test_an_output_topic_that_takes_less_than_before_is_waited_for(
    scene: Scene, admin: AdminClient
) -> None:
    """Its limit was read at the start; what is stored already stays in the outbox."""
    from confluent_kafka.admin import (
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    def limit(value: str) -> None:
        entry = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, scene.output, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(WAIT_SECONDS)

    with scene.service():
        scene.produce(0, *numbered(1))
        agree(scene, 0, [1])
        limit("100")
        scene.produce(0, *numbered(2))
        state = scene.wait_state(0, "waiting", "output-refused")
        assert "max.message.bytes" in state["remedy"]
        assert scene.dead_letters(0) == []
        limit("1000000")
        agree(scene, 0, [1, 2])


def test_the_service_is_quiet_at_rest(shared: Scene, partition: int) -> None:
    """Rows that nobody touches are not written again and again."""
    shared.produce(partition, *numbered(1))
    shared.wait_rest(partition)
    row = shared.row(partition)
    assert row is not None
    end = time.monotonic() + 2.5
    wait_until(lambda: time.monotonic() > end, 10, "a few rounds of housekeeping")
    again = shared.row(partition)
    assert again is not None
    changed = {name for name in row if row[name] != again[name]}
    assert changed <= {"updated_at", "verified_offset"}
    assert again["tokens_in_k"] == row["tokens_in_k"]
