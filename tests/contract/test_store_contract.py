"""The one Postgres transaction: all of a batch or nothing, and never without knowing which."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from processor.engine.batch import Partition
from processor.engine.failures import (
    DatabaseDoubt,
    Doubt,
    OwnerChanged,
    Restart,
    StatementFailed,
    StatementRefused,
)
from processor.engine.outbox import decode_entry
from processor.engine.recovery import Row
from processor.engine.store import Store
from processor.errors import PipelineError
from processor.writes import CopyWrite, UpsertWrite
from tests.support.databases import (
    TOPIC,
    TOPIC_ID,
    PostgresWorld,
    ProxiedWorld,
    letter,
    step,
)

TABLE = Table("numbers", MetaData(), Column("n", Integer, primary_key=True), Column("text", Text))
NAMES = (TOPIC, TOPIC_ID)


@pytest.fixture
def row(world: PostgresWorld) -> Row:
    [row] = world.started()
    return row


def insert(store: Store, *numbers: int) -> None:
    store.session.copy(CopyWrite(TABLE, ("n",), [(n,) for n in numbers]))


class TestCommit:
    """What every store promises."""

    def test_moves_h_and_writes_the_outbox(self, world: PostgresWorld, row: Row) -> None:
        world.store().commit([step(row, 0, 5, [b"one", b"two"])], {row.id: NAMES})
        found = world.observed.progress(row.id)
        assert (found["next_offset"], found["published_offset"]) == (5, 0)
        assert (found["handled"], found["outputs"]) == (5, 2)
        assert world.observed.outbox(row.id) == [(0, 5, 2)]

    def test_the_outbox_holds_the_sealed_bytes(self, world: PostgresWorld, row: Row) -> None:
        advance = step(row, 0, 5, [b"one", b"\x00\xff"])
        world.store().commit([advance], {row.id: NAMES})
        [stored] = world.observed.rows("SELECT * FROM processor.outbox")
        entry = decode_entry(
            row.id, 0, 5, stored["output_count"], stored["checksum"], stored["payload"]
        )
        assert advance.entry is not None
        assert entry.payload == advance.entry.payload
        assert [record.value for record in entry.records] == [b"one", b"\x00\xff"]

    def test_counts_add_up_and_the_leader_epoch_stays_known(
        self, world: PostgresWorld, row: Row
    ) -> None:
        store = world.store()
        names = {row.id: NAMES}
        store.commit([step(row, 0, 5, leader_epoch=3, handled=3, skipped=2, duplicates=1)], names)
        store.commit([step(row, 5, 7, handled=1, dead_letters=[letter(offset=6)])], names)
        found = world.observed.progress(row.id)
        assert (found["handled"], found["skipped"], found["dead_lettered"]) == (4, 2, 1)
        assert found["duplicates"] == 1
        assert found["leader_epoch"] == 3

    def test_dead_letters_stand_and_fall_with_the_batch(
        self, world: PostgresWorld, row: Row
    ) -> None:
        store, names = world.store(), {row.id: NAMES}
        store.commit([step(row, 0, 2, dead_letters=[letter(offset=1)])], names)
        [found] = world.observed.dead_letters()
        assert (found["topic"], found["topic_id"], found["offset"]) == (TOPIC, TOPIC_ID, 1)
        assert (found["key"], found["value"]) == (b"k", b"v")
        with pytest.raises(OwnerChanged):
            store.commit([step(row, 1, 3, dead_letters=[letter(offset=2)])], names)
        assert len(world.observed.dead_letters()) == 1

    @pytest.mark.parametrize("text", ["nul \x00", "surrogate \ud800", "", "é" * 3_000])
    def test_any_reason_can_be_stored(self, world: PostgresWorld, row: Row, text: str) -> None:
        bad = letter(reason=text, trace=text, key=None, value=None, timestamp=None)
        world.store().commit([step(row, 0, 1, dead_letters=[bad])], {row.id: NAMES})
        assert len(world.observed.dead_letters()) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"first": 4}, id="H below"),
            pytest.param({"first": 6}, id="H above"),
            pytest.param({"token": "of another recovery"}, id="token"),
            pytest.param({"lineage": "of another database"}, id="lineage"),
            pytest.param({"progress_id": 10**9}, id="row"),
        ],
    )
    def test_commits_nothing_at_all_for_anybody_but_the_owner(
        self, world: PostgresWorld, row: Row, changes: dict[str, Any]
    ) -> None:
        store, names = world.store(), {row.id: NAMES, 10**9: NAMES}
        store.commit([step(row, 0, 5)], names)
        before = world.observed.progress(row.id)
        world.observed.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
        insert(store, 1)
        late = replace(step(row, 5, 9, [b"x"], dead_letters=[letter()]), **changes)
        with pytest.raises(OwnerChanged):
            store.commit([late], names)
        assert world.observed.progress(row.id) == before
        assert world.observed.outbox(row.id) == [(0, 5, 0)]
        assert world.observed.value("SELECT count(*) FROM processor.outbox") == 1
        assert world.observed.dead_letters() == []
        assert world.observed.rows("SELECT * FROM numbers") == []

    @pytest.mark.parametrize(
        "change", ["intent = '{}'", "superseded_at = now()"], ids=["intent", "superseded"]
    )
    def test_commits_nothing_over_a_row_that_is_being_changed(
        self, world: PostgresWorld, row: Row, change: str
    ) -> None:
        world.observed.execute(f"UPDATE processor.progress SET {change}")
        with pytest.raises(OwnerChanged):
            world.store().commit([step(row, 0, 5)], {row.id: NAMES})
        assert world.observed.h(row.id) == 0
        assert world.observed.outbox(row.id) == []

    def test_a_batch_that_somebody_else_has_committed_is_a_doubt(
        self, world: PostgresWorld, row: Row
    ) -> None:
        """Same H, same token, same outbox row: the later one finds it taken."""
        late, names = world.store("late"), {row.id: NAMES}
        late.session.execute("SELECT 1", None)
        world.store("early").commit([step(row, 0, 5, [b"early"])], names)
        with pytest.raises(Doubt):
            late.commit([step(row, 0, 5, [b"late"])], names)
        late.rollback()
        assert world.observed.progress(row.id)["outputs"] == 1
        assert world.observed.outbox(row.id) == [(0, 5, 1)]

    def test_a_renewed_token_shuts_the_last_owner_out(self, world: PostgresWorld, row: Row) -> None:
        """A zombie that handled its batch before it was stopped."""
        zombie = world.store("zombie")
        zombie.session.execute("SELECT 1", None)
        token = world.renew(row)
        with pytest.raises(OwnerChanged):
            zombie.commit([step(row, 0, 5, [b"zombie"])], {row.id: NAMES})
        world.store("owner").commit([step(row, 0, 3, token=token)], {row.id: NAMES})
        assert world.observed.h(row.id) == 3
        assert world.observed.outbox(row.id) == [(0, 3, 0)]

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_several_partitions_move_together_or_not_at_all(
        self, world: PostgresWorld, wrong: int
    ) -> None:
        rows = world.started(3)
        names = {row.id: NAMES for row in rows}
        advances = [step(row, 0, 5, [b"x"]) for row in rows]
        advances[wrong] = replace(advances[wrong], token="stale")
        store = world.store()
        with pytest.raises(OwnerChanged, match="1 of 3"):
            store.commit(advances, names)
        assert [world.observed.h(row.id) for row in rows] == [0, 0, 0]
        assert world.observed.value("SELECT count(*) FROM processor.outbox") == 0
        store.commit([step(row, 0, 5, [b"x"]) for row in reversed(rows)], names)
        assert [world.observed.h(row.id) for row in rows] == [5, 5, 5]

    def test_of_two_that_race_for_a_row_exactly_one_wins(self, world: PostgresWorld) -> None:
        rows = world.started(2)
        names = {row.id: NAMES for row in rows}
        stores = [world.store(str(number)) for number in range(4)]
        for round_ in range(10):
            start = world.barrier(len(stores))

            def race(number: int, at: int = round_, start: Callable[..., Any] = start) -> bool:
                store = stores[number]
                store.session.execute("SELECT 1", None)
                # In either order of partitions: rows are locked in one, so nobody deadlocks.
                order = rows if number % 2 else rows[::-1]
                advances = [step(row, at, at + 1, [b"%d" % number]) for row in order]
                start()
                try:
                    store.commit(advances, names)
                except Doubt:
                    store.rollback()
                    return False
                return True

            won = world.together(*(partial(race, number) for number in range(len(stores))))
            assert sum(won) == 1
            for row in rows:
                assert world.observed.h(row.id) == round_ + 1
        assert world.observed.outbox(rows[0].id) == [(n, n + 1, 1) for n in range(10)]

    def test_the_row_of_progress_is_locked_before_anything_else(
        self, real_world: PostgresWorld
    ) -> None:
        """By that lock the next owner finds a session that stopped, whatever else it waits for."""
        [row] = real_world.started()
        store, other, looking = (real_world.store(slot) for slot in ("a", "b", "c"))
        columns = "progress_id, first_offset, next_offset, output_count, checksum, payload"
        other.session.execute(
            f"INSERT INTO processor.outbox ({columns}) VALUES (%s, 0, 5, 0, 0, '')", [row.id]
        )

        def write() -> bool:
            store.write([step(row, 0, 5, [b"x"])], {row.id: NAMES})
            store.rollback()
            return True

        def look() -> bool:
            """Whether the row is locked while the write waits."""
            query = "SELECT 1 FROM processor.progress WHERE id = %s FOR UPDATE NOWAIT"
            until, locked = time.monotonic() + 5, False
            while not locked and time.monotonic() < until:
                try:
                    looking.session.execute(query, [row.id])
                except StatementRefused:
                    locked = True
                looking.rollback()
            other.rollback()
            return locked

        assert real_world.together(write, look) == [True, True]

    def test_an_empty_row_is_lengthened_instead_of_followed(
        self, world: PostgresWorld, row: Row
    ) -> None:
        store, names = world.store(), {row.id: NAMES}
        store.commit([step(row, 0, 5)], names)
        store.commit([step(row, 5, 9, extends=0)], names)
        store.commit([step(row, 9, 12, extends=0)], names)
        assert world.observed.outbox(row.id) == [(0, 12, 0)]
        assert world.observed.h(row.id) == 12
        [known] = world.locked([Partition(TOPIC, 0)], 0).values()
        assert [(m.first, m.next, m.damage) for m in known.outbox] == [(0, 12, None)]

    @pytest.mark.parametrize("extends", [1, 5], ids=["no such row", "another end"])
    def test_only_the_row_that_ends_at_h_is_lengthened(
        self, world: PostgresWorld, row: Row, extends: int
    ) -> None:
        store, names = world.store(), {row.id: NAMES}
        store.commit([step(row, 0, 5)], names)
        store.commit([step(row, 5, 9, [b"x"])], names)
        for wrong in (extends, 0):
            with pytest.raises(OwnerChanged):
                store.commit([step(row, 9, 12, extends=wrong)], names)
            store.rollback()
        assert world.observed.outbox(row.id) == [(0, 5, 0), (5, 9, 1)]
        assert world.observed.h(row.id) == 9

    def test_a_row_with_outputs_is_never_lengthened(self, world: PostgresWorld, row: Row) -> None:
        store, names = world.store(), {row.id: NAMES}
        store.commit([step(row, 0, 5, [b"x"])], names)
        with pytest.raises(OwnerChanged):
            store.commit([step(row, 5, 9, extends=0)], names)
        store.rollback()
        assert world.observed.h(row.id) == 5


NUMBERS = "CREATE TABLE numbers (n int PRIMARY KEY, text text)"


@pytest.fixture
def numbers(world: PostgresWorld) -> PostgresWorld:
    """A table of the pipeline's own."""
    world.observed.execute(NUMBERS)
    return world


