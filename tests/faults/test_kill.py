"""Workers are killed and stopped while events flow; both stores must agree to the message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import Service, Stack
from pipelines.user_events import UserEventProducer
from tests.faults.campaign import (
    PARTITIONS,
    REFERENCE,
    Plan,
    caught_up,
    heads,
    owned,
    prepare,
    run,
    wait_until,
)


@pytest.fixture
def fresh_stack() -> Iterator[Stack]:
    """A stack of its own: the audit counts everything that is in it."""
    with Stack() as stack:
        yield stack


@pytest.mark.timeout(180)
def test_nothing_is_lost_or_doubled_when_workers_are_killed_and_stopped(
    fresh_stack: Stack, tmp_path: Path
) -> None:
    plan = Plan(
        events=20_000,
        workers=3,
        kills=12,
        stops=4,
        longest_stop_seconds=4.0,
        pause_seconds=(0.2, 1),
    )
    outcome = run(fresh_stack, plan, tmp_path / "processor.log")
    assert outcome.verdict.fine, (outcome.sentence(), outcome.verdict.examples, plan.seed)
    assert outcome.verdict.produced == outcome.verdict.in_output == 20_000
    assert outcome.fine, (outcome.offsets, outcome.outbox_rows, plan.seed)
    assert outcome.exit_code == 0


@pytest.mark.timeout(180)
def test_every_partition_moves_again_soon_after_a_kill(fresh_stack: Stack, tmp_path: Path) -> None:
    environment = {**fresh_stack.environment, "PROCESSOR_INSTANCE": "kill"}
    prepare(fresh_stack, environment)
    log = tmp_path / "processor.log"
    took = []
    with (
        Service(REFERENCE, workers=2, log=log, environment=environment) as service,
        UserEventProducer(fresh_stack.kafka.bootstrap_servers) as producer,
    ):
        wait_until(lambda: owned(fresh_stack) == PARTITIONS, 30, "all partitions run")
        for _ in range(5):
            wait_until(lambda: caught_up(fresh_stack), 60, "caught up")
            before = {number: h for number, (h, _) in heads(fresh_stack).items()}
            assert service.kill_worker() is not None
            killed = time.monotonic()
            for user_id in range(PARTITIONS * 20):
                producer.send_user_event(user_id, "page_view", {"page": "/"})
            producer.flush()

            def moved(before: dict[int, int] = before) -> bool:
                now = heads(fresh_stack)
                return all(now[number][0] > h for number, h in before.items())

            wait_until(moved, 30, "every partition moves")
            took.append(time.monotonic() - killed)
        service.drain()
    print("seconds from kill -9 to progress on every partition:", [round(t, 2) for t in took])
    # Other work on the machine only adds to it: two of five are as fast as it can be.
    assert sorted(took)[1] < 2.0, took
