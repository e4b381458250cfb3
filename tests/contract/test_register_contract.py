"""What workers write down about themselves, and what they are asked."""

from __future__ import annotations

import pytest

from processor.engine.batch import Partition
from processor.engine.register import Register, Report, Request
from processor.revisions import require_revision
from processor.schema import REVISIONS
from tests.support.databases import CLUSTER, TOPIC, PostgresWorld
from tests.support.engine import free_steps

FIRST, SECOND = Partition(TOPIC, 0), Partition(TOPIC, 1)


@pytest.fixture
def register(world: PostgresWorld) -> Register:
    return of_slot(world, "a")


def of_slot(world: PostgresWorld, slot: str) -> Register:
    return Register(world.database(slot), CLUSTER, world.group, slot, free_steps())


def halted(partition: Partition, reason: str) -> Report:
    return Report(partition, "halted", reason, "detail", "remedy")


def states(world: PostgresWorld) -> list[tuple[object, ...]]:
    found = world.observed.rows("SELECT * FROM processor.partition_states ORDER BY partition")
    return [(row["partition"], row["slot"], row["state"], row["reason"]) for row in found]


def ask(world: PostgresWorld, command: str, *partitions: Partition) -> None:
    for partition in partitions:
        world.observed.execute(
            "INSERT INTO processor.control (group_id, topic, partition, command, requested_by)"
            " VALUES (%s, %s, %s, %s, 'test')",
            world.group,
            *partition,
            command,
        )


def test_the_last_claim_of_a_slot_counts(world: PostgresWorld, register: Register) -> None:
    assert register.holder() is None
    register.claim("one")
    assert register.holder() == "one"
    of_slot(world, "a").claim("two")
    assert register.holder() == "two"
    assert of_slot(world, "b").holder() is None


def test_only_who_holds_the_slot_is_seen(world: PostgresWorld, register: Register) -> None:
    register.claim("one")
    [before] = world.observed.rows("SELECT * FROM processor.slots")
    register.seen("another")
    assert world.observed.rows("SELECT * FROM processor.slots") == [before]
    register.seen("one")
    [after] = world.observed.rows("SELECT * FROM processor.slots")
    assert after["seen_at"] > before["seen_at"]
    assert after["started_at"] == before["started_at"]


def test_the_last_report_of_a_partition_counts(world: PostgresWorld, register: Register) -> None:
    register.report([halted(SECOND, "one"), halted(FIRST, "one")])
    of_slot(world, "b").report([Report(SECOND, "running", None, None, None)])
    assert states(world) == [(0, "a", "halted", "one"), (1, "b", "running", None)]
    register.report([])


def test_who_leaves_owns_nothing(world: PostgresWorld, register: Register) -> None:
    register.report([halted(FIRST, "one")])
    of_slot(world, "b").report([halted(SECOND, "one")])
    register.leave()
    assert states(world) == [(0, "a", "unowned", None), (1, "b", "halted", "one")]


def test_a_request_is_taken_once(world: PostgresWorld, register: Register) -> None:
    ask(world, "resume", FIRST, SECOND)
    resume = Request("resume", "test")
    assert register.take_requests([FIRST, Partition("another", 1)]) == {FIRST: resume}
    assert register.take_requests([FIRST]) == {}
    assert register.take_requests([FIRST, SECOND]) == {SECOND: resume}
    [taken, _] = world.observed.rows("SELECT * FROM processor.control ORDER BY id")
    assert taken["acknowledged_at"] is not None


def test_the_latest_request_counts(world: PostgresWorld, register: Register) -> None:
    for command in ("resume", "halt", "resume", "halt"):
        ask(world, command, FIRST)
    assert register.take_requests([FIRST]) == {FIRST: Request("halt", "test")}


def test_the_revision_is_the_one_that_a_worker_takes(world: PostgresWorld) -> None:
    assert require_revision(world.database().connection()) == REVISIONS[-1]