def found(world: PostgresWorld) -> list[int]:
    return [row["n"] for row in world.observed.rows("SELECT n FROM numbers ORDER BY n")]


class TestSession:
    """Handlers' writes are in the same transaction."""

    def test_writes_stand_with_the_commit(self, numbers: PostgresWorld, row: Row) -> None:
        store = numbers.store()
        insert(store, 1, 2)
        store.session.upsert(UpsertWrite(TABLE, ("n",), (("text", "set"),), [(3, "three")]))
        assert store.session.execute("UPDATE numbers SET text = %s WHERE n = 1", ("one",)) == 1
        assert store.session.fetch_all("SELECT n FROM numbers ORDER BY n", None) == [
            (1,),
            (2,),
            (3,),
        ]
        assert found(numbers) == [], "nothing is to be seen before the commit"
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        assert found(numbers) == [1, 2, 3]

    def test_a_rollback_leaves_nothing(self, numbers: PostgresWorld, row: Row) -> None:
        store = numbers.store()
        insert(store, 1)
        store.rollback()
        store.rollback()
        insert(store, 2)
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        assert found(numbers) == [2]

    def test_a_savepoint_undoes_one_message_and_keeps_the_others(
        self, numbers: PostgresWorld, row: Row
    ) -> None:
        store = numbers.store()
        store.savepoint()
        insert(store, 1)
        store.release()
        store.savepoint()
        insert(store, 2)
        with pytest.raises(StatementFailed):
            insert(store, 1)
        store.rollback_to_savepoint()
        assert store.session.failure is None
        store.savepoint()
        insert(store, 3)
        store.release()
        store.commit([step(row, 0, 3)], {row.id: NAMES})
        assert found(numbers) == [1, 3]

    def test_copy_takes_any_text(self, numbers: PostgresWorld, row: Row) -> None:
        texts = ["", "\\N", "a\tb\nc\\d\r", "é\u2028😀", "'", None]
        store = numbers.store()
        rows = [(n, text) for n, text in enumerate(texts)]
        store.session.copy(CopyWrite(TABLE, ("n", "text"), rows))
        store.commit([step(row, 0, 3)], {row.id: NAMES})
        stored = numbers.observed.rows("SELECT text FROM numbers ORDER BY n")
        assert [each["text"] for each in stored] == texts


