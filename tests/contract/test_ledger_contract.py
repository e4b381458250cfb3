"""What Postgres knows of partitions between batches, and who may change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from processor.engine.batch import Committed, Partition
from processor.engine.database import application_name
from processor.engine.failures import DatabaseDoubt, OwnerChanged, ReadFailed
from processor.engine.ledger import Belief, Claim, Ledger
from processor.engine.recovery import Intent, Manifest, Row
from tests.support.databases import CLUSTER, TOPIC, TOPIC_ID, PostgresWorld, step

FIRST = Partition(TOPIC, 0)
NOTHING = Committed(None, None)
NAMES = (TOPIC, TOPIC_ID)


@pytest.fixture
def row(world: PostgresWorld) -> Row:
    [row] = world.started()
    return row


@contextmanager
def locked(
    world: PostgresWorld,
    *partitions: Partition,
    committed: Committed = NOTHING,
    topic_id: str = TOPIC_ID,
    ledger: Ledger | None = None,
) -> Iterator[Any]:
    named = partitions or (FIRST,)
    topic_ids = {partition.topic: topic_id for partition in named}
    with (ledger or world.ledger()).locked(dict.fromkeys(named, committed), topic_ids) as rows:
        yield rows


def tokens(world: PostgresWorld, row: Row) -> list[str]:
    return list(world.observed.progress(row.id)["tokens_in_k"])


def ends(world: PostgresWorld, row: Row) -> dict[str, int]:
    return dict(world.observed.progress(row.id)["token_ends"])


def claim(row: Row, offset: int, **changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "progress_id": row.id,
        "lineage": row.lineage,
        "token": row.token,
        "offset": offset,
        "token_in_metadata": row.token,
    }
    return Claim(**(fields | changes))


def filled(world: PostgresWorld, row: Row) -> Row:
    """H at 9, three rows in the outbox."""
    store = world.store()
    for first, end in ((0, 3), (3, 6), (6, 9)):
        store.commit([step(row, first, end, [b"x"])], {row.id: NAMES})
    return world.rows_of([FIRST])[0]


class TestReading:
    """Recovery reads everything under the row's lock."""

    def test_an_unknown_partition_has_nothing(self, world: PostgresWorld) -> None:
        [known] = world.locked([FIRST]).values()
        assert (known.row, known.older, known.superseded, known.other_cluster) == (
            None,
            None,
            False,
            False,
        )
        assert known.outbox == ()

    def test_the_row_comes_back_as_it_was_written(self, world: PostgresWorld, row: Row) -> None:
        assert (row.next_offset, row.published_offset, row.verified_offset) == (0, 0, None)
        assert row.tokens_in_k == (row.token,)
        assert row.token_ends == {}
        assert row.untouched
        assert row.system_identifier == world.observed.value(
            "SELECT system_identifier FROM pg_control_system()"
        )
        assert not filled(world, row).untouched

    @pytest.mark.parametrize("k", [None, 0, 3, 9])
    def test_the_outbox_is_whole_from_k_on(
        self, world: PostgresWorld, row: Row, k: int | None
    ) -> None:
        filled(world, row)
        [known] = world.locked([FIRST], k).values()
        assert known.outbox == (Manifest(0, 3, 1), Manifest(3, 6, 1), Manifest(6, 9, 1))
        assert [(e.first, e.next) for e in known.entries] == [
            (first, end) for first, end in ((0, 3), (3, 6), (6, 9)) if end > (k or 0)
        ]

    @pytest.mark.parametrize(
        "change",
        ["payload = payload || '\\x00'", "checksum = checksum + 1", "output_count = 2"],
    )
    def test_damage_is_found_and_named(self, world: PostgresWorld, row: Row, change: str) -> None:
        filled(world, row)
        world.observed.execute(f"UPDATE processor.outbox SET {change} WHERE first_offset = 3")
        [known] = world.locked([FIRST], 0).values()
        assert [m.damage is None for m in known.outbox] == [True, False, True]
        assert "[3, 6)" in known.outbox[1].damage

    def test_a_row_under_another_topic_id_is_the_older_one(
        self, world: PostgresWorld, row: Row
    ) -> None:
        filled(world, row)
        [known] = world.locked([FIRST], topic_id="new-id").values()
        assert known.row is None
        assert known.older.topic_id == TOPIC_ID
        assert len(known.outbox) == 3

    def test_rows_of_another_group_are_none_of_ours(self, world: PostgresWorld, row: Row) -> None:
        world.observed.execute("UPDATE processor.progress SET group_id = 'another'")
        [known] = world.locked([FIRST]).values()
        assert known.row is None

    def test_rows_of_another_cluster_are_told(self, world: PostgresWorld, row: Row) -> None:
        world.observed.execute("UPDATE processor.progress SET cluster_id = 'another'")
        [known] = world.locked([FIRST]).values()
        assert (known.row, known.other_cluster) == (None, True)
        [known] = world.locked([Partition(TOPIC, 7)]).values()
        assert (known.other_cluster, known.topic_elsewhere) == (False, True)

    def test_rows_of_another_cluster_that_were_superseded_are_not(
        self, world: PostgresWorld, row: Row
    ) -> None:
        world.observed.execute(
            "UPDATE processor.progress SET cluster_id = 'another', superseded_at = now()"
        )
        [known] = world.locked([FIRST]).values()
        assert not known.other_cluster
        assert not known.topic_elsewhere

    def test_a_topic_that_has_a_row_here_is_not_elsewhere(self, world: PostgresWorld) -> None:
        world.started(2)
        world.observed.execute(
            "UPDATE processor.progress SET cluster_id = 'another' WHERE partition = 0"
        )
        [known] = world.locked([Partition(TOPIC, 7)]).values()
        assert not known.topic_elsewhere

    def test_nothing_of_a_failed_recovery_stands(self, world: PostgresWorld, row: Row) -> None:
        def recover() -> None:
            with locked(world) as rows:
                rows.renew(row, None)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            recover()
        assert world.observed.progress(row.id)["token"] == row.token


