"""Business keys: one taker each, whatever happens at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta

import pytest

from processor.engine.database import Database
from processor.engine.dedup import Keys, TakenKeys, lock_number
from processor.engine.failures import DatabaseDoubt, Restart
from processor.engine.observer import NullObserver
from processor.engine.periods import PARTS, Periods
from processor.engine.store import Store
from tests.support.databases import PostgresWorld
from tests.support.engine import free_steps

HOUR = 3_600.0
ISOLATIONS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


def key(number: int) -> str:
    return f"{number:032x}"


class Noted(NullObserver):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def noted(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))


class Taker:
    """A worker's batches, as far as keys are concerned."""

    def __init__(self, world: PostgresWorld, slot: str, isolation: str = "READ COMMITTED") -> None:
        self.database = world.database(slot, isolation)
        self.store = Store(self.database, world.group, free_steps())
        self.keys = Keys(world.group, isolation)

    def take(self, *numbers: int) -> TakenKeys:
        return self.keys.take(self.store.session, {key(each) for each in numbers})

    def new(self, *numbers: int) -> set[int]:
        return {int(each, 16) for each in self.take(*numbers).ours}

    def commit(self) -> None:
        self.database.commit()
        self.store._finished()

    def rollback(self) -> None:
        self.store.rollback()

    def once(self, *numbers: int) -> set[int]:
        """A whole batch."""
        new = self.new(*numbers)
        self.commit()
        return new


class Clockwork:
    """Periods that are turned by making those that there are older."""

    def __init__(self, world: PostgresWorld, retention: float = HOUR) -> None:
        self._world = world
        self.noted = Noted()
        self.database = world.database("keeper")
        self.periods = self.of(self.database, retention)
        self.periods.keep()

    def of(self, database: Database, retention: float = HOUR) -> Periods:
        return Periods(database, self._world.group, retention, self.noted, self._world.now)

    def pass_(self, seconds: float) -> None:
        self._world.observed.execute(
            "UPDATE processor.dedup_periods SET opened_at = opened_at - %s::interval,"
            " closed_at = closed_at - %s::interval",
            timedelta(seconds=seconds),
            timedelta(seconds=seconds),
        )

    def turn(self) -> None:
        self.pass_(HOUR / PARTS)
        self.periods.keep()

    @property
    def open(self) -> list[int]:
        """Periods by id, those that are to be dropped left out."""
        rows = self._world.observed.rows(
            "SELECT id FROM processor.dedup_periods WHERE NOT expired ORDER BY id"
        )
        return [row["id"] for row in rows]

    @property
    def tables(self) -> int:
        return int(
            self._world.observed.value(
                "SELECT count(*) FROM processor.dedup_periods p"
                " WHERE to_regclass('processor.dedup_keys_' || p.id) IS NOT NULL"
            )
        )


@pytest.fixture
def clockwork(world: PostgresWorld) -> Clockwork:
    return Clockwork(world)


@pytest.fixture
def takers(world: PostgresWorld, clockwork: Clockwork) -> tuple[Taker, Taker]:
    return Taker(world, "a"), Taker(world, "b")


def test_a_key_is_taken_once(takers: tuple[Taker, Taker]) -> None:
    one, other = takers
    assert one.once(1, 2, 3) == {1, 2, 3}
    assert one.once(3, 4) == {4}
    assert other.once(1, 4, 5) == {5}


def test_a_key_of_a_batch_that_was_rolled_back_is_free(takers: tuple[Taker, Taker]) -> None:
    one, other = takers
    assert one.new(1, 2) == {1, 2}
    one.rollback()
    assert other.once(1, 2) == {1, 2}


@pytest.mark.parametrize("commits", [True, False])
def test_who_comes_second_waits_for_the_first(
    world: PostgresWorld, takers: tuple[Taker, Taker], commits: bool
) -> None:
    one, other = takers
    one.new(2, 3)
    waiting = world.begin(lambda: other.once(1, 2, 3, 4))
    world.wait_for_waiters()
    if commits:
        one.commit()
    else:
        one.rollback()
    assert waiting.result(10) == ({1, 4} if commits else {1, 2, 3, 4})


def test_a_key_that_was_given_back_is_the_next_ones(
    world: PostgresWorld, takers: tuple[Taker, Taker]
) -> None:
    one, other = takers
    taken = one.take(1, 2, 3)
    waiting = world.begin(lambda: other.once(2, 3))
    world.wait_for_waiters()
    taken.use(key(1))
    taken.use(key(3))
    one.keys.give_back(one.store.session, taken)
    one.commit()
    assert waiting.result(10) == {2}