def blame(
    numbers: PostgresWorld, row: Row, statements: Sequence[str], kind: type[Exception]
) -> None:
    """The last statement fails in this way; the store goes on after it."""
    numbers.observed.execute("INSERT INTO numbers VALUES (7)")
    store = numbers.store()
    *before, last = statements
    for each in before:
        store.session.execute(each, None)
    with pytest.raises(kind) as raised:
        store.session.execute(last, None)
    assert type(raised.value) is kind
    assert store.session.failure is raised.value
    assert str(raised.value)
    store.rollback()
    assert store.session.failure is None
    insert(store, 8)
    store.commit([step(row, 0, 5)], {row.id: NAMES})
    assert found(numbers) == [7, 8]


class TestErrors:
    """Whose fault an error is decides between a dead letter, a wait and a doubt."""

    @pytest.mark.parametrize(
        ("statement", "kind"),
        [
            ("INSERT INTO numbers VALUES (7)", StatementFailed),
            ("INSERT INTO numbers VALUES (NULL)", StatementFailed),
            ("SELECT 1 / 0", StatementFailed),
            ("SELECT 'x'::int", StatementFailed),
            ("SELECT 99999999999999999999::int", StatementFailed),
            ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", StatementFailed),
            ("SELECT * FROM nowhere", StatementRefused),
            ("SELECT nothing FROM numbers", StatementRefused),
            ("SELEC 1", StatementRefused),
            ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseDoubt),
        ],
    )
    def test_errors_are_sorted_by_who_is_to_blame(
        self, numbers: PostgresWorld, row: Row, statement: str, kind: type[Exception]
    ) -> None:
        blame(numbers, row, [statement], kind)

    @pytest.mark.parametrize(
        ("setting", "statement"),
        [
            ("SET LOCAL statement_timeout = 1", "SELECT pg_sleep(5)"),
            ("SET LOCAL ROLE stranger", "SELECT * FROM numbers"),
        ],
    )
    def test_limits_and_permissions_are_not_the_messages_fault(
        self, real_world: PostgresWorld, setting: str, statement: str
    ) -> None:
        [row] = real_world.started()
        real_world.observed.execute(NUMBERS)
        real_world.observed.execute(
            "DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object THEN END $$"
        )
        blame(real_world, row, [setting, statement], StatementRefused)

    def test_a_value_that_cannot_be_written_is_the_messages_fault(
        self, numbers: PostgresWorld
    ) -> None:
        for parameters in ([1, object()], [1, "\x00"], [2**70, ""]):
            store = numbers.store()
            with pytest.raises(StatementFailed):
                store.session.execute("INSERT INTO numbers VALUES (%s, %s)", parameters)
            store.rollback()

    def test_a_deadlock_asks_for_the_batch_again(self, numbers: PostgresWorld) -> None:
        numbers.observed.execute("INSERT INTO numbers VALUES (1), (2)")
        stores = [numbers.store("a"), numbers.store("b")]
        both_hold_one = numbers.barrier(2)

        def cross(number: int) -> bool:
            own, other = number + 1, 2 - number
            session = stores[number].session
            session.execute("UPDATE numbers SET text = '' WHERE n = %s", [own])
            both_hold_one()
            try:
                session.execute("UPDATE numbers SET text = '' WHERE n = %s", [other])
            except Restart:
                stores[number].rollback()
                return True
            stores[number].rollback()
            return False

        assert sorted(numbers.together(partial(cross, 0), partial(cross, 1))) == [False, True]

    def test_a_serialization_failure_asks_for_the_batch_again(self, numbers: PostgresWorld) -> None:
        numbers.observed.execute("INSERT INTO numbers VALUES (1)")
        store = numbers.store(isolation="SERIALIZABLE")
        store.session.fetch_all("SELECT * FROM numbers", None)
        numbers.observed.execute("UPDATE numbers SET text = 'x'")
        with pytest.raises(Restart):
            store.session.execute("UPDATE numbers SET text = 'y'", None)

    def test_a_commit_that_is_refused_is_in_doubt_and_leaves_nothing(
        self, world: PostgresWorld, row: Row
    ) -> None:
        world.observed.execute(
            "CREATE TABLE numbers (n int UNIQUE DEFERRABLE INITIALLY DEFERRED, text text)"
        )
        store = world.store()

        def batch() -> None:
            insert(store, 1, 1)
            store.commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})

        with pytest.raises((DatabaseDoubt, StatementFailed)):
            batch()
        store.rollback()
        assert found(world) == []
        assert world.observed.h(row.id) == 0
        assert world.observed.outbox(row.id) == []


