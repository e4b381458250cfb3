"""A partition's owner is asked to halt it: it does, it says nothing, or it says half of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devstack import Postgres
from processor.engine.batch import Partition
from processor.engine.register import Register, Report
from processor.errors import Refused
from processor.operations.remedies import halting
from processor.operations.remedies.halting import Halting
from processor.operations.remedies.look import Look
from tests.support.databases import CLUSTER, PostgresWorld, create_migrated
from tests.support.engine import free_steps

PLACE = Partition("input", 0)
POLL_SECONDS = 0.02
INCARNATION = "one"

Answer = Callable[["Owner"], None]


class Owner:
    """A worker's register, asked between two batches; what it answers is up to the test."""

    def __init__(self, world: PostgresWorld) -> None:
        self.slot = f"{world.group}:host:0"
        self.register = Register(
            world.database("owner"), CLUSTER, world.group, self.slot, free_steps()
        )
        self.register.claim(INCARNATION)
        self.report("running")
        self.taken: list[str] = []

    def report(self, state: str) -> None:
        self.register.report([Report(PLACE, state, None, None, None)])

    def work(self, answer: Answer, done: threading.Event) -> None:
        while not done.wait(POLL_SECONDS):
            self.look(answer)
        self.look(answer)

    def look(self, answer: Answer) -> None:
        for request in self.register.take_requests([PLACE]).values():
            self.taken.append(request.command)
            answer(self)


@pytest.fixture
def world(postgres: Postgres, group: str) -> Iterator[PostgresWorld]:
    world = PostgresWorld(create_migrated(postgres), group)
    yield world
    world.close()


@pytest.fixture
def halt(world: PostgresWorld) -> Halting:
    """Of a partition's report no more is read than Postgres has."""
    kafka: Any = None
    database = world.database("remedy")
    look = Look(kafka, database, world.ledger("remedy"), world.group, free_steps())
    return Halting(look, database, CLUSTER, world.group, "tester")


def asked(world: PostgresWorld) -> list[tuple[str, bool]]:
    """All requests, and whether each was taken."""
    found = world.observed.rows("SELECT * FROM processor.control ORDER BY id")
    return [(row["command"], row["acknowledged"]) for row in found]


def ensure(halt: Halting, owner: Owner, answer: Answer) -> bool:
    """While the owner works, and answers as it is told."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(owner.work, answer, done)
        try:
            return halt.ensure(PLACE)
        finally:
            done.set()
            working.result()


def test_an_owner_that_halts_is_waited_for(world: PostgresWorld, halt: Halting) -> None:
    owner = Owner(world)
    assert ensure(halt, owner, lambda owner: owner.report("halted"))
    assert asked(world) == [("halt", True)]
    assert world.observed.audited() == ["halt"]
    assert not halt.ensure(PLACE), "it is halted already"


def test_nobody_is_asked_where_nobody_lives(world: PostgresWorld, halt: Halting) -> None:
    assert not halt.ensure(PLACE)
    Owner(world).register.leave()
    assert not halt.ensure(PLACE)
    assert asked(world) == []


def test_a_request_that_nobody_takes_is_withdrawn(
    world: PostgresWorld, halt: Halting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halting, "ACKNOWLEDGE_SECONDS", 0.3)
    owner = Owner(world)
    with pytest.raises(Refused, match=r"did not answer within 0\.3 s; try again, or stop"):
        halt.ensure(PLACE)
    assert owner.register.take_requests([PLACE]) == {}


def test_a_halt_that_is_taken_but_not_reported_is_let_go(
    world: PostgresWorld, halt: Halting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the owner does is not known, so nothing is changed beside it, and it is to go on."""
    monkeypatch.setattr(halting, "ACKNOWLEDGE_SECONDS", 0.5)
    owner = Owner(world)
    with pytest.raises(Refused) as refused:
        ensure(halt, owner, lambda _: None)
    why = str(refused.value)
    assert f"{owner.slot} took the halt and did not report it within 0.5 s" in why
    assert "try again, or stop the service" in why
    assert len(why.splitlines()) == 1
    assert owner.taken == ["halt", "resume"]