def test_opposite_orders_do_not_deadlock(world: PostgresWorld, clockwork: Clockwork) -> None:
    """Sets of keys in any order, from both ends at once; each key has one winner."""
    takers = [Taker(world, slot) for slot in "abc"]
    meet = world.barrier(len(takers))

    def work(taker: Taker, seed: int) -> list[int]:
        chance = random.Random(seed)
        won: list[int] = []
        for round_ in range(40):
            numbers = [round_ * 500 + chance.randrange(500) for _ in range(400)]
            meet()
            won += taker.once(*numbers)
        return won

    calls: list[Callable[[], list[int]]] = [
        (lambda each=taker, seed=seed: work(each, seed)) for seed, taker in enumerate(takers)
    ]
    won = [number for each in world.together(*calls) for number in each]
    assert len(won) == len(set(won))
    [stored] = world.observed.rows(
        f"SELECT count(*) FROM processor.dedup_keys_{clockwork.open[-1]}"
    )
    assert stored["count"] == len(won)


def test_keys_of_older_periods_count(clockwork: Clockwork, takers: tuple[Taker, Taker]) -> None:
    one, other = takers
    for number in range(PARTS):
        assert one.once(number) == {number}
        clockwork.turn()
    assert len(clockwork.open) == PARTS + 1
    assert other.once(*range(PARTS + 1)) == {PARTS}


def test_a_key_is_forgotten_after_the_retention_and_its_table_dropped(
    clockwork: Clockwork, takers: tuple[Taker, Taker]
) -> None:
    one, other = takers
    one.once(1)
    for _ in range(PARTS):
        clockwork.turn()
        assert one.once(1) == set(), "it is kept for the whole retention"
    for _ in range(PARTS):
        clockwork.turn()
    clockwork.periods.keep()
    assert other.once(1) == {1}
    assert len(clockwork.open) == clockwork.tables == PARTS + 1


def test_a_period_ends_when_the_batches_of_it_have(
    world: PostgresWorld, clockwork: Clockwork, takers: tuple[Taker, Taker]
) -> None:
    one, other = takers
    [first] = clockwork.open
    one.new(1)
    clockwork.pass_(HOUR / PARTS)
    clockwork.periods._wait = 20.0
    turning = world.begin(clockwork.periods.keep)
    world.wait_for_waiters()
    behind = world.begin(lambda: other.once(1, 2))
    world.wait_for_waiters(2)
    one.commit()
    turning.result(10)
    assert behind.result(10) == {2}, "it takes from the next period and sees all of the one before"
    assert clockwork.open == [first, first + 1]


def test_a_batch_that_takes_long_holds_nobody_up_for_long(
    clockwork: Clockwork, takers: tuple[Taker, Taker]
) -> None:
    one, other = takers
    one.new(1)
    clockwork.turn()
    assert len(clockwork.open) == 1
    assert [event for event, _ in clockwork.noted.events] == ["dedup-periods-wait"]
    assert other.once(2) == {2}
    one.commit()
    clockwork.periods.keep()
    assert len(clockwork.open) == 2


def test_workers_that_turn_at_once_open_one_period(
    world: PostgresWorld, clockwork: Clockwork
) -> None:
    others = [clockwork.of(world.database(slot)) for slot in "abcd"]
    clockwork.pass_(HOUR / PARTS)
    for each in others:
        each._wait = 20.0
    world.together(*[each.keep for each in others])
    assert len(clockwork.open) == clockwork.tables == 2
    assert clockwork.noted.events == []


def test_the_first_period_is_opened_once(world: PostgresWorld) -> None:
    noted = Noted()
    keepers = [
        Periods(world.database(slot), world.group, HOUR, noted, world.now) for slot in "abcd"
    ]
    world.together(*[each.keep for each in keepers])
    for each in keepers:
        each.keep()
    assert world.observed.value("SELECT count(*) FROM processor.dedup_periods") == 1