class TestLostConnections:
    """A connection that is gone takes its transaction with it, and says so."""

    def test_a_batch_whose_connection_is_killed_is_in_doubt_and_leaves_nothing(
        self, numbers: PostgresWorld, row: Row
    ) -> None:
        store = numbers.store()
        insert(store, 1)
        assert numbers.observed.terminate("processor:%:a:0") == 1
        with pytest.raises(DatabaseDoubt):
            store.commit([step(row, 0, 5)], {row.id: NAMES})
        store.rollback()
        assert found(numbers) == []
        assert numbers.observed.h(row.id) == 0
        insert(store, 2)
        store.commit([step(row, 0, 5)], {row.id: NAMES})
        assert found(numbers) == [2]

    @pytest.mark.parametrize("write", ["copy", "execute", "savepoint", "rollback_to_savepoint"])
    def test_a_lost_transaction_is_not_gone_on_with_on_a_new_connection(
        self, numbers: PostgresWorld, row: Row, write: str
    ) -> None:
        """A handler may swallow the error; what it writes next must not commit by itself."""
        store = numbers.store()
        store.savepoint()
        insert(store, 1)
        numbers.observed.terminate("processor:%:a:0")
        with pytest.raises(DatabaseDoubt):
            insert(store, 2)
        writes: dict[str, Callable[[], object]] = {
            "copy": lambda: insert(store, 3),
            "execute": lambda: store.session.execute("INSERT INTO numbers VALUES (3)", None),
            "savepoint": store.savepoint,
            "rollback_to_savepoint": store.rollback_to_savepoint,
        }
        with pytest.raises(DatabaseDoubt):
            writes[write]()
        assert found(numbers) == []

    def test_a_lost_transaction_is_not_committed_on_a_new_connection(
        self, numbers: PostgresWorld, row: Row
    ) -> None:
        store = numbers.store()
        insert(store, 1)
        numbers.observed.terminate("processor:%:a:0")
        with pytest.raises(DatabaseDoubt):
            insert(store, 2)
        with pytest.raises(DatabaseDoubt):
            store.commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})
        assert numbers.observed.h(row.id) == 0
        assert numbers.observed.outbox(row.id) == []

    @pytest.mark.parametrize("reached", [True, False], ids=["answer lost", "request lost"])
    def test_a_commit_whose_connection_is_cut_is_in_doubt_whatever_stands(
        self, lossy_world: ProxiedWorld, reached: bool
    ) -> None:
        """Only the database itself can tell afterwards."""
        [row] = lossy_world.started()
        store = lossy_world.store(proxied=True)
        store.session.execute("SELECT 1", None)
        with (
            lossy_world.losing_commits(reached=reached),
            pytest.raises(DatabaseDoubt, match="commit"),
        ):
            store.commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})
        store.rollback()
        [known] = lossy_world.locked([Partition(TOPIC, 0)], 0).values()
        assert known.row.next_offset == (5 if reached else 0)
        assert [(m.first, m.next) for m in known.outbox] == ([(0, 5)] if reached else [])
        store.session.execute("SELECT 1", None)
        store.rollback()

    @pytest.mark.parametrize(
        "statement",
        ["COMMIT", " rollback", "END", "SELECT 1; COMMIT", "/* now */ COMMIT", "-- now\nCOMMIT"],
    )
    def test_a_handler_that_ends_the_transaction_itself_is_refused(
        self, numbers: PostgresWorld, row: Row, statement: str
    ) -> None:
        """Whatever its COMMIT has done, H and the outbox must not follow one by one."""
        store = numbers.store()
        insert(store, 1)

        def batch() -> None:
            store.session.execute(statement, None)
            store.commit([step(row, 0, 5, [b"x"])], {row.id: NAMES})

        with pytest.raises((PipelineError, Doubt)):
            batch()
        store.rollback()
        assert numbers.observed.h(row.id) == 0
        assert numbers.observed.outbox(row.id) == []
        store.commit([step(row, 0, 5)], {row.id: NAMES})
