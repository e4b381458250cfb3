"""Each remedy on the real broker and database, beside a live service.

A dry run changes nothing; done, it leaves an audit row, and the partition's owner goes on; killed
after any of its commits it has changed nothing or all, and can be run again. The partitions'
states are made in ``tests/support/halted.py``.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import pytest

from devstack.waiting import wait_until
from processor.errors import Exit
from tests.support.commands import Finished
from tests.support.halts import NUMBERS, REFERENCE, H, Halted
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, numbered
from tests.support.terminal import at_terminal

OFFSETS = "offsets"
KILLED = -9

pytestmark = pytest.mark.timeout(300)


def snapshot(scene: Halted, partition: int, topic: str | None = None) -> Any:
    """Whatever a remedy might change."""
    row = scene.row(partition, topic)
    outbox = [] if row is None else scene.observed.outbox(row["id"])
    return row, outbox, scene.audited(partition, topic), scene.effects(partition, topic)


def remedy(scene: Halted, name: str, action: str, *options: str, group: str = OFFSETS) -> Finished:
    """A dry run, which changes nothing; then it is done, by somebody."""
    partition = scene.of(name)
    if scene.state(partition)["state"] != "running":
        scene.wait_state(partition, "halted")
    target = ("--pipeline", REFERENCE) if group == "outbox" else (REFERENCE,)
    before = snapshot(scene, partition)
    dry = scene.command(group, action, *options, *target, partition=partition)
    assert dry.code == 0, dry.err
    assert "nothing was changed: --yes does it" in dry.err
    assert scene.place(partition) in dry.out
    assert snapshot(scene, partition) == before
    done = scene.command(
        group, action, *options, *target, "--yes", "--actor", "tester", "--json",
        partition=partition,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (action, "tester") in scene.audited(partition)
    return done


def refused(scene: Halted, name: str, action: str, *options: str) -> str:
    """Why; nothing is changed."""
    partition = scene.of(name)
    scene.wait_state(partition, "halted")
    before = snapshot(scene, partition)
    found = scene.command(OFFSETS, action, REFERENCE, *options, "--yes", partition=partition)
    assert found.code == Exit.VERDICT, found.err
    assert snapshot(scene, partition) == before
    assert len(found.err.splitlines()) == 1
    return found.err


def goes_on(scene: Halted, name: str, effects: list[int], outputs: list[int] | None = None) -> None:
    """Its owner has carried the remedy out: it runs, at the log's end, with exactly these."""
    partition = scene.of(name)
    scene.wait_state(partition, "running")
    scene.wait_rest(partition)
    assert scene.effects(partition) == effects
    assert scene.told(partition) == (effects if outputs is None else outputs)
    row = scene.row(partition)
    assert row is not None
    assert row["intent"] is None


def detail(done: Finished) -> dict[str, Any]:
    [outcome] = done.json
    assert outcome["done"]
    found: dict[str, Any] = outcome["detail"]
    return found


class TestAdopt:
    def test_offsets_of_a_tool_beyond_h_leave_a_recorded_gap(self, halted: Halted) -> None:
        done = remedy(halted, "adopt tool", "adopt")
        assert (detail(done)["from"], detail(done)["to"]) == (3, 4)
        goes_on(halted, "adopt tool", [*NUMBERS, 5])

    def test_offsets_set_under_an_intent_do_not_lower_h(self, halted: Halted) -> None:
        remedy(halted, "adopt intent", "adopt")
        goes_on(halted, "adopt intent", NUMBERS)

    def test_offsets_of_a_tool_before_the_first_start(self, halted: Halted) -> None:
        remedy(halted, "adopt before row", "adopt")
        goes_on(halted, "adopt before row", [*NUMBERS, 5])

    def test_another_server(self, halted: Halted) -> None:
        lineage = (halted.row(halted.of("adopt server")) or {})["lineage"]
        remedy(halted, "adopt server", "adopt")
        goes_on(halted, "adopt server", NUMBERS)
        assert (halted.row(halted.of("adopt server")) or {})["lineage"] == lineage

    def test_another_lineage_gives_the_row_a_new_one(self, halted: Halted) -> None:
        lineage = (halted.row(halted.of("adopt lineage")) or {})["lineage"]
        done = remedy(halted, "adopt lineage", "adopt")
        goes_on(halted, "adopt lineage", NUMBERS)
        assert detail(done)["old_lineage"] == lineage
        assert (halted.row(halted.of("adopt lineage")) or {})["lineage"] != lineage

    def test_another_cluster(self, halted: Halted) -> None:
        remedy(halted, "adopt cluster", "adopt")
        goes_on(halted, "adopt cluster", NUMBERS)

    def test_it_refuses_while_outputs_may_be_missing_and_resolve_helps(
        self, halted: Halted
    ) -> None:
        why = refused(halted, "adopt outputs", "adopt")
        assert "outputs" in why
        assert "resolve" in why
        remedy(halted, "adopt outputs", "resolve")
        goes_on(halted, "adopt outputs", [*NUMBERS, 4, 5])