def test_periods_turn_while_batches_run(world: PostgresWorld, clockwork: Clockwork) -> None:
    """However the periods turn, a key has one winner within the retention."""
    takers = [Taker(world, slot) for slot in "abc"]
    stop = world.now() + 4.0

    def work(taker: Taker, seed: int) -> list[int]:
        chance = random.Random(seed)
        won: list[int] = []
        base = 0
        while world.now() < stop:
            base = max(base, int((stop - world.now()) * -100))
            numbers = [base + chance.randrange(3_000) for _ in range(50)]
            new = taker.new(*numbers)
            if chance.random() < 0.2:
                taker.rollback()
            else:
                taker.commit()
                won += new
            world.pause(chance.uniform(0, 0.05))
        return won

    begun: list[Future[list[int]]] = [
        world.begin(lambda each=taker, seed=seed: work(each, seed))  # type: ignore[misc]
        for seed, taker in enumerate(takers)
    ]
    # Longer, and the first keys are forgotten, as they should be.
    for _ in range(PARTS):
        world.pause(0.5)
        clockwork.turn()
    won = [number for each in begun for number in each.result(30)]
    assert len(won) == len(set(won)) > 500
    assert len(clockwork.open) > 2


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_snapshot_older_than_a_turn_is_not_believed(
    world: PostgresWorld, clockwork: Clockwork, isolation: str
) -> None:
    late, other = Taker(world, "late", isolation), Taker(world, "other")
    late.store.session.ask("SELECT 1", [])  # it begins, with its snapshot
    assert other.once(1) == {1}
    clockwork.turn()
    if isolation == "READ COMMITTED":
        assert late.once(1, 2) == {2}
        return
    with pytest.raises(Restart):
        late.take(1, 2)
    late.rollback()
    assert late.once(1, 2) == {2}


@pytest.mark.parametrize("isolation", ISOLATIONS[1:])
def test_a_key_that_a_snapshot_does_not_show_is_a_restart(
    world: PostgresWorld, clockwork: Clockwork, isolation: str
) -> None:
    late, other = Taker(world, "late", isolation), Taker(world, "other")
    late.store.session.ask("SELECT 1", [])
    assert other.once(1) == {1}
    with pytest.raises(Restart):
        late.take(1)
    late.rollback()
    assert late.once(1) == set()


def test_groups_have_keys_and_periods_of_their_own(
    world: PostgresWorld, takers: tuple[Taker, Taker]
) -> None:
    one, _ = takers
    one.new(1)  # holds its group's lock
    there = Taker(world, "there")
    there.keys = Keys("another")
    with pytest.raises(DatabaseDoubt, match="no period"):
        there.take(1)
    there.rollback()
    Periods(world.database("k"), "another", HOUR, NullObserver(), world.now).keep()
    assert there.once(1) == {1}


def test_a_dump_that_reads_a_table_delays_its_drop_alone(
    world: PostgresWorld, clockwork: Clockwork, takers: tuple[Taker, Taker]
) -> None:
    one, _ = takers
    [first] = clockwork.open
    dump = world.connection("dump")
    dump.execute("BEGIN")
    dump.execute(f"SELECT * FROM processor.dedup_keys_{first}".encode())
    for _ in range(2 * PARTS):
        clockwork.turn()
    clockwork.periods.keep()
    began = world.now()
    assert one.once(1) == {1}
    assert world.now() - began < 1.0
    assert first not in clockwork.open
    assert clockwork.tables == len(clockwork.open) + 1
    dump.execute("COMMIT")
    clockwork.periods.keep()
    assert clockwork.tables == len(clockwork.open)


def test_a_crash_in_a_turn_leaves_nothing_of_it(world: PostgresWorld, clockwork: Clockwork) -> None:
    crashed = world.connection("crashed")
    crashed.execute("BEGIN")
    crashed.execute("SELECT pg_advisory_xact_lock(%s)", [lock_number(world.group)])
    crashed.execute("UPDATE processor.dedup_periods SET closed_at = now()")
    crashed.execute("CREATE TABLE processor.dedup_keys_1000 (key uuid PRIMARY KEY)")
    crashed.close()
    found = "SELECT to_regclass('processor.dedup_keys_1000') IS NULL"
    world.wait_until(lambda: bool(world.observed.value(found)), "end of what crashed")
    assert len(clockwork.open) == clockwork.tables == 1
    clockwork.turn()
    assert len(clockwork.open) == clockwork.tables == 2


def test_a_role_that_may_not_create_tables_says_so(
    real_world: PostgresWorld,
) -> None:
    clockwork = Clockwork(real_world)
    real_world.observed.execute("DROP ROLE IF EXISTS limited")
    real_world.observed.execute("CREATE ROLE limited")
    real_world.observed.execute("GRANT USAGE ON SCHEMA processor TO limited")
    real_world.observed.execute("GRANT ALL ON ALL TABLES IN SCHEMA processor TO limited")
    try:
        clockwork.database.connection().execute("SET ROLE limited")
        clockwork.turn()
        [(event, fields)] = clockwork.noted.events
        assert event == "dedup-periods-failed"
        assert "permission denied" in str(fields["reason"])
    finally:
        clockwork.database.close()
        real_world.observed.execute("DROP OWNED BY limited")
        real_world.observed.execute("DROP ROLE limited")
