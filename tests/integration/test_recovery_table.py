"""Each row of the recovery table (docs/architecture.md), provoked on the real broker and database.

What is provoked, and how, stands in ``tests/support/halted.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from devstack import Kafka, Postgres
from devstack.waiting import wait_until
from tests.support.databases import Observed
from tests.support.halted import CRASHES, QUIET
from tests.support.halts import NUMBERS, REFERENCE, H, Halted
from tests.support.running import WAIT_SECONDS, numbered

pytestmark = pytest.mark.timeout(300)


def halts(scene: Halted, name: str, reason: str, *commands: str) -> None:
    """This partition halts for this reason, at its H, and names the commands for itself."""
    partition = scene.of(name)
    before = scene.row(partition)
    state = scene.wait_state(partition, "halted", reason)
    for command in commands:
        where = f"{REFERENCE} --partition {scene.place(partition)}"
        assert f"processor offsets {command} {where}" in state["remedy"]
    assert state["detail"]
    assert scene.row(partition) == before


def runs(scene: Halted, name: str, numbers: list[int]) -> None:
    """It runs at the log's end, and has handled exactly these."""
    partition = scene.of(name)
    scene.wait_state(partition, "running")
    scene.wait_rest(partition)
    assert scene.effects(partition) == numbers, (
        scene.row(partition),
        scene.dead_letters(partition),
    )
    assert scene.told(partition) == numbers, (scene.row(partition), scene.all_outputs())


def test_row_1_cluster_changed(halted: Halted) -> None:
    halts(halted, "other cluster", "cluster-changed", "adopt")


def test_row_2_database_history_lost_without_a_row(halted: Halted) -> None:
    halts(halted, "row lost", "database-history-lost", "replay-effects")


def test_row_3_foreign_offsets_before_the_first_start(halted: Halted) -> None:
    halts(halted, "tool before row", "foreign-offsets", "adopt")


def test_row_4_start_at_the_configured_position(halted: Halted) -> None:
    runs(halted, "healthy", NUMBERS)


def test_row_7_an_intent_is_carried_out(halted: Halted) -> None:
    runs(halted, "intent", NUMBERS)
    row, k = halted.row(halted.of("intent")), halted.k(halted.of("intent"))
    assert row is not None
    assert row["intent"] is None
    assert k is not None
    assert k.metadata is not None
    assert k.metadata.split(":")[2] in row["tokens_in_k"]


def test_row_8_foreign_offsets_under_an_intent(halted: Halted) -> None:
    halts(halted, "intent and tool", "foreign-offsets", "adopt")


def test_row_9_group_offsets_expired_and_nothing_was_open(halted: Halted) -> None:
    runs(halted, "expired", NUMBERS)


def test_row_10_unknown_publication_when_group_offsets_expired(halted: Halted) -> None:
    halts(halted, "expired with outputs", "unknown-publication", "resolve")


def test_row_11_foreign_lineage_on_another_server(halted: Halted) -> None:
    halts(halted, "other server", "foreign-lineage", "adopt")


def test_row_11_foreign_lineage_when_another_database_has_committed(halted: Halted) -> None:
    halts(halted, "other lineage", "foreign-lineage", "adopt")


def test_row_12_offsets_reset_to_where_they_were_do_no_harm(halted: Halted) -> None:
    runs(halted, "tool at rest", NUMBERS)


def test_row_13_offsets_rewound(halted: Halted) -> None:
    halts(halted, "rewound", "offsets-rewound", "restore", "reset")


def test_row_14_foreign_offsets(halted: Halted) -> None:
    halts(halted, "tool", "foreign-offsets", "adopt")


def test_row_15_database_history_lost_by_a_restore(halted: Halted) -> None:
    halts(halted, "rolled back", "database-history-lost", "replay-effects")


def test_row_15_database_history_lost_by_the_token_alone(halted: Halted) -> None:
    halts(halted, "stale token", "database-history-lost", "replay-effects")


def test_row_16_outbox_damaged_by_a_hole(halted: Halted) -> None:
    halts(halted, "hole", "outbox-damaged", "resolve")


def test_row_16_outbox_damaged_in_a_payload(halted: Halted) -> None:
    halts(halted, "damage", "outbox-damaged", "resolve")


def test_row_17_what_was_not_published_is_published(halted: Halted) -> None:
    runs(halted, "unpublished", [*NUMBERS, 4])


def test_rows_7_and_17_also_when_recovery_crashes_on_its_way(halted: Halted) -> None:
    runs(halted, "unpublished", [*NUMBERS, 4])
    runs(halted, "intent", NUMBERS)
    assert {path.name for path in (halted.folder / "fired").iterdir()} == set(CRASHES)


def test_row_18_p_is_raised_to_k(halted: Halted) -> None:
    partition = halted.of("healthy")
    halted.wait_rest(partition)
    row, k = halted.row(partition), halted.k(partition)
    assert row is not None
    assert k is not None
    assert row["published_offset"] == row["next_offset"] == k.offset == H