class TestRenew:
    """Each recovery renews the token."""

    def test_a_new_token_is_added_to_those_that_k_may_carry(
        self, world: PostgresWorld, row: Row
    ) -> None:
        with locked(world) as rows:
            second = rows.renew(row, None)
        assert second != row.token
        assert world.observed.progress(row.id)["token"] == second
        assert tokens(world, row) == [row.token, second]

    def test_tokens_are_forgotten_once_the_current_one_was_read_back(
        self, world: PostgresWorld, row: Row
    ) -> None:
        with locked(world) as rows:
            rows.renew(row, None)
        [again] = world.rows_of([FIRST])
        with locked(world) as rows:
            third = rows.renew(again, again.token)
        assert tokens(world, row) == [again.token, third]
        assert ends(world, row) == {again.token: 0}

    def test_each_token_is_kept_with_the_h_that_it_ends_at(
        self, world: PostgresWorld, row: Row
    ) -> None:
        """The H under the lock, whatever whoever renews believes."""
        filled(world, row)
        with locked(world) as rows:
            rows.renew(row, None)
        [second] = world.rows_of([FIRST])
        assert second.token_ends == {row.token: 9}
        world.store().commit([step(second, 9, 12)], {row.id: NAMES})
        with locked(world) as rows:
            rows.renew(second, row.token)
        [third] = world.rows_of([FIRST])
        assert third.token_ends == {row.token: 9, second.token: 12}

    def test_a_token_that_the_version_before_replaced_has_no_end(
        self, world: PostgresWorld, row: Row
    ) -> None:
        world.observed.execute(
            "UPDATE processor.progress SET token = 'its', tokens_in_k = tokens_in_k || ARRAY['its']"
        )
        [again] = world.rows_of([FIRST])
        with locked(world) as rows:
            rows.renew(again, row.token)
        assert ends(world, row) == {"its": 0}
        assert tokens(world, row)[:2] == [row.token, "its"]

    def test_an_older_token_that_was_read_back_trims_nothing(
        self, world: PostgresWorld, row: Row
    ) -> None:
        """A transaction under a newer token may still end after it was read."""
        with locked(world) as rows:
            rows.renew(row, None)
        [again] = world.rows_of([FIRST])
        with locked(world) as rows:
            third = rows.renew(again, row.token)
        assert tokens(world, row) == [row.token, again.token, third]

    def test_p_is_raised_and_the_outbox_pruned_below_it(
        self, world: PostgresWorld, row: Row
    ) -> None:
        row = filled(world, row)
        with locked(world) as rows:
            rows.renew(row, row.token, 6)
        assert world.observed.progress(row.id)["published_offset"] == 6
        assert world.observed.outbox(row.id) == [(6, 9, 1)]

    def test_p_is_never_lowered(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        with locked(world) as rows:
            rows.renew(row, row.token, 9)
        [row] = world.rows_of([FIRST])
        with locked(world) as rows:
            rows.renew(row, row.token, 3)
        assert world.observed.progress(row.id)["published_offset"] == 9


class TestRaisePublished:
    """P follows a K that was read back, for the owner only."""

    def test_raises_p_and_prunes_below_it_only(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        assert world.ledger().raise_published([claim(row, 6)]) == {row.id: 6}
        assert world.observed.progress(row.id)["published_offset"] == 6
        assert world.observed.outbox(row.id) == [(6, 9, 1)]

    def test_a_row_that_begins_below_p_is_kept_whole(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        world.ledger().raise_published([claim(row, 5)])
        assert world.observed.outbox(row.id) == [(3, 6, 1), (6, 9, 1)]

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"lineage": "another"}, id="lineage"),
            pytest.param({"token": "another"}, id="token"),
            pytest.param({"token_in_metadata": "unknown"}, id="M unknown"),
            pytest.param({"offset": 10}, id="K above H"),
            pytest.param({"token_in_metadata": "earlier"}, id="K beyond its token's end"),
        ],
    )
    def test_raises_nothing_for_anybody_but_the_owner(
        self, world: PostgresWorld, row: Row, changes: dict[str, Any]
    ) -> None:
        row = filled(world, row)
        world.observed.execute(
            "UPDATE processor.progress SET tokens_in_k = tokens_in_k || '{earlier}',"
            """ token_ends = '{"earlier": 5}'"""
        )
        before = world.observed.progress(row.id)
        wrong = claim(row, **({"offset": 6, "verified": 9} | changes))
        assert world.ledger().raise_published([wrong]) == {}
        assert world.observed.progress(row.id) == before
        assert len(world.observed.outbox(row.id)) == 3

    def test_raises_nothing_over_an_intent(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        world.observed.execute("UPDATE processor.progress SET intent = '{}'")
        assert world.ledger().raise_published([claim(row, 6)]) == {}
        assert world.observed.progress(row.id)["published_offset"] == 0

    def test_never_lowers_p(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        ledger = world.ledger()
        ledger.raise_published([claim(row, 6)])
        assert ledger.raise_published([claim(row, 3)]) == {}
        assert world.observed.progress(row.id)["published_offset"] == 6

    def test_forgets_earlier_tokens_only_when_k_carries_the_current_one(
        self, world: PostgresWorld, row: Row
    ) -> None:
        filled(world, row)
        with locked(world) as rows:
            rows.renew(row, None)
        [again] = world.rows_of([FIRST])
        ledger = world.ledger()
        ledger.raise_published([claim(again, 3, token_in_metadata=row.token)])
        assert tokens(world, row) == [row.token, again.token]
        assert ends(world, row) == {row.token: 9}
        ledger.raise_published([claim(again, 6)])
        assert tokens(world, row) == [again.token]
        assert ends(world, row) == {}

    def test_verified_offsets_only_rise(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        ledger = world.ledger()
        for offset, verified in ((3, 6), (6, 3), (6, None)):
            ledger.raise_published([claim(row, offset, verified=verified)])
            assert world.observed.progress(row.id)["verified_offset"] == 6

    def test_each_partition_is_judged_by_itself(self, world: PostgresWorld) -> None:
        first, second = world.started(2)
        world.store().commit(
            [step(first, 0, 3), step(second, 0, 3)], {first.id: NAMES, second.id: NAMES}
        )
        claims = [claim(second, 3), claim(first, 3, token="stale")]
        assert world.ledger().raise_published(claims) == {second.id: 3}
        assert world.observed.outbox(first.id) == [(0, 3, 0)]
        assert world.observed.outbox(second.id) == []


class TestAsLeft:
    """A row that went back, or that somebody changed, is told from one that its owner left."""

    def belief(self, row: Row) -> Belief:
        return Belief(row.id, row.lineage, row.token, row.next_offset, row.published_offset)

    def test_a_row_is_as_its_owner_left_it(self, world: PostgresWorld) -> None:
        rows = world.started(2)
        world.store().commit([step(rows[0], 0, 3)], {rows[0].id: NAMES})
        rows = world.rows_of([FIRST, Partition(TOPIC, 1)])
        found = world.ledger().as_left([self.belief(row) for row in rows])
        assert found == {row.id for row in rows}

    @pytest.mark.parametrize(
        "change",
        [
            "next_offset = 6",
            "published_offset = 3",
            "token = 'renewed'",
            "lineage = 'reset'",
            "intent = '{}'",
            "superseded_at = now()",
        ],
    )
    def test_a_row_that_was_changed_is_not(
        self, world: PostgresWorld, row: Row, change: str
    ) -> None:
        row = filled(world, row)
        world.observed.execute(f"UPDATE processor.progress SET {change}")
        assert world.ledger().as_left([self.belief(row)]) == set()

    def test_a_row_that_is_gone_is_not(self, world: PostgresWorld, row: Row) -> None:
        world.observed.execute("DELETE FROM processor.progress")
        assert world.ledger().as_left([self.belief(row)]) == set()

    def test_a_locked_row_is_not_waited_for(self, world: PostgresWorld, row: Row) -> None:
        ledger = world.ledger("b")
        with locked(world):
            assert ledger.as_left([self.belief(row)]) == {row.id}


class TestStart:
    """The first rows of a topic, and later ones."""

    def test_all_partitions_start_together_with_an_intent(self, world: PostgresWorld) -> None:
        with locked(world, FIRST) as rows:
            assert rows.initial_partitions(TOPIC) is None
            rows.start(TOPIC, TOPIC_ID, {0: 5, 1: 7}, 2, "first start", NOTHING)
        first, second = world.rows_of([FIRST, Partition(TOPIC, 1)])
        assert (first.next_offset, first.published_offset) == (5, 5)
        assert first.intent == Intent(5, None, None, "first start")
        assert second.intent == Intent(7, None, None, "first start")
        assert first.lineage != second.lineage
        assert first.untouched
        with locked(world) as rows:
            assert rows.initial_partitions(TOPIC) == 2
            assert rows.initial_partitions("another") is None

    def test_of_two_starts_the_first_one_stands(self, world: PostgresWorld) -> None:
        with locked(world) as rows:
            rows.start(TOPIC, TOPIC_ID, {0: 5}, 1, "first start", NOTHING)
        [before] = world.rows_of([FIRST])
        with locked(world) as rows:
            rows.start(TOPIC, TOPIC_ID, {0: 9}, 1, "first start", NOTHING)
        assert world.rows_of([FIRST]) == [before]

    def test_a_partition_added_later_has_its_own_start(self, world: PostgresWorld) -> None:
        world.started(2, at=5)
        late = Partition(TOPIC, 2)
        with locked(world, late) as rows:
            initial = rows.initial_partitions(TOPIC)
            rows.start(TOPIC, TOPIC_ID, {2: 0}, initial, "partition added", NOTHING)
        [row] = world.rows_of([late])
        assert (row.next_offset, row.initial_partitions) == (0, 2)

    def test_a_start_records_what_it_replaces(self, world: PostgresWorld) -> None:
        with locked(world) as rows:
            rows.start(TOPIC, TOPIC_ID, {0: 5}, 1, "adopted", Committed(3, "theirs"))
        [row] = world.rows_of([FIRST])
        assert row.intent == Intent(5, 3, "theirs", "adopted")


class TestMoves:
    """What decisions change besides."""

    def test_supersede_keeps_the_old_row_out_of_use(self, world: PostgresWorld, row: Row) -> None:
        with locked(world, topic_id="new-id") as rows:
            rows.supersede(row, FIRST, "new-id", 2, Committed(4, "theirs"))
        [known] = world.locked([FIRST], topic_id="new-id").values()
        assert known.older is None
        assert (known.row.topic_id, known.row.next_offset) == ("new-id", 2)
        assert known.row.intent == Intent(2, 4, "theirs", "topic recreated")
        assert known.row.lineage != row.lineage
        [stale] = world.locked([FIRST], topic_id=TOPIC_ID).values()
        assert (stale.row, stale.superseded) == (None, True)
        assert world.observed.audited() == ["topic-recreated"]
        with pytest.raises(OwnerChanged):
            world.store().commit([step(row, 0, 5)], {row.id: NAMES})

    def test_a_superseded_row_begins_anew(self, world: PostgresWorld, row: Row) -> None:
        world.store().commit([step(row, 0, 5, [b"one"])], {row.id: (TOPIC, TOPIC_ID)})
        with locked(world) as rows:
            assert not rows.revive(FIRST, TOPIC_ID, 7, "adopt", NOTHING), "it is in use"
        world.observed.execute("UPDATE processor.progress SET superseded_at = now()")
        with locked(world) as rows:
            assert rows.revive(FIRST, TOPIC_ID, 7, "adopt", Committed(3, "theirs"))
            assert not rows.revive(Partition(TOPIC, 9), TOPIC_ID, 7, "adopt", NOTHING)
        [again] = world.rows_of([FIRST])
        assert (again.id, again.next_offset, again.published_offset) == (row.id, 7, 7)
        assert again.intent == Intent(7, 3, "theirs", "adopt")
        assert again.lineage != row.lineage
        assert again.tokens_in_k == (again.token,)
        assert world.observed.outbox(row.id) == []

    def test_move_start_sets_h_and_p_by_intent(self, world: PostgresWorld, row: Row) -> None:
        with locked(world) as rows:
            rows.move_start(row, FIRST, 12, Committed(0, "m"))
        [moved] = world.rows_of([FIRST])
        assert (moved.next_offset, moved.published_offset) == (12, 12)
        assert moved.intent == Intent(12, 0, "m", "log start moved")
        assert world.observed.audited() == ["start-moved"]

    def test_clear_intent_forgets_that_same_intent(self, world: PostgresWorld) -> None:
        with locked(world) as rows:
            rows.start(TOPIC, TOPIC_ID, {0: 5}, 1, "first start", NOTHING)
        [row] = world.rows_of([FIRST])
        assert row.intent is not None
        world.ledger().clear_intent(row, row.intent, 5, row.token)
        [cleared] = world.rows_of([FIRST])
        assert cleared.intent is None
        assert cleared.tokens_in_k == (row.token,)
        assert cleared.token_ends == {}

    @pytest.mark.parametrize("wrong", ["intent", "token", "lineage"])
    def test_clear_intent_leaves_any_other(self, world: PostgresWorld, wrong: str) -> None:
        with locked(world) as rows:
            rows.start(TOPIC, TOPIC_ID, {0: 5}, 1, "first start", NOTHING)
        [row] = world.rows_of([FIRST])
        assert row.intent is not None
        changes = {
            "intent": """intent = '{"offset": 6, "replaces_offset": null,
                "replaces_metadata": null, "why": "adopted meanwhile"}'""",
            "token": "token = 'renewed'",
            "lineage": "lineage = 'reset'",
        }
        world.observed.execute(f"UPDATE processor.progress SET {changes[wrong]}")
        world.ledger().clear_intent(row, row.intent, 5, row.token)
        assert world.observed.progress(row.id)["intent"] is not None

    def test_clear_intent_never_lowers_p(self, world: PostgresWorld, row: Row) -> None:
        row = filled(world, row)
        world.ledger().raise_published([claim(row, 6)])
        intent = Intent(3, 9, "m", "an intent below P")
        world.observed.execute(
            "UPDATE processor.progress SET intent = %s::jsonb",
            '{"offset": 3, "replaces_offset": 9, "replaces_metadata": "m",'
            ' "why": "an intent below P"}',
        )
        world.ledger().clear_intent(row, intent, 3, row.token)
        assert world.observed.progress(row.id)["published_offset"] == 6


class TestLocks:
    """A process that is stopped while it holds a row must not hold up the next owner."""

    def test_a_stopped_process_of_the_group_is_sent_away(
        self, world: PostgresWorld, row: Row
    ) -> None:
        ledger = world.ledger("b")
        with world.stopped_holder(application_name(world.group, f"{world.group}:a:0")):
            begun = world.now()
            with pytest.raises(ReadFailed, match="1 stopped"), locked(world, ledger=ledger):
                pass
            assert world.now() - begun < 10
            world.wait_until(lambda: _free(world), "the lock")
            with locked(world, ledger=ledger) as rows:
                assert rows.known[FIRST].row.token == row.token

    @pytest.mark.parametrize("name", ["psql", "processor:0123456789:other-group:a:0"])
    def test_nobody_else_is(self, world: PostgresWorld, row: Row, name: str) -> None:
        ledger = world.ledger("b")
        with world.stopped_holder(name) as kill_holder:
            for _ in range(2):
                with pytest.raises(ReadFailed, match="0 stopped"), locked(world, ledger=ledger):
                    pass
            assert not _free(world)
            kill_holder()
            world.wait_until(lambda: _free(world), "the lock")
        with locked(world, ledger=ledger) as rows:
            assert rows.known[FIRST].row is not None

    def test_a_lost_connection_is_a_doubt(self, world: PostgresWorld, row: Row) -> None:
        ledger = world.ledger()

        def recover() -> None:
            with locked(world, ledger=ledger) as rows:
                world.observed.terminate("processor:%:a:0")
                rows.renew(row, None)

        with pytest.raises(DatabaseDoubt):
            recover()
        assert world.observed.progress(row.id)["token"] == row.token
        with locked(world, ledger=ledger) as rows:
            assert rows.known[FIRST].row.token == row.token

    def test_rows_are_held_until_the_end(self, world: PostgresWorld, row: Row) -> None:
        with locked(world):
            assert not _free(world)
        assert _free(world)


def _free(world: PostgresWorld) -> bool:
    try:
        world.observed.execute("SELECT 1 FROM processor.progress FOR UPDATE NOWAIT")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def test_every_transaction_is_durable_and_bounded(world: PostgresWorld) -> None:
    """Whatever the database's own settings are."""
    observed = world.observed
    name = observed.value("SELECT current_database()")
    observed.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    try:
        with world.database("fresh").transaction() as connection:
            found = connection.execute(
                "SELECT current_setting('synchronous_commit'),"
                " current_setting('statement_timeout'),"
                " current_setting('idle_in_transaction_session_timeout'),"
                " current_setting('transaction_isolation')"
            ).fetchone()
    finally:
        observed.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    assert found == ("on", "30s", "10s", "read committed")


def test_a_client_that_is_gone_without_a_word_is_noticed(world: PostgresWorld) -> None:
    """In COPY a session is freed by no time-out, and Postgres's own keepalives take two hours."""
    found = (
        world.database("fresh")
        .connection()
        .execute(
            "SELECT current_setting('tcp_keepalives_idle'),"
            " current_setting('tcp_keepalives_interval'),"
            " current_setting('tcp_keepalives_count')"
        )
    )
    assert found.fetchone() == ("5", "2", "3")


def test_ids_of_another_cluster_are_kept_apart(world: PostgresWorld, row: Row) -> None:
    assert world.observed.progress(row.id)["cluster_id"] == CLUSTER