class TestResolve:
    def test_outputs_that_are_found_are_not_published_again(self, halted: Halted) -> None:
        done = remedy(halted, "resolve found", "resolve")
        assert (detail(done)["published_to"], detail(done)["by"]) == (H, "provenance")
        goes_on(halted, "resolve found", NUMBERS)

    def test_outputs_that_are_not_found_are_published(self, halted: Halted) -> None:
        done = remedy(halted, "resolve unpublished", "resolve")
        assert (detail(done)["published_to"], detail(done)["outputs_to_publish"]) == (H, 1)
        goes_on(halted, "resolve unpublished", [*NUMBERS, 4])

    def test_the_operators_word(self, halted: Halted) -> None:
        done = remedy(halted, "resolve word", "resolve", "--published-to", str(H))
        assert detail(done)["by"] == "word"
        goes_on(halted, "resolve word", NUMBERS)

    def test_a_hole_in_the_outbox_below_what_is_published(self, halted: Halted) -> None:
        remedy(halted, "resolve hole", "resolve")
        goes_on(halted, "resolve hole", NUMBERS)

    def test_it_wants_to_know_the_output_topics(self, halted: Halted) -> None:
        place = halted.place(halted.of("expired with outputs"))
        found = halted.commands("offsets", "resolve", "--group", halted.group, "--partition", place)
        assert (found.code, "give the pipeline" in found.err) == (Exit.USAGE, True)


class TestDiscard:
    def test_damaged_outputs_are_given_up_by_name(self, halted: Halted) -> None:
        done = remedy(halted, "discard", "discard", "0", "--to", str(H), group="outbox")
        assert (detail(done)["first"], detail(done)["next"]) == (0, H)
        goes_on(halted, "discard", NUMBERS)

    def test_what_is_published_is_not_given_up(self, halted: Halted) -> None:
        found = halted.command(
            "outbox", "discard", "0", "--to", "1", "--pipeline", REFERENCE,
            partition=halted.of("healthy"),
        )  # fmt: skip
        assert (found.code, "what Kafka may lack" in found.err) == (Exit.VERDICT, True)


class TestRestore:
    def test_k_goes_back_to_h(self, halted: Halted) -> None:
        remedy(halted, "restore", "restore")
        goes_on(halted, "restore", NUMBERS)

    def test_it_refuses_where_outputs_may_be_missing(self, halted: Halted) -> None:
        assert "resolve" in refused(halted, "restore outputs", "restore")


class TestReset:
    def test_a_running_partition_is_halted_first_and_replayed(self, halted: Halted) -> None:
        partition = halted.of("reset")
        halted.wait_state(partition, "running")
        lineage = (halted.row(partition) or {})["lineage"]
        done = remedy(halted, "reset", "reset", "--to", "earliest")
        goes_on(halted, "reset", [1, 1, 2, 2, 3, 3], [1, 2, 3, 1, 2, 3])
        assert detail(done)["old_lineage"] == lineage
        assert [each for each, _ in halted.audited(partition)] == ["halt", "reset"]

    def test_a_refusal_lets_the_partition_go_on(self, halted: Halted) -> None:
        partition = halted.of("healthy")
        halted.wait_state(partition, "running")
        found = halted.command(
            "offsets", "reset", REFERENCE, "--to", "1000", "--yes", partition=partition
        )
        assert (found.code, "outside" in found.err) == (Exit.VERDICT, True)
        halted.wait_state(partition, "running")


class TestSkip:
    def test_what_retention_took_is_a_recorded_gap(self, halted: Halted) -> None:
        done = remedy(halted, "skip lost", "skip")
        assert (detail(done)["from"], detail(done)["to"]) == (3, 5)
        goes_on(halted, "skip lost", [*NUMBERS, 6])

    def test_a_log_that_was_cut_goes_on_where_it_ends(self, halted: Halted) -> None:
        remedy(halted, "skip truncated", "skip")
        halted.produce(halted.of("skip truncated"), *numbered(4))
        goes_on(halted, "skip truncated", [*NUMBERS, 4])

    def test_a_message_that_nobody_can_handle(self, halted: Halted) -> None:
        partition = halted.of("handler halt")
        halted.wait_state(partition, "running")
        halted.produce(partition, Act(4, "halt", "never"), Act(5))
        state = halted.wait_state(partition, "halted", "handler-halt")
        assert f"processor resume {REFERENCE} --partition" in state["remedy"]
        remedy(halted, "handler halt", "skip", "--to", "4")
        goes_on(halted, "handler halt", [*NUMBERS, 5])


