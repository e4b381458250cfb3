"""Workers that stand still in the middle of a batch for longer than their session, then wake up.

Their locks must not hold up the next owner, and nothing of theirs may land beside its work.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres, Service
from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.processes import STOPPED, state_of
from tests.support.running import Scene, numbered

PARTITIONS = 8
SESSION_SECONDS = 6
TRANSACTION_SECONDS = 10
"""What a stopped worker has sent stays open for so long, and until the broker looks."""
LOOKS = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}
"""10 s by default."""
STOP_SECONDS = 22
FAULTS = ("flush.inside", "store.after", "commit.before", "commit.inside", "end.before")
"""In COPY; between compare-and-set and COMMIT; in COMMIT; between the two commits."""
ROUNDS = 40


def standing(service: Service) -> list[int]:
    return [pid for pid in service.workers() if state_of(pid) == STOPPED]


@pytest.mark.timeout(180)
def test_nobody_waits_for_a_worker_that_stands_still(postgres: Postgres, tmp_path: Path) -> None:
    with Kafka(tmp_path / "kafka", broker_config=LOOKS) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        scene = Scene(kafka, postgres, admin, tmp_path, partitions=PARTITIONS)
        stand_still(scene, tmp_path / "fired")
        scene.close()


def stand_still(scene: Scene, fired: Path) -> None:
    fired.mkdir()
    settings = {
        "faults": " ".join(f"{fault}=stop:{STOP_SECONDS}@5" for fault in FAULTS),
        "faults_folder": str(fired),
        "kafka__session_timeout_seconds": str(SESSION_SECONDS),
        "kafka__transaction_timeout_seconds": str(TRANSACTION_SECONDS),
    }
    sent = 0

    def produce() -> None:
        """More than a few messages a partition, so that a flush is a COPY."""
        nonlocal sent
        for partition in range(PARTITIONS):
            scene.produce(partition, *numbered(*range(sent, sent + ROUNDS)))
        sent += ROUNDS

    with scene.service(workers=len(FAULTS) + 1, **settings) as service:
        until = time.monotonic() + 60
        while len(list(fired.iterdir())) < len(FAULTS):
            assert time.monotonic() < until, f"fired: {sorted(fired.iterdir())}"
            produce()
            time.sleep(0.2)
        first_stop = min(path.stat().st_mtime for path in fired.iterdir())
        produce()
        wait_until(
            lambda: all(scene.h(partition) == sent for partition in range(PARTITIONS)),
            STOP_SECONDS,
            "all partitions to go on without those who stand still",
        )
        assert time.time() < first_stop + STOP_SECONDS, "they stood still all the while"
        wait_until(lambda: not standing(service), 2 * STOP_SECONDS, "all of them to wake up")
        produce()
        for partition in range(PARTITIONS):
            scene.wait_rest(partition)
        assert service.drain() == Exit.OK
    for partition in range(PARTITIONS):
        assert scene.effects(partition) == list(range(sent))
        assert scene.told(partition) == list(range(sent))
