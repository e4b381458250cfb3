"""A worker that fails at each edge of each step of the engine, on the real parts.

``make faults`` crashes it at every edge; ``make test`` in the middle of each call only.

Two workers run under load; each fault fires once in one of them. At the end every message has taken
effect once and in order in both stores, and no partition was halted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres, Service
from devstack.waiting import wait_until
from processor.engine.steps import Step
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, Scene

PARTITIONS = 8
PAUSE_SECONDS = 0.02
FAILING = {400: "fail", 799: "constraint"}
LIMIT_SECONDS = 300.0
LARGEST_BACKLOG = 1_000
"""Of all partitions: more comes when the workers have caught up, however slow they are."""
OVERLAP_MESSAGES = PARTITIONS // 2
"""Of two workers' batches some land in the background, some do not."""
STEPS = [step for step in Step if step is not Step.ASK]
"""Keys are taken by a pipeline of their own, in tests/integration/test_dedup.py."""
LAST = Step.CLOSE
"""Comes at the end only."""
EVERY = os.environ.get("FAULTS") == "all"
"""Else a slice: all errors, and crashes in the middle of each call."""
CRASHES = ("before", "inside", "after") if EVERY else ("inside",)
ERRORS = ("before", "after")
STOPPED = (Step.STORE, Step.COMMIT, Step.SEND_OFFSETS, Step.END)
"""Standing still there for a while is where a guard that is missing would show."""


def faults_of(step: Step) -> list[str]:
    """Errors first: some steps are not come to again once they are done."""
    found = [f"{step}.{edge}=raise" for edge in ERRORS]
    found += [f"{step}.{edge}=crash" for edge in CRASHES]
    if step in STOPPED:
        found += [f"{step}.before=stop:2"]
        found += [f"{step}.inside=stop:2", f"{step}.after=stall:2"] if EVERY else []
    return found


def fired(fault: str) -> str:
    """The name of the file that it leaves."""
    return fault.split(":")[0]


class Load:
    """Messages to every partition until it is stopped; a few fail, some of them in Postgres.

    Few, because a worker sends nothing early for a while after a failure, and then aborts nothing.
    """

    def __init__(self, scene: Scene) -> None:
        self.sent: dict[int, list[Act]] = {number: [] for number in range(PARTITIONS)}
        self._scene = scene
        self._number = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self._thread.start()

    def _run(self) -> None:
        with psycopg.connect(self._scene.url, autocommit=True) as connection:
            while not self._stop.wait(PAUSE_SECONDS):
                if self._number - self._handled(connection) < LARGEST_BACKLOG:
                    self.once()

    def _handled(self, connection: psycopg.Connection[Any]) -> int:
        found = connection.execute(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM processor.progress"
            " WHERE group_id = %s AND topic = %s",
            (self._scene.group, self._scene.acts),
        ).fetchone()
        assert found is not None
        return int(found[0])

    def once(self) -> None:
        """One message to each partition."""
        for partition, acts in self.sent.items():
            self._number += 1
            act = Act(self._number, FAILING.get(self._number % 800, "write"))
            self._scene.produce(partition, act)
            acts.append(act)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Outcome:
    scene: Scene
    fired: set[str]
    sent: dict[int, list[Act]]
    halts: list[str]
    """What was logged of them."""


def at_work(scene: Scene, service: Service) -> int:
    """How many of the service's workers have claimed their slots."""
    rows = scene.observed.rows("SELECT process_id FROM processor.slots")
    return len({row["process_id"] for row in rows} & set(service.workers()))


@pytest.fixture(scope="module")
def outcome(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("steps")
    files = tmp_path_factory.mktemp("fired")
    scene = Scene(kafka, postgres, admin, folder, partitions=PARTITIONS)
    scene.observed.execute("INSERT INTO once SELECT generate_series(0, 1000000)")
    faults = [fault for step in STEPS if step is not LAST for fault in faults_of(step)]
    wanted = {fired(fault) for fault in faults}

    def seen() -> set[str]:
        return {path.name for path in files.iterdir()}

    settings = {"faults": " ".join(faults), "faults_folder": str(files)}
    settings["batch_overlap_min_messages"] = str(OVERLAP_MESSAGES)
    program = "tests.support.impatient"
    with scene.service(workers=2, program=program, **settings) as service:
        load = Load(scene)
        try:
            wait_until(lambda: wanted <= seen(), LIMIT_SECONDS, "all faults")
        except Exception as error:
            raise AssertionError(f"not fired: {sorted(wanted - seen())}") from error
        finally:
            load.stop()
        for partition in range(PARTITIONS):
            scene.wait_rest(partition)
        assert service.drain() == Exit.OK
    # Each worker comes to it once.
    last = faults_of(LAST)
    settings["faults"] = " ".join(last)
    with scene.service(workers=len(last), program=program, **settings) as service:
        wait_until(lambda: at_work(scene, service) == len(last), WAIT_SECONDS, "all workers")
        load.once()
        for partition in range(PARTITIONS):
            scene.wait_rest(partition)
        service.drain()
    with scene.service() as service:
        load.once()
        for partition in range(PARTITIONS):
            scene.wait_rest(partition)
        assert service.drain() == Exit.OK
    halts = [
        line
        for log in sorted(folder.glob("*.log"))
        for line in log.read_text().splitlines()
        if " halts: " in line
    ]
    yield Outcome(scene, seen(), load.sent, halts)
    scene.close()


@pytest.mark.timeout(LIMIT_SECONDS + 120)
@pytest.mark.parametrize("step", STEPS)
def test_the_step_has_failed_at_each_of_its_edges(outcome: Outcome, step: Step) -> None:
    assert {fired(fault) for fault in faults_of(step)} <= outcome.fired


def test_nothing_is_halted(outcome: Outcome) -> None:
    assert outcome.halts == []


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_every_message_takes_effect_once_and_in_order(outcome: Outcome, partition: int) -> None:
    scene, sent = outcome.scene, outcome.sent[partition]
    good = [act.n for act in sent if act.do == "write"]
    assert len(good) > 100
    assert scene.effects(partition) == good
    assert scene.told(partition) == good
    bad = [offset for offset, act in enumerate(sent) if act.do != "write"]
    assert [letter["offset"] for letter in scene.dead_letters(partition)] == bad