class TestAcceptRecreated:
    def test_the_new_topic_is_read(self, halted: Halted) -> None:
        topic = halted.batches
        state = halted.wait_state(0, "halted", "topic-recreated", topic)
        assert "accept-recreated" in state["remedy"]
        before = snapshot(halted, 0, topic)
        arguments = ("offsets", "accept-recreated", REFERENCE)
        dry = halted.commands(*arguments)
        assert (dry.code, "begins at 0 of the new topic" in dry.out) == (0, True)
        assert snapshot(halted, 0, topic) == before
        killed = halted.commands(*arguments, "--yes", faults="commit.before=crash@4")
        assert killed.code == KILLED
        assert snapshot(halted, 0, topic) == before
        done = halted.commands(*arguments, "--yes", "--actor", "tester")
        assert done.code == 0, done.err
        assert halted.audited(0, topic)[-1] == ("accept-recreated", "tester")
        halted.produce(0, *numbered(11, 12), topic=topic)
        halted.wait_rest(0, topic)
        assert halted.h(0, topic) == 2
        assert sorted(halted.effects(0, topic)) == [1, 2, 3, 11, 12]


class TestReplayEffects:
    def test_a_restored_database_catches_up_without_publishing(self, halted: Halted) -> None:
        partition = halted.of("replay")
        halted.wait_state(partition, "halted", "database-history-lost")
        assert halted.effects(partition) == [1]
        done = remedy(halted, "replay", "replay-effects")
        counts = {name: detail(done)[name] for name in ("handled", "equal", "different")}
        assert counts == {"handled": 2, "equal": 2, "different": 0}
        goes_on(halted, "replay", NUMBERS)

    def test_a_lost_database_is_filled_from_the_start(self, halted: Halted) -> None:
        assert "--from" in refused(halted, "replay without row", "replay-effects")
        remedy(halted, "replay without row", "replay-effects", "--from", "0")
        goes_on(halted, "replay without row", NUMBERS)

    def test_effects_whose_outputs_differ_are_kept_only_if_told_to(self, halted: Halted) -> None:
        """The output of the last message tells a total that is another one by now."""
        partition = halted.of("replay differs")
        halted.wait_state(partition, "halted", "database-history-lost")
        found = halted.command("offsets", "replay-effects", REFERENCE, "--yes", partition=partition)
        assert found.code == Exit.VERDICT, found.out
        assert "offset 3: outputs with other contents" in found.err
        assert 4 not in halted.effects(partition)
        remedy(halted, "replay differs", "replay-effects", "--accept-differences")
        goes_on(halted, "replay differs", [*NUMBERS, 4])


@pytest.mark.parametrize(
    ("action", "name", "stages"),
    [
        ("resolve", "resolve tells", ["reading the outputs"]),
        ("replay-effects", "replay tells", ["reading the outputs", "handling again"]),
    ],
)
def test_who_waits_at_a_terminal_sees_how_far_it_is(
    halted: Halted, action: str, name: str, stages: list[str]
) -> None:
    """On stderr, which is a terminal; what is piped is the answer and nothing else."""
    partition = halted.of(name)
    place = halted.place(partition)
    halted.wait_state(partition, "halted")
    arguments = (OFFSETS, action, REFERENCE, "--partition", place, "--yes", "--json")
    out, drawn = at_terminal([sys.executable, "-m", "processor", *arguments], halted.environment())
    [outcome] = json.loads(out)
    assert outcome["done"], drawn
    for stage in stages:
        assert f"{place}: {stage}" in drawn


CRASHES: list[tuple[str, list[str], list[int], list[int]]] = [
    ("adopt", [OFFSETS, "adopt"], [1, 2, 3, 5], [1, 2, 3, 5]),
    ("resolve", [OFFSETS, "resolve"], NUMBERS, NUMBERS),
    ("restore", [OFFSETS, "restore"], NUMBERS, NUMBERS),
    ("skip", [OFFSETS, "skip"], [1, 2, 3, 6], [1, 2, 3, 6]),
    ("discard", ["outbox", "discard", "0", "--to", "3"], NUMBERS, NUMBERS),
    ("reset", [OFFSETS, "reset", "--to", "0"], [1, 1, 2, 2, 3, 3], [1, 2, 3, 1, 2, 3]),
    ("replay", [OFFSETS, "replay-effects"], NUMBERS, NUMBERS),
    ("replay known", [OFFSETS, "replay-effects"], NUMBERS, NUMBERS),
]


