"""What the engine relies on in Postgres itself: locks, snapshots, errors, pipelines.

The simulation's Postgres does the same, or what the simulation shows is nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

from tests.support.databases import PostgresWorld

INSERT = "INSERT INTO numbers VALUES (%s, %s)"
UPSERT = (
    "INSERT INTO numbers AS t (n, text) SELECT * FROM unnest(%s::int[], %s::text[])"
    " ON CONFLICT (n) DO UPDATE SET text = t.text || EXCLUDED.text"
)


@pytest.fixture
def numbers(world: PostgresWorld) -> PostgresWorld:
    """Two rows: (1, 'a') and (2, 'b')."""
    world.observed.execute("CREATE TABLE numbers (n int PRIMARY KEY, text text)")
    world.observed.execute("INSERT INTO numbers VALUES (1, 'a'), (2, 'b')")
    return world


def stored(world: PostgresWorld) -> dict[int, str]:
    found = world.observed.rows("SELECT * FROM numbers ORDER BY n")
    return {row["n"]: row["text"] for row in found}


def begun(world: PostgresWorld, isolation: str = "READ COMMITTED") -> Any:
    connection = world.connection()
    connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
    return connection


class TestWaiting:
    """A statement that meets a lock waits, and then looks at the newest version."""

    def test_an_update_adds_to_what_was_committed_meanwhile(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        update = "UPDATE numbers SET text = text || %s WHERE n = 1"
        first.execute(update, ["1"])
        waiting = numbers.begin(lambda: second.execute(update, ["2"]).rowcount)
        numbers.wait_for_waiters()
        first.execute("COMMIT")
        assert waiting.result(20) == 1
        assert stored(numbers)[1] == "a12"

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
    @pytest.mark.parametrize(
        "change", ["UPDATE numbers SET text = 'x' WHERE n = 1", "DELETE FROM numbers WHERE n = 1"]
    )
    def test_an_update_leaves_a_row_that_is_no_longer_meant(
        self, numbers: PostgresWorld, change: str, end: str
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute(change.encode())
        update = b"UPDATE numbers SET text = 'second' WHERE text = 'a'"
        waiting = numbers.begin(lambda: second.execute(update).rowcount)
        numbers.wait_for_waiters()
        first.execute(end.encode())
        assert waiting.result(20) == (0 if end == "COMMIT" else 1)

    def test_a_row_that_was_inserted_while_it_waited_is_not_seen(
        self, numbers: PostgresWorld
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("UPDATE numbers SET text = 'first' WHERE n = 1")
        first.execute(INSERT, [3, "c"])
        waiting = numbers.begin(lambda: second.execute("UPDATE numbers SET text = 'second'"))
        numbers.wait_for_waiters()
        first.execute("COMMIT")
        assert waiting.result(20).rowcount == 2
        assert stored(numbers) == {1: "second", 2: "second", 3: "c"}

    def test_a_query_for_update_returns_the_newest_version(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("UPDATE numbers SET text = 'first' WHERE n = 1")
        query = "SELECT text FROM numbers ORDER BY n FOR UPDATE"
        waiting = numbers.begin(lambda: second.execute(query).fetchall())
        numbers.wait_for_waiters()
        assert numbers.connection().execute("SELECT text FROM numbers WHERE n = 1").fetchall() == [
            ("a",)
        ]
        first.execute("COMMIT")
        assert waiting.result(20) == [("first",), ("b",)]

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
    def test_an_insert_waits_for_another_one_of_its_key(
        self, numbers: PostgresWorld, end: str
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute(INSERT, [3, "first"])
        waiting = numbers.begin(lambda: second.execute(INSERT, [3, "second"]))
        numbers.wait_for_waiters()
        first.execute(end.encode())
        if end == "COMMIT":
            with pytest.raises(errors.UniqueViolation):
                waiting.result(20)
        else:
            waiting.result(20)
        assert stored(numbers)[3] == ("first" if end == "COMMIT" else "second")

    @pytest.mark.parametrize(("end", "left"), [("COMMIT", "deleted"), ("ROLLBACK", "a")])
    def test_an_insert_waits_for_a_delete_of_its_key(
        self, numbers: PostgresWorld, end: str, left: str
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("DELETE FROM numbers WHERE n = 1")
        nothing = "INSERT INTO numbers VALUES (1, 'deleted') ON CONFLICT DO NOTHING"
        waiting = numbers.begin(lambda: second.execute(nothing))
        numbers.wait_for_waiters()
        first.execute(end.encode())
        assert waiting.result(20).rowcount == (1 if end == "COMMIT" else 0)
        assert stored(numbers)[1] == left

    def test_an_upsert_waits_for_another_one(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute(UPSERT, [[2, 3], ["1", "1"]])
        waiting = numbers.begin(lambda: second.execute(UPSERT, [[1, 2, 3], ["2", "2", "2"]]))
        numbers.wait_for_waiters()
        first.execute("COMMIT")
        assert waiting.result(20).rowcount == 3
        assert stored(numbers) == {1: "a2", 2: "b12", 3: "12"}

    def test_do_nothing_waits_as_well(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute(INSERT, [3, "first"])
        nothing = "INSERT INTO numbers VALUES (3, 'second'), (4, 'd') ON CONFLICT DO NOTHING"
        waiting = numbers.begin(lambda: second.execute(nothing))
        numbers.wait_for_waiters()
        first.execute("COMMIT")
        assert waiting.result(20).rowcount == 1
        assert stored(numbers) == {1: "a", 2: "b", 3: "first", 4: "d"}

    def test_upserts_that_cross_are_a_deadlock_for_one_of_them(
        self, numbers: PostgresWorld
    ) -> None:
        first, second = begun(numbers), begun(numbers)
        first.execute(UPSERT, [[1], ["1"]])
        second.execute(UPSERT, [[2], ["2"]])
        waiting = numbers.begin(lambda: first.execute(UPSERT, [[2], ["1"]]))
        numbers.wait_for_waiters()
        with pytest.raises(errors.DeadlockDetected):
            numbers.together(
                lambda: second.execute(UPSERT, [[1], ["2"]]), lambda: waiting.result(20)
            )

    def test_a_savepoint_that_is_rolled_back_gives_its_locks_back(
        self, numbers: PostgresWorld
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("SELECT 1 FROM numbers WHERE n = 2 FOR UPDATE")
        first.execute("SAVEPOINT message")
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        waiting = numbers.begin(lambda: second.execute("DELETE FROM numbers WHERE n = 1"))
        numbers.wait_for_waiters()
        first.execute("ROLLBACK TO SAVEPOINT message")
        assert waiting.result(20).rowcount == 1
        with pytest.raises(errors.LockNotAvailable):
            second.execute("SELECT 1 FROM numbers FOR UPDATE NOWAIT")

    def test_a_wait_has_its_limit(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), begun(numbers)
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        second.execute("SET LOCAL lock_timeout = 100")
        with pytest.raises(errors.LockNotAvailable):
            second.execute("UPDATE numbers SET text = 'y'")
        second.execute("ROLLBACK")
        second.execute("BEGIN")
        second.execute("SET LOCAL statement_timeout = 100")
        with pytest.raises(errors.QueryCanceled):
            second.execute("UPDATE numbers SET text = 'y'")

    def test_who_holds_a_lock_can_be_sent_away(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        waiting = numbers.begin(lambda: second.execute("UPDATE numbers SET text = 'y'").rowcount)
        numbers.wait_for_waiters()
        numbers.connection().execute("SELECT pg_terminate_backend(%s)", [first.info.backend_pid])
        assert waiting.result(20) == 2
        assert not first.closed, "it does not know yet"
        with pytest.raises(psycopg.OperationalError):
            first.execute("COMMIT")
        assert first.closed
        assert first.broken

    def test_an_idle_transaction_ends_at_its_limit(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute("SELECT set_config('idle_in_transaction_session_timeout', '300', true)")
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        waiting = numbers.begin(lambda: second.execute("UPDATE numbers SET text = 'y'").rowcount)
        assert waiting.result(20) == 2
        with pytest.raises(errors.IdleInTransactionSessionTimeout):
            first.execute("COMMIT")
        assert first.closed
        assert stored(numbers)[1] == "y"


class TestSharing:
    """Locks that several hold at once: of rows, and of numbers."""

    def test_rows_for_share_are_read_by_several_and_changed_by_none(
        self, numbers: PostgresWorld
    ) -> None:
        first, second, third = begun(numbers), begun(numbers), numbers.connection()
        for each in (first, second):
            each.execute("SELECT 1 FROM numbers WHERE n = 1 FOR SHARE")
        waiting = numbers.begin(lambda: third.execute("UPDATE numbers SET text = 'x'").rowcount)
        numbers.wait_for_waiters()
        first.execute("COMMIT")
        numbers.wait_for_waiters()
        assert not waiting.done()
        second.execute("ROLLBACK")
        assert waiting.result(20) == 2

    def test_who_shares_a_row_alone_may_change_it(self, numbers: PostgresWorld) -> None:
        first = begun(numbers)
        first.execute("SELECT 1 FROM numbers FOR SHARE")
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        first.execute("COMMIT")
        assert stored(numbers)[1] == "x"

    def test_for_share_finds_that_its_snapshot_is_too_old(self, numbers: PostgresWorld) -> None:
        first = begun(numbers, "REPEATABLE READ")
        first.execute("SELECT 1")
        numbers.observed.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        with pytest.raises(errors.SerializationFailure):
            first.execute("SELECT 1 FROM numbers FOR SHARE")

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "ROLLBACK TO SAVEPOINT message"])
    def test_a_number_is_locked_until_the_transactions_end(
        self, numbers: PostgresWorld, end: str
    ) -> None:
        first, second = begun(numbers), begun(numbers)
        first.execute("SAVEPOINT message")
        first.execute("SELECT pg_advisory_xact_lock(7)")
        second.execute("SELECT pg_advisory_xact_lock(8), pg_advisory_xact_lock(7, 0)")
        waiting = numbers.begin(
            lambda: second.execute("SELECT pg_advisory_xact_lock_shared(7)").fetchone()
        )
        numbers.wait_for_waiters()
        first.execute(end.encode())
        assert waiting.result(20) == ("",)

    def test_who_waits_to_be_alone_is_not_overtaken(self, numbers: PostgresWorld) -> None:
        first, alone, later = begun(numbers), begun(numbers), begun(numbers)
        share, lock = (f"SELECT pg_advisory_xact_lock{kind}(7)" for kind in ("_shared", ""))
        first.execute(share.encode())
        waiting = numbers.begin(lambda: alone.execute(lock.encode()))
        numbers.wait_for_waiters()
        behind = numbers.begin(lambda: later.execute(share.encode()))
        numbers.wait_for_waiters(2)
        first.execute(share.encode())  # who has it does not wait
        first.execute("COMMIT")
        waiting.result(20)
        assert not behind.done()
        alone.execute("COMMIT")
        behind.result(20)

    def test_who_gives_up_lets_those_behind_go_on(self, numbers: PostgresWorld) -> None:
        first, alone, later = begun(numbers), begun(numbers), begun(numbers)
        for each in (first, later):
            each.execute("SELECT 1")
        first.execute("SELECT pg_advisory_xact_lock_shared(7)")
        alone.execute("SET LOCAL lock_timeout = 300")
        waiting = numbers.begin(lambda: alone.execute("SELECT pg_advisory_xact_lock(7)"))
        numbers.wait_for_waiters()
        later.execute("SELECT pg_advisory_xact_lock_shared(7)")
        with pytest.raises(errors.LockNotAvailable):
            waiting.result(20)

    def test_the_limit_of_a_wait_is_one_however_many_are_in_the_way(
        self, numbers: PostgresWorld
    ) -> None:
        sharers, alone = [begun(numbers) for _ in range(3)], begun(numbers)
        for each in sharers:
            each.execute("SELECT pg_advisory_xact_lock_shared(7)")
        alone.execute("SET LOCAL lock_timeout = 500")
        began = numbers.now()
        waiting = numbers.begin(lambda: alone.execute("SELECT pg_advisory_xact_lock(7)"))
        for each in sharers[:2]:
            numbers.pause(0.2)
            each.execute("COMMIT")
        with pytest.raises(errors.LockNotAvailable):
            waiting.result(20)
        assert numbers.now() - began < 0.8

    def test_two_that_share_and_want_to_be_alone_are_a_deadlock(
        self, numbers: PostgresWorld
    ) -> None:
        first, second = begun(numbers), begun(numbers)
        for each in (first, second):
            each.execute("SELECT pg_advisory_xact_lock_shared(7)")
        waiting = numbers.begin(lambda: first.execute("SELECT pg_advisory_xact_lock(7)"))
        numbers.wait_for_waiters()
        with pytest.raises(errors.DeadlockDetected):
            numbers.together(
                lambda: second.execute("SELECT pg_advisory_xact_lock(7)"),
                lambda: waiting.result(20),
            )


CREATE = b"CREATE TABLE fleeting (n int PRIMARY KEY)"


class TestTables:
    """They come and go with transactions."""

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
    def test_one_is_created_when_its_transaction_commits(
        self, numbers: PostgresWorld, end: str
    ) -> None:
        first, second = begun(numbers), numbers.connection()
        first.execute(CREATE)
        first.execute("INSERT INTO fleeting VALUES (1)")
        with pytest.raises(errors.UndefinedTable):
            second.execute("SELECT n FROM fleeting")
        first.execute(end.encode())
        if end == "COMMIT":
            assert second.execute("SELECT n FROM fleeting").fetchall() == [(1,)]
            with pytest.raises(errors.DuplicateTable):
                second.execute(CREATE)
        else:
            with pytest.raises(errors.UndefinedTable):
                second.execute("SELECT n FROM fleeting")
            second.execute(CREATE)

    def test_a_savepoint_takes_a_creation_and_a_drop_back(self, numbers: PostgresWorld) -> None:
        first = begun(numbers)
        first.execute("SAVEPOINT message")
        first.execute(CREATE)
        first.execute("DROP TABLE numbers")
        with pytest.raises(errors.UndefinedTable):
            first.execute("SELECT 1 FROM numbers")
        first.execute("ROLLBACK TO SAVEPOINT message")
        assert first.execute("SELECT count(*) FROM numbers").fetchone() == (2,)
        first.execute(CREATE)
        first.execute("COMMIT")
        assert numbers.observed.rows("SELECT n FROM fleeting") == []

    @pytest.mark.parametrize("use", ["SELECT 1 FROM numbers", "DELETE FROM numbers WHERE n = 9"])
    def test_a_drop_waits_for_who_has_used_the_table(
        self, numbers: PostgresWorld, use: str
    ) -> None:
        first, second, third = begun(numbers), begun(numbers), numbers.connection()
        first.execute(use.encode())
        second.execute("SET LOCAL lock_timeout = 100")
        with pytest.raises(errors.LockNotAvailable):
            second.execute("DROP TABLE numbers")
        second.execute("ROLLBACK")
        dropping = numbers.begin(lambda: second.execute("DROP TABLE IF EXISTS numbers"))
        numbers.wait_for_waiters()
        behind = numbers.begin(lambda: third.execute("SELECT 1 FROM numbers"))
        numbers.wait_for_waiters(2)
        first.execute(use.encode())  # who has used it does not wait
        first.execute("COMMIT")
        assert dropping.result(20).statusmessage == "DROP TABLE"
        with pytest.raises(errors.UndefinedTable):
            behind.result(20)

    def test_one_that_is_not_there_may_be_missing(self, numbers: PostgresWorld) -> None:
        connection = numbers.connection()
        assert connection.execute("DROP TABLE IF EXISTS nowhere").statusmessage == "DROP TABLE"
        with pytest.raises(errors.UndefinedTable):
            connection.execute("DROP TABLE nowhere")


class TestSnapshots:
    """What a transaction sees of the others."""

    def test_a_statement_sees_what_was_committed_before_it(self, numbers: PostgresWorld) -> None:
        first, second = begun(numbers), numbers.connection()
        query = "SELECT text FROM numbers WHERE n = 1"
        assert first.execute(query).fetchone() == ("a",)
        second.execute("UPDATE numbers SET text = 'x' WHERE n = 1")
        assert first.execute(query).fetchone() == ("x",)

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_a_stronger_isolation_sees_its_first_statements_state(
        self, numbers: PostgresWorld, isolation: str
    ) -> None:
        first, second = begun(numbers, isolation), numbers.connection()
        query = "SELECT count(*), max(text) FROM numbers"
        assert first.execute(query).fetchone() == (2, "b")
        second.execute("DELETE FROM numbers WHERE n = 1")
        second.execute(INSERT, [3, "c"])
        assert first.execute(query).fetchone() == (2, "b")
        first.execute("UPDATE numbers SET text = 'x' WHERE n = 2")
        assert first.execute(query).fetchone() == (2, "x")
        with pytest.raises(errors.SerializationFailure):
            first.execute("UPDATE numbers SET text = 'y' WHERE n = 1")

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_do_nothing_for_a_row_that_it_does_not_see_is_a_failure(
        self, numbers: PostgresWorld, isolation: str
    ) -> None:
        first = begun(numbers, isolation)
        first.execute("SELECT 1")
        numbers.observed.execute(INSERT, 3, "c")
        nothing = INSERT + " ON CONFLICT DO NOTHING"
        assert first.execute(nothing, [1, "x"]).rowcount == 0
        assert first.execute(nothing, [4, "x"]).rowcount == 1
        assert first.execute(nothing, [4, "x"]).rowcount == 0
        with pytest.raises(errors.SerializationFailure):
            first.execute(nothing, [3, "x"])

    def test_the_clock_goes_on_within_a_transaction(self, numbers: PostgresWorld) -> None:
        first = begun(numbers)
        query = "SELECT now(), clock_timestamp(), clock_timestamp() > now() + %s::interval"
        before = first.execute(query, [timedelta(hours=1)]).fetchone()
        numbers.pause(0.01)
        after = first.execute(query, [timedelta(seconds=0)]).fetchone()
        assert before[0] == after[0] <= before[1] < after[1]
        assert (before[2], after[2]) == (False, True)

    def test_now_is_when_the_transaction_began(self, numbers: PostgresWorld) -> None:
        first = begun(numbers)
        moments = {first.execute("SELECT now()").fetchone() for _ in range(3)}
        assert len(moments) == 1


class TestFailing:
    """An error ends what can be done in a transaction, but for its end."""

    def test_an_aborted_transaction_takes_nothing_and_commits_nothing(
        self, numbers: PostgresWorld
    ) -> None:
        connection = begun(numbers)
        connection.execute(INSERT, [3, "c"])
        with pytest.raises(errors.UniqueViolation):
            connection.execute(INSERT, [1, "x"])
        assert connection.info.transaction_status is TransactionStatus.INERROR
        with pytest.raises(errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        assert connection.execute("COMMIT").statusmessage == "ROLLBACK"
        assert connection.info.transaction_status is TransactionStatus.IDLE
        assert stored(numbers) == {1: "a", 2: "b"}

    def test_a_savepoint_takes_the_error_back(self, numbers: PostgresWorld) -> None:
        connection = begun(numbers)
        connection.execute(INSERT, [3, "c"])
        connection.execute("SAVEPOINT message")
        connection.execute(UPSERT, [[1, 4], ["x", "x"]])
        with pytest.raises(errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        connection.execute("ROLLBACK TO SAVEPOINT message; RELEASE SAVEPOINT message")
        assert connection.info.transaction_status is TransactionStatus.INTRANS
        connection.execute(INSERT, [4, "d"])
        assert connection.execute("COMMIT").statusmessage == "COMMIT"
        assert stored(numbers) == {1: "a", 2: "b", 3: "c", 4: "d"}

    def test_a_statement_that_fails_changes_nothing(self, numbers: PostgresWorld) -> None:
        connection = numbers.connection()
        with pytest.raises(errors.NotNullViolation):
            connection.execute("INSERT INTO numbers VALUES (3, 'c'), (NULL, 'd')")
        with pytest.raises(errors.CardinalityViolation):
            connection.execute(UPSERT, [[3, 3], ["c", "d"]])
        assert stored(numbers) == {1: "a", 2: "b"}

    def test_several_statements_in_one_text_stand_or_fall_together(
        self, numbers: PostgresWorld
    ) -> None:
        connection = numbers.connection()
        with pytest.raises(errors.DivisionByZero):
            connection.execute("DELETE FROM numbers; SELECT 1 / 0")
        assert stored(numbers) == {1: "a", 2: "b"}
        cursor = connection.execute("SELECT n FROM numbers ORDER BY n; DELETE FROM numbers")
        assert (cursor.statusmessage, cursor.rowcount) == ("SELECT 2", 2)
        assert cursor.fetchone() == (1,)
        assert cursor.nextset()
        assert (cursor.statusmessage, cursor.rowcount) == ("DELETE 2", 2)
        assert cursor.nextset() is None
        with pytest.raises(psycopg.ProgrammingError):
            cursor.fetchone()


class TestPipelines:
    """Statements that are sent together."""

    def test_results_are_there_after_it(self, numbers: PostgresWorld) -> None:
        connection = numbers.connection()
        with connection.pipeline():
            connection.execute("BEGIN")
            updated = connection.execute("UPDATE numbers SET text = 'x'")
            found = connection.execute("SELECT n FROM numbers ORDER BY n")
            many = connection.cursor()
            many.executemany(INSERT, [(3, "c"), (4, "d")])
        assert updated.rowcount == 2
        assert found.fetchone() == (1,)
        assert found.fetchall() == [(2,)]
        assert many.rowcount == 2
        assert connection.info.transaction_status is TransactionStatus.INTRANS
        connection.execute("ROLLBACK")
        assert stored(numbers) == {1: "a", 2: "b"}

    def test_what_follows_an_error_is_not_executed(self, numbers: PostgresWorld) -> None:
        connection = begun(numbers)

        def broken() -> None:
            with connection.pipeline():
                connection.execute("UPDATE numbers SET text = 'x'")
                connection.execute(INSERT, [1, "x"])
                connection.execute("COMMIT")

        with pytest.raises(errors.UniqueViolation):
            broken()
        assert connection.info.transaction_status is TransactionStatus.INERROR
        assert connection.execute("COMMIT").statusmessage == "ROLLBACK"
        assert stored(numbers) == {1: "a", 2: "b"}

    def test_an_error_of_the_clients_own_does_not_take_back_what_was_sent(
        self, numbers: PostgresWorld
    ) -> None:
        connection = begun(numbers)

        def broken() -> None:
            with connection.pipeline():
                connection.execute("UPDATE numbers SET text = 'x'")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            broken()
        connection.execute("COMMIT")
        assert stored(numbers) == {1: "x", 2: "x"}
