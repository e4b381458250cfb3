"""Workers end, hang and lose their supervisor; the service goes on or ends, and says which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres, Service
from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.processes import GONE, state_of
from tests.support.running import ROOT, WAIT_SECONDS, Scene, numbered

PARTITIONS = 4
REFERENCE = "tests.support.pipelines:acts"


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, postgres, admin, tmp_path, partitions=PARTITIONS)
    yield scene
    scene.close()


def running(scene: Scene) -> int:
    return int(
        scene.observed.value(
            "SELECT count(*) FROM processor.partition_states"
            " WHERE state = 'running' AND topic = %s",
            scene.acts,
        )
    )


def wait_running(scene: Scene) -> None:
    wait_until(lambda: running(scene) == PARTITIONS, WAIT_SECONDS, "all partitions")


def handled(scene: Scene, *rounds: range) -> None:
    """Exactly these numbers in each partition, in both stores."""
    numbers = [n for each in rounds for n in each]
    for partition in range(PARTITIONS):
        scene.wait_rest(partition)
        assert scene.effects(partition) == numbers
        assert scene.told(partition) == numbers


def produce(scene: Scene, numbers: range) -> None:
    for partition in range(PARTITIONS):
        scene.produce(partition, *numbered(*numbers))


def wait_workers(service: Service, count: int, without: int) -> None:
    def replaced() -> bool:
        found = service.workers()
        return len(found) == count and without not in found

    wait_until(replaced, WAIT_SECONDS, "another worker")


def test_a_killed_worker_is_started_again_and_goes_on(scene: Scene) -> None:
    with scene.service(workers=2) as service:
        wait_running(scene)
        produce(scene, range(50))
        killed = service.kill_worker()
        assert killed is not None
        produce(scene, range(50, 100))
        wait_workers(service, 2, without=killed)
        handled(scene, range(100))
        assert "killed by SIGKILL" in service.child.log.read_text()
        assert service.drain() == Exit.OK


def test_a_worker_that_stands_still_is_killed_and_started_again(scene: Scene) -> None:
    with scene.service(stall_timeout_seconds="5") as service:
        wait_running(scene)
        produce(scene, range(50))
        stopped = service.stop_worker()
        assert stopped is not None
        produce(scene, range(50, 100))
        begun = time.monotonic()
        wait_workers(service, 1, without=stopped)
        assert time.monotonic() - begun > 3, "not before the limit"
        assert "worker-stalled" in service.child.log.read_text()
        handled(scene, range(100))


def test_a_worker_that_stood_still_for_less_goes_on_by_itself(scene: Scene) -> None:
    with scene.service(stall_timeout_seconds="60", kafka__session_timeout_seconds="6") as service:
        wait_running(scene)
        produce(scene, range(50))
        stopped = service.stop_worker()
        assert stopped is not None
        produce(scene, range(50, 100))
        end = time.monotonic() + 8
        wait_until(lambda: time.monotonic() > end, 20, "the session to end")
        service.continue_worker(stopped)
        handled(scene, range(100))


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    return state_of(pid) not in (GONE, "Z")


def two_workers(
    scene: Scene, log: Path, *, start_new_session: bool = False
) -> subprocess.Popen[bytes]:
    """The service as its own process, for tests that end it in ways of their own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "processor", "run", REFERENCE, "--workers", "2"],
            env={**os.environ, **scene.environment()},
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=start_new_session,
        )


def test_workers_end_by_themselves_when_their_supervisor_is_killed(
    scene: Scene, tmp_path: Path
) -> None:
    """Nobody would start them again, and another supervisor will start the slots."""
    supervisor = two_workers(scene, tmp_path / "orphans.log")
    workers: list[int] = []
    try:
        wait_running(scene)
        workers = children(supervisor.pid)
        assert len(workers) >= 2
        produce(scene, range(50))
        supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not any(map(alive, workers)), WAIT_SECONDS, "the workers to end")
    finally:
        supervisor.kill()
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
    with scene.service():
        handled(scene, range(50))


def test_a_drain_that_takes_too_long_is_cut_short(scene: Scene) -> None:
    with scene.service(drain_timeout_seconds="1") as service:
        wait_running(scene)
        stopped = service.stop_worker()
        assert stopped is not None
        os.kill(service.child.pid, signal.SIGTERM)
        wait_until(lambda: not service.child.alive, WAIT_SECONDS, "the service to end")
        assert service.child.exit_code == Exit.STUCK
        assert not alive(stopped)
        assert "drain-cut-short" in service.child.log.read_text()


@pytest.mark.parametrize("at", ["start", "work"])
def test_sigterm_for_the_whole_process_group_is_an_ordinary_end(scene: Scene, at: str) -> None:
    """As service managers send it: the supervisor and each worker have it, and workers twice."""
    log = scene.folder / "group.log"
    process = two_workers(scene, log, start_new_session=True)
    try:
        wait_until(lambda: b"worker-started" in log.read_bytes(), WAIT_SECONDS, "a worker")
        if at == "work":
            wait_running(scene)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == Exit.OK, log.read_text()
    finally:
        process.kill()


def test_a_service_whose_partitions_are_all_halted_says_so_at_the_end(scene: Scene) -> None:
    with scene.service() as service:
        wait_running(scene)
        for partition in range(PARTITIONS):
            scene.produce(partition, Act(1, "halt", "never"))
        for topic in (scene.raw, scene.batches):
            scene.wait_state(0, "running", topic=topic)
        for partition in range(PARTITIONS):
            scene.wait_state(partition, "halted", "handler-halt")
        assert service.drain() == Exit.OK, "two topics still ran"


def test_workers_that_die_at_once_are_not_started_in_a_tight_loop(
    scene: Scene, tmp_path: Path
) -> None:
    """The module imports in the supervisor, and fails in each worker."""
    module = tmp_path / "dying.py"
    module.write_text(
        "import os, sys\n"
        "from tests.support.pipelines import acts as pipeline\n"
        "if sys.argv[0].endswith('work.py'):\n"
        "    os._exit(9)\n"
    )
    environment = {**scene.environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with Service(
        "dying:pipeline",
        workers=1,
        log=tmp_path / "dying.log",
        environment=environment,
        directory=tmp_path,
    ) as service:

        def told(word: str) -> int:
            log = service.child.log
            return log.read_text().count(word) if log.exists() else 0

        wait_until(lambda: told("exit 9") >= 3, WAIT_SECONDS, "a few deaths")
        before, begun = told("worker-started"), time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 4, 20, "some seconds")
        started = told("worker-started") - before
        assert 1 <= started <= 12
        service.child.check()
        assert service.drain() in (Exit.OK, Exit.STUCK)