def test_row_19_log_truncated(halted: Halted) -> None:
    halts(halted, "truncated", "log-truncated", "skip")


def test_row_20_the_start_moves_where_nothing_was_handled(halted: Halted) -> None:
    runs(halted, "start moved", [3])
    assert halted.audited(halted.of("start moved")) == [("start-moved", "engine")]


def test_row_21_input_lost_by_retention_past_h(halted: Halted) -> None:
    halts(halted, "input lost", "input-lost", "skip")


def test_row_22_retention_up_to_h_of_an_idle_log_of_control_records(halted: Halted) -> None:
    partition = halted.of("control records")
    halted.wait_state(partition, "running")
    halted.wait_rest(partition)
    assert halted.h(partition) == 2
    assert halted.effects(partition) == []


def test_a_halt_concerns_its_own_partition(halted: Halted) -> None:
    """Beside all these halts, the others go on; status says so, with exit 1."""
    partition = halted.of("healthy beside halts")
    halted.produce(partition, *numbered(*range(100)))
    halted.wait_rest(partition)
    assert halted.effects(partition) == list(range(100))
    found = halted.command("status", REFERENCE, "--json")
    assert found.code == 1, found.err
    states = {(each["topic"], each["partition"]): each for each in found.json["partitions"]}
    assert states[halted.acts, partition]["state"] == "running"
    told = states[halted.acts, halted.of("rewound")]
    assert (told["state"], told["reason"]) == ("halted", "offsets-rewound")
    assert f"--partition {halted.place(halted.of('rewound'))}" in told["remedy"]


@pytest.fixture
def scene(kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path) -> Iterator[Halted]:
    """With one partition, and a service when one is run."""
    scene = Halted(kafka, postgres, admin, tmp_path, partitions=1)
    yield scene
    scene.close()


def test_row_15_a_cloned_database_is_found_out_and_of_two_only_one_goes_on(scene: Halted) -> None:
    """A backup, put to work beside the database that it was made of."""
    scene.run(**QUIET)
    scene.produce(0, *numbered(1, 2))
    scene.wait_rest(0)
    scene.stop()
    clone = scene.cloned()
    scene.run(**QUIET)
    scene.produce(0, *numbered(3, 4))
    scene.wait_rest(0)
    scene.stop()
    with closing(Observed(clone)) as copy:
        scene.run(database__url=clone, **QUIET)
        reason = "SELECT max(reason) FROM processor.partition_states WHERE state = 'halted'"
        lost = "database-history-lost"
        wait_until(lambda: copy.value(reason) == lost, WAIT_SECONDS, "the halt of the clone")
        assert copy.value("SELECT sum(n) FROM effects") == 1 + 2
        done = scene.command(
            "offsets", "replay-effects", REFERENCE, "--yes", partition=0, database__url=clone
        )
        assert done.code == 0, done.err
        scene.produce(0, *numbered(5))
        effects = 'SELECT array_agg(n ORDER BY "offset") FROM effects'
        everything = [1, 2, 3, 4, 5]
        wait_until(lambda: copy.value(effects) == everything, WAIT_SECONDS, "the clone to go on")
        scene.stop()
    assert scene.told(0) == everything
    scene.run(**QUIET)
    scene.wait_state(0, "halted", lost)


class TestRecreatedTopics:
    """Rows 0, 5 and 6: a topic of the same name is another topic."""

    def test_row_5_it_is_read_from_its_start_when_nothing_of_the_old_one_is_open(
        self, scene: Halted
    ) -> None:
        scene.run(topic_check_seconds="0.3", **QUIET)
        scene.produce(0, *numbered(1, 2, 3))
        scene.wait_everywhere(1, 3)
        old = scene.row(0) or {}
        scene.recreate(scene.acts)
        scene.produce(0, *numbered(11, 12))
        wait_until(
            lambda: (scene.row(0) or old)["topic_id"] != old["topic_id"],
            WAIT_SECONDS,
            "the new row",
        )
        scene.wait_rest(0)
        assert sorted(scene.effects(0)) == [1, 2, 3, 11, 12]
        assert scene.told(0) == [11, 12]
        assert scene.audited(0) == [("topic-recreated", "engine")]

    def test_row_6_topic_recreated_within_the_check_interval(self, scene: Halted) -> None:
        """It may have been read on at the old offset, which nothing tells."""
        scene.run(topic_check_seconds="1000", **QUIET)
        scene.produce(0, *numbered(1, 2, 3))
        scene.wait_rest(0)
        scene.recreate(scene.acts)
        scene.produce(0, *numbered(11, 12))
        state = scene.wait_state(0, "halted", "topic-recreated")
        assert f"accept-recreated {REFERENCE} --partition {scene.place(0)}" in state["remedy"]
        assert sorted(scene.effects(0)) == [1, 2, 3]