@pytest.mark.parametrize(
    ("name", "command", "effects", "outputs"), CRASHES, ids=[each[0] for each in CRASHES]
)
def test_it_survives_a_crash_after_each_of_its_commits(
    halted: Halted, name: str, command: list[str], effects: list[int], outputs: list[int]
) -> None:
    """Killed later and later, and run again, until nothing is left to do."""
    partition = halted.of(f"crash {name}")
    if name != "reset":
        halted.wait_state(partition, "halted")
    target = ("--pipeline", REFERENCE) if command[0] == "outbox" else (REFERENCE,)
    action = command[1]
    before = halted.row(partition)
    kills = 0
    for visit in itertools.count(1):
        found = halted.command(
            *command, *target, "--yes", partition=partition,
            faults=f"commit.after=crash@{visit}", batch_max_messages="1",
        )  # fmt: skip
        if found.code != KILLED:
            break
        kills += 1
        if action in [each for each, _ in halted.audited(partition)]:
            if action != "replay-effects":
                break
        else:
            assert halted.row(partition) == before
    assert kills >= 3
    again = halted.command(*command, *target, partition=partition)
    if name in ("replay", "replay known", "discard"):
        wait_until(lambda: halted.at_rest(partition), WAIT_SECONDS, "rest")
    elif name != "reset":
        assert again.code == Exit.VERDICT, "there is nothing left to do"
    goes_on(halted, f"crash {name}", effects, outputs)
    assert [each for each, _ in halted.audited(partition)].count(action) >= 1


class TestTheCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["offsets", "adopt", "--group", "g", "--partition", "nonsense"], "TOPIC/NUMBER"),
            (["offsets", "adopt", "--group", "g", "--partition", "no-such/0"], "no topic"),
            (["offsets", "reset", "--group", "g", "--partition", "t/0", "--to", "x"], "earliest"),
            (["offsets", "skip", "--group", "g", "--to", "4"], "--partition"),
            (["offsets", "adopt"], "give a pipeline"),
        ],
    )
    def test_bad_input_is_one_line(self, halted: Halted, arguments: list[str], told: str) -> None:
        found = halted.commands(*arguments)
        assert found.code == Exit.USAGE
        assert told in found.err
        assert len(found.err.splitlines()) == 1

    def test_what_is_not_wrong_is_not_remedied(self, halted: Halted) -> None:
        partition = halted.of("healthy")
        halted.wait_state(partition, "running")
        for action in ("adopt", "resolve", "restore", "skip", "accept-recreated", "replay-effects"):
            found = halted.command("offsets", action, REFERENCE, partition=partition)
            assert found.code == Exit.VERDICT, action
            assert "nothing" in found.err

    def test_without_a_partition_all_that_halted_for_it_are_meant(self, halted: Halted) -> None:
        for name in ("rewound", "restore outputs"):
            halted.wait_state(halted.of(name), "halted", "offsets-rewound")
        found = halted.command("offsets", "restore", REFERENCE, "--json")
        named = {each["partition"] for each in found.json}
        assert {halted.of("rewound"), halted.of("restore outputs")} <= named


def test_verify_reports_the_gaps_and_finds_nothing_else(halted: Halted) -> None:
    found = halted.command("verify", REFERENCE, "--topic", halted.acts, "--json")
    partitions = {each["partition"]: each for each in found.json["partitions"]}
    remedied = (
        "adopt tool", "adopt intent", "adopt server", "adopt lineage",
        "resolve found", "resolve unpublished", "resolve word", "discard", "restore", "reset",
        "skip lost", "handler halt", "replay", "replay without row", "crash adopt", "crash replay",
    )  # fmt: skip
    for name in remedied:
        assert partitions[halted.of(name)]["findings"] == [], name
    [gap] = partitions[halted.of("skip lost")]["recorded"]
    assert (gap["action"], gap["detail"]["from"], gap["detail"]["to"]) == ("skip", 3, 5)


def test_not_found_proves_nothing_where_the_output_topic_was_trimmed(halted: Halted) -> None:
    """The last of all: it takes the outputs away."""
    halted.wait_state(halted.of("resolve trimmed"), "halted", "unknown-publication")
    halted.trim_outputs()
    why = refused(halted, "resolve trimmed", "resolve")
    assert "proves nothing" in why
    assert "--published-to OFFSET" in why
    remedy(halted, "resolve trimmed", "resolve", "--published-to", "3")
    partition = halted.of("resolve trimmed")
    halted.wait_rest(partition)
    assert halted.effects(partition) == [*NUMBERS, 4]
    assert halted.told(partition) == [4]
