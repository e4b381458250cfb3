"""What `processor status` concludes from readings, without any I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from processor.engine.recovery import Mark, make_metadata
from processor.errors import Exit
from processor.operations.broker import Offset
from processor.operations.offsets import mark
from processor.operations.readings import Outbox, Progress, Readings, Report
from processor.operations.status import PartitionStatus, Status, status

NOW = datetime(2024, 5, 1, tzinfo=UTC)
ROW = Progress(
    id=1,
    cluster_id="c",
    topic="in",
    partition=0,
    topic_id="t",
    next_offset=20,
    published_offset=10,
    verified_offset=10,
    lineage="line",
    token="b",
    tokens_in_k=["a", "b"],
    intent=None,
    leader_epoch=0,
    handled=19,
    outputs=5,
    dead_lettered=1,
    skipped=0,
    duplicates=0,
    updated_at=NOW,
)
REPORT = Report("cluster", "in", 0, "orders:host:0", "running", None, None, None, NOW, 1.0)
HALT = replace(REPORT, state="halted", reason="input-lost", remedy="processor offsets skip")


def readings(*partitions: tuple[Progress | None, Report | None, int | None]) -> Readings:
    """Of one topic; each partition by its row, its report and K."""
    made = Readings("orders")
    for number, (row, report, k) in enumerate(partitions):
        place = ("in", number)
        made.committed[place] = Offset(k)
        made.log_ends[place] = 30
        if row is not None:
            row_id = number + 1
            made.progress[place] = replace(row, id=row_id, partition=number)
            made.floors[place] = (row_id, row.published_offset)
        if report is not None:
            made.reports[place] = replace(report, partition=number)
    return made


def one(row: Progress | None = ROW, report: Report | None = REPORT, k: int | None = 15) -> Status:
    return status(readings((row, report, k)))


def the(found: Status) -> PartitionStatus:
    assert len(found.partitions) == 1
    return found.partitions[0]


def test_a_running_partition() -> None:
    found = one()
    assert found.exit_code is Exit.OK
    assert found.verdict == "1 partitions: 1 running, lag 15"
    assert the(found).broken is None


def test_lag_is_what_cannot_be_seen_yet() -> None:
    assert the(one(k=15)).lag == 15
    assert the(one(k=None)).lag == 10
    assert the(one(k=31)).lag == 0
    assert the(one(row=None, report=None, k=None)).lag is None


def test_one_halt_is_a_bad_verdict() -> None:
    found = status(readings((ROW, HALT, 15), (ROW, REPORT, 15)))
    assert found.verdict == "1 of 2 partitions are halted"
    assert found.exit_code is Exit.VERDICT
    assert found.partitions[0].remedy == "processor offsets skip"


def test_all_halted_has_its_own_exit_code() -> None:
    found = status(readings((ROW, HALT, 15), (ROW, HALT, 15)))
    assert found.exit_code is Exit.ALL_HALTED


def test_an_unknown_group_is_not_a_bad_verdict() -> None:
    found = status(Readings("orders"))
    assert found.exit_code is Exit.OK
    assert found.verdict == "nothing is known of this group"


def test_a_partition_without_row_is_new() -> None:
    assert the(one(row=None, report=None, k=None)).state == "new"


def test_a_row_without_report_is_owned_by_nobody() -> None:
    assert the(one(report=None)).state == "unowned"


def test_a_group_without_workers_is_told_first() -> None:
    assert one(report=None).verdict == "no worker is running; 1 partitions: 1 unowned, lag 15"


@pytest.mark.parametrize(("seen", "told"), [(45.0, "for 45 s"), (None, "ever")])
def test_a_silent_worker_has_left_its_partitions(seen: float | None, told: str) -> None:
    found = the(one(report=replace(REPORT, slot_seen_seconds=seen)))
    assert found.state == "unowned"
    assert found.reason == f"no sign of orders:host:0 {told}"


def test_a_halt_outlives_its_worker() -> None:
    assert the(one(report=replace(HALT, slot_seen_seconds=900.0))).state == "halted"


@pytest.mark.parametrize(
    ("k", "told"), [(9, "K 9 is below P 10"), (21, "K 21 is beyond H 20"), (10, None), (20, None)]
)
def test_the_invariant_is_checked(k: int, told: str | None) -> None:
    found = one(k=k)
    assert the(found).broken == told
    assert found.exit_code is (Exit.OK if told is None else Exit.VERDICT)


def test_an_intent_suspends_the_invariant() -> None:
    assert the(one(row=replace(ROW, intent={"offset": 20}), k=3)).broken is None


def test_a_floor_of_another_row_says_nothing() -> None:
    made = readings((ROW, REPORT, 5))
    made.floors["in", 0] = (77, 10)
    assert the(status(made)).broken is None


def test_the_outbox_is_that_of_the_row() -> None:
    made = readings((ROW, REPORT, 15))
    made.outbox[1] = Outbox(1, 3, 400)
    assert (the(status(made)).outbox_rows, the(status(made)).outbox_bytes) == (3, 400)


def test_without_kafka_it_shows_what_postgres_knows() -> None:
    made = readings((ROW, REPORT, None))
    made.committed, made.log_ends, made.trouble = {}, {}, "Kafka does not answer"
    found = status(made)
    assert the(found).next_offset == 20
    assert (the(found).committed_offset, the(found).lag) == (None, None)
    assert "Kafka does not answer" in (found.note or "")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (make_metadata("line", "a"), Mark.KNOWN),
        (make_metadata("line", "z"), Mark.STALE),
        (make_metadata("other", "a"), Mark.FOREIGN),
        ("", Mark.ALIEN),
    ],
)
def test_the_metadata_of_k_is_named(metadata: str, expected: Mark) -> None:
    assert mark(ROW, Offset(15, metadata)) is expected


@pytest.mark.parametrize(("k", "expected"), [(15, Mark.KNOWN), (16, Mark.STALE)])
def test_a_k_beyond_the_end_of_its_token_is_of_another_history(k: int, expected: Mark) -> None:
    row = replace(ROW, token_ends={"a": 15})
    assert mark(row, Offset(k, make_metadata("line", "a"))) is expected


def test_without_k_there_is_no_mark() -> None:
    assert mark(ROW, Offset(None)) is None
    assert mark(None, Offset(15)) is None
