"""Duplicates from upstream, on the real parts: each key takes effect once, whatever happens."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import CommandLine
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres, Service
from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, Scene

PIPELINE = "tests.support.orders:orders"
PARTITIONS = 6
KEYS = 12_000
DUPLICATES = KEYS // 4
"""A fifth of all messages."""
KILLS = 6
RETENTION = "ENGINE_TEST_RETENTION"
TURNS = (1, 3)
"""After which kills a period is over."""
AGE = "UPDATE processor.dedup_periods SET opened_at = opened_at - interval '1 hour'"
TABLES = "SELECT count(*) FROM pg_tables WHERE starts_with(tablename, 'dedup_keys_')"


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, postgres, admin, tmp_path, partitions=PARTITIONS)
    yield scene
    scene.close()


def run(scene: Scene, workers: int = 1, **settings: str) -> Service:
    return scene.service(workers=workers, reference=PIPELINE, **settings)


def rest(scene: Scene) -> None:
    for partition in range(PARTITIONS):
        scene.wait_rest(partition)


def counted(scene: Scene, column: str) -> int:
    total = f"SELECT coalesce(sum({column}), 0) FROM processor.progress WHERE group_id = %s"
    return int(scene.observed.value(total, scene.group))


def effects(scene: Scene) -> Counter[int]:
    return Counter(row["n"] for row in scene.observed.rows("SELECT n FROM effects"))


def told(scene: Scene, topic: str | None = None) -> Counter[int]:
    return Counter(n for partition in range(PARTITIONS) for n in scene.told(partition, topic))


def spread(chance: random.Random) -> list[list[Act]]:
    """Each key once, some of them again soon or late, on any partition; keys that are rejected at
    first come again."""
    numbers = [(at, n) for at, n in enumerate(range(KEYS))]
    numbers += [
        (n + chance.choice((1, 50, 5_000)), n) for n in chance.sample(range(KEYS), DUPLICATES)
    ]
    parts: list[list[Act]] = [[] for _ in range(PARTITIONS)]
    for _, n in sorted(numbers):
        chance.choice(parts).append(Act(n))
    return parts


def produce(scene: Scene, parts: Sequence[Sequence[Act]], seconds: float) -> None:
    """A little at a time to all of them."""
    steps = 20
    for step in range(steps):
        for partition, acts in enumerate(parts):
            size = -(-len(acts) // steps)
            if acts[step * size : (step + 1) * size]:
                scene.produce(partition, *acts[step * size : (step + 1) * size])
        time.sleep(seconds / steps)


def turn(scene: Scene, periods: int) -> None:
    """Of so many the last one is over; whoever looks next opens another one."""
    wait_until(lambda: scene.observed.value(TABLES) >= periods, WAIT_SECONDS, "a period")
    scene.observed.execute(AGE)
    wait_until(lambda: scene.observed.value(TABLES) > periods, WAIT_SECONDS, "the next period")


@pytest.mark.timeout(240)
def test_each_key_takes_effect_once_while_workers_are_killed(scene: Scene, tmp_path: Path) -> None:
    """Three workers; keys come again on other partitions, and periods turn meanwhile."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    parts = spread(chance)
    files = tmp_path / "fired"
    files.mkdir()
    faults = ("before=crash", "inside=crash", "after=crash", "before=raise", "after=raise")
    settings = {
        "batch_max_messages": "200",
        "batch_overlap_min_messages": "50",
        "faults": " ".join(f"ask.{fault}@{at * 2}" for at, fault in enumerate(faults, 1)),
        "faults_folder": str(files),
    }
    with run(scene, workers=3, **settings) as service:
        for kill in range(KILLS):
            produce(scene, [acts[kill::KILLS] for acts in parts], 1.0)
            service.kill_worker()
            if kill in TURNS:
                turn(scene, 1 + TURNS.index(kill))
        rest(scene)
        assert service.drain() == Exit.OK
    assert {path.name for path in files.iterdir()} == {f"ask.{each}" for each in faults}
    assert scene.observed.value(TABLES) == 1 + len(TURNS)
    expected = Counter(range(KEYS))
    assert effects(scene) == expected
    assert told(scene) == expected
    assert scene.observed.value("SELECT total FROM totals WHERE name = 'orders'") == KEYS
    assert (counted(scene, "handled"), counted(scene, "duplicates")) == (KEYS, DUPLICATES)
    assert counted(scene, "skipped") == DUPLICATES


def test_a_rejected_message_gives_its_key_back(scene: Scene) -> None:
    """Also from one topic to another, of one scope; and after a restart."""
    with run(scene, workers=2) as service:
        scene.produce(0, Act(1, "reject"), Act(1), Act(1), Act(2))
        scene.wait_rest(0)
        scene.produce(1, Act(1), Act(3, "reject"), Act(2), Act(4))
        scene.wait_rest(1)
        scene.produce(0, Act(3), Act(4), Act(5, "reject"), Act(5), topic=scene.batches)
        scene.wait_rest(0, scene.batches)
        assert effects(scene) == Counter(range(1, 6))
        assert service.drain() == Exit.OK
    with run(scene):
        scene.produce(2, *[Act(n) for n in range(1, 7)])
        scene.wait_rest(2)
        assert effects(scene) == Counter(range(1, 7))
        assert len(scene.dead_letters(0)) == len(scene.dead_letters(1)) == 1
        assert counted(scene, "duplicates") == 1 + 2 + 1 + 5


def test_keys_are_forgotten_after_the_retention(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETENTION, "2")
    with run(scene):
        scene.produce(0, Act(1), Act(1))
        scene.wait_rest(0)
        wait_until(lambda: scene.observed.value(TABLES) >= 3, 30, "some periods")
        time.sleep(3.5)
        scene.produce(1, Act(1))
        scene.wait_rest(1)
        assert effects(scene) == Counter({1: 2})
        assert scene.observed.value(TABLES) <= 8


def test_status_tells_of_duplicates(scene: Scene, tmp_path: Path) -> None:
    line = CommandLine(
        tmp_path,
        kafka__bootstrap_servers=scene.kafka.bootstrap_servers,
        database__url=scene.url,
    )
    with run(scene) as service:
        scene.produce(0, Act(1), Act(1), Act(2))
        scene.wait_rest(0)
        service.drain()
    status = line.process("status", "--group", scene.group, "--json")
    [first] = [each for each in status.json["partitions"] if each["handled"]]
    assert (first["handled"], first["skipped"], first["duplicates"]) == (2, 1, 1)
