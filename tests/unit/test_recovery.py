"""The recovery table, row by row, then what must hold for any reading whatever."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.engine import recovery
from processor.engine.batch import Committed, LogRange
from processor.engine.halts import REMEDIES, Halt
from processor.engine.recovery import (
    CommitOffset,
    Decision,
    HaltAt,
    Intent,
    Manifest,
    Mark,
    MoveStart,
    Reading,
    Republish,
    Resume,
    Row,
    Start,
    Supersede,
    Wait,
    decide,
    make_metadata,
    mark,
    reach,
    read_metadata,
    silent,
    tiles,
)
from tests.support.readings import (
    EARLIER,
    FOREIGN,
    KNOWN,
    LINEAGE,
    READING,
    ROW,
    STALE,
    SYSTEM,
    TOKEN,
)

ALIEN = ("", None, "set by a tool", "processor:", "processor:a:", "other:a:b", "processor:a:b:c")
NOTHING = replace(READING, row=None, committed=Committed(None, None))
SILENT = (Manifest(4, 7, 0), Manifest(7, 10, 0))
SPEAKING = (Manifest(4, 7, 2), Manifest(7, 10, 0))


def at(
    k: int | None,
    metadata: str | None = KNOWN,
    *,
    h: int = 10,
    p: int | None = None,
    **changes: Any,
) -> Reading:
    """A reading with this K and M, this H and P; further changes go to the row or the reading."""
    of_row = {name: changes.pop(name) for name in list(changes) if hasattr(ROW, name)}
    row = replace(ROW, next_offset=h, published_offset=h if p is None else p, **of_row)
    return replace(READING, row=row, committed=Committed(k, metadata), **changes)


def halts(decision: Decision) -> Halt:
    assert isinstance(decision, HaltAt), decision
    assert decision.detail, "a halt says what was found"
    assert REMEDIES[decision.reason], "a halt names what resolves it"
    return decision.reason


# Row 0


def test_row_0_waits_for_a_reading_that_failed_and_says_which() -> None:
    assert decide(replace(READING, trouble="K is unstable")) == Wait("K is unstable")


def test_row_0_waits_while_the_metadata_is_older_than_the_row() -> None:
    decision = decide(replace(READING, superseded=True))
    assert isinstance(decision, Wait)
    assert "topic-id" in decision.why


def test_row_0_waits_for_the_log_where_it_is_needed() -> None:
    assert isinstance(decide(replace(READING, log=None)), Wait)


@pytest.mark.parametrize(
    "changes",
    [{"row": None}, {"row": None, "older": ROW}, {"row": None, "other_cluster": True}],
    ids=["no-row", "older-row", "other-cluster"],
)
def test_row_0_comes_before_every_halt(changes: dict[str, Any]) -> None:
    assert isinstance(decide(replace(READING, trouble="no answer", **changes)), Wait)
    if not changes.get("other_cluster"):
        assert isinstance(decide(replace(READING, superseded=True, **changes)), Wait)


# Rows 1 to 6: there is no row of this topic id


def test_row_1_halts_when_the_rows_are_of_another_cluster() -> None:
    assert halts(decide(replace(NOTHING, other_cluster=True))) is Halt.CLUSTER_CHANGED


@pytest.mark.parametrize("metadata", [KNOWN, *ALIEN])
def test_row_1_halts_whatever_kafka_holds(metadata: str | None) -> None:
    reading = replace(NOTHING, other_cluster=True, committed=Committed(4, metadata))
    assert halts(decide(reading)) is Halt.CLUSTER_CHANGED


def test_row_1_comes_before_a_topic_id_of_this_cluster_that_changed() -> None:
    """Which of the two clusters was used last is not known, so nothing may be superseded."""
    reading = replace(NOTHING, other_cluster=True, older=ROW)
    assert halts(decide(reading)) is Halt.CLUSTER_CHANGED


def test_row_1_halts_in_a_cluster_that_was_left_for_another_one() -> None:
    """Its row is superseded, and that is no stale metadata."""
    reading = replace(NOTHING, superseded=True, other_cluster=True)
    assert halts(decide(reading)) is Halt.CLUSTER_CHANGED


def test_row_1_halts_where_a_topic_would_start_that_is_at_home_elsewhere() -> None:
    """It has a partition more than there."""
    assert halts(decide(replace(NOTHING, topic_elsewhere=True))) is Halt.CLUSTER_CHANGED
    reading = replace(NOTHING, topic_elsewhere=True, committed=Committed(4, KNOWN))
    assert halts(decide(reading)) is Halt.DATABASE_HISTORY_LOST, "K is somebody's word, too"


@pytest.mark.parametrize("metadata", [KNOWN, STALE, FOREIGN])
def test_row_2_halts_when_only_kafka_remembers(metadata: str) -> None:
    reading = replace(NOTHING, committed=Committed(4, metadata))
    assert halts(decide(reading)) is Halt.DATABASE_HISTORY_LOST


@pytest.mark.parametrize("metadata", ALIEN)
def test_row_3_halts_when_somebody_else_committed_before_the_first_start(
    metadata: str | None,
) -> None:
    reading = replace(NOTHING, committed=Committed(4, metadata))
    assert halts(decide(reading)) is Halt.FOREIGN_OFFSETS


def test_row_4_starts_where_neither_store_knows_anything() -> None:
    assert decide(NOTHING) == Start()


def test_row_5_supersedes_a_recreated_topic_that_left_nothing_open() -> None:
    older = replace(ROW, topic_id="old-id")
    assert decide(replace(NOTHING, older=older)) == Supersede(older)


def test_row_5_supersedes_with_silent_rows_still_in_the_outbox() -> None:
    older = replace(ROW, topic_id="old-id", published_offset=4)
    assert decide(replace(NOTHING, older=older, outbox=SILENT)) == Supersede(older)


def test_row_6_halts_when_outputs_of_the_old_topic_may_be_unpublished() -> None:
    older = replace(ROW, topic_id="old-id", published_offset=4)
    reading = replace(NOTHING, older=older, outbox=SPEAKING)
    assert halts(decide(reading)) is Halt.TOPIC_RECREATED


@pytest.mark.parametrize("verified", [None, 9])
def test_row_6_halts_when_the_new_topic_may_have_been_read_at_the_old_offset(
    verified: int | None,
) -> None:
    older = replace(ROW, topic_id="old-id", verified_offset=verified)
    assert halts(decide(replace(NOTHING, older=older))) is Halt.TOPIC_RECREATED


# Rows 7 and 8: an intent is set

INTENT = Intent(offset=10, replaces_offset=4, replaces_metadata="theirs", why="adopted")


def test_row_7_commits_an_intent_over_what_it_replaces() -> None:
    assert decide(at(4, "theirs", intent=INTENT)) == CommitOffset(10, INTENT)


def test_row_7_commits_a_first_intent_over_nothing() -> None:
    first = Intent(10, None, None, "first start")
    assert decide(at(None, None, intent=first)) == CommitOffset(10, first)


@pytest.mark.parametrize("token", [TOKEN, EARLIER])
def test_row_7_takes_its_own_result_for_done(token: str) -> None:
    """A crash between the commit in Kafka and the clearing of the intent."""
    done = make_metadata(LINEAGE, token)
    assert decide(at(10, done, intent=INTENT)) == CommitOffset(10, INTENT)


@pytest.mark.parametrize(
    ("k", "metadata"),
    [
        (4, "somebody else's"),
        (5, "theirs"),
        (None, None),
        (10, STALE),
        (10, FOREIGN),
        (10, ""),
        (9, KNOWN),
        (11, KNOWN),
    ],
)
def test_row_8_halts_when_an_intent_meets_another_k(k: int | None, metadata: str | None) -> None:
    assert halts(decide(at(k, metadata, intent=INTENT))) is Halt.FOREIGN_OFFSETS


# Rows 9 and 10: there is no K


def test_row_9_commits_h_again_when_no_output_can_be_missing() -> None:
    assert decide(at(None, None)) == CommitOffset(10, None)
    assert decide(at(None, None, p=4, outbox=SILENT)) == CommitOffset(10, None)


@pytest.mark.parametrize(
    "outbox",
    [
        pytest.param(SPEAKING, id="outputs"),
        pytest.param((), id="pruned beyond P"),
        pytest.param((Manifest(4, 7, 0),), id="ends early"),
        pytest.param((Manifest(4, 7, 0), Manifest(7, 10, 0, "checksum")), id="damaged"),
    ],
)
def test_row_10_halts_when_outputs_may_or_may_not_be_published(
    outbox: tuple[Manifest, ...],
) -> None:
    assert halts(decide(at(None, None, p=4, outbox=outbox))) is Halt.UNKNOWN_PUBLICATION


# Rows 11 to 15: K is not what this row's history committed


def test_row_11_halts_on_an_offset_of_another_lineage() -> None:
    assert halts(decide(at(10, FOREIGN))) is Halt.FOREIGN_LINEAGE


@pytest.mark.parametrize("metadata", [KNOWN, STALE, ""])
def test_row_11_halts_on_another_database_server(metadata: str) -> None:
    reading = at(10, metadata, system_identifier=SYSTEM + 1)
    assert halts(decide(replace(reading, system_identifier=SYSTEM))) is Halt.FOREIGN_LINEAGE


@pytest.mark.parametrize("k", [3, 10, 11])
def test_row_11_comes_before_the_comparisons_of_k(k: int) -> None:
    assert halts(decide(at(k, FOREIGN, p=4))) is Halt.FOREIGN_LINEAGE


@pytest.mark.parametrize("metadata", ALIEN)
def test_row_12_takes_a_foreign_commit_of_the_same_offset_over(metadata: str | None) -> None:
    assert decide(at(10, metadata)) == CommitOffset(10, None)


@pytest.mark.parametrize("metadata", [KNOWN, STALE, "", None, "set by a tool"])
def test_row_13_halts_when_k_is_below_a_k_that_was_read_back(metadata: str | None) -> None:
    assert halts(decide(at(3, metadata, p=4, outbox=SILENT))) is Halt.OFFSETS_REWOUND
    assert halts(decide(at(9, metadata))) is Halt.OFFSETS_REWOUND


@pytest.mark.parametrize("metadata", ALIEN)
@pytest.mark.parametrize("k", [4, 7, 10, 11])
def test_row_14_halts_on_an_offset_that_somebody_else_committed(
    k: int, metadata: str | None
) -> None:
    assert halts(decide(at(k, metadata, p=4, outbox=SILENT))) is Halt.FOREIGN_OFFSETS


@pytest.mark.parametrize("k", [4, 7, 10, 11])
def test_row_15_halts_on_a_token_that_the_database_does_not_remember(k: int) -> None:
    reading = at(k, STALE, p=4, outbox=SILENT)
    assert halts(decide(reading)) is Halt.DATABASE_HISTORY_LOST


def test_row_15_halts_when_kafka_is_ahead_of_the_database() -> None:
    assert halts(decide(at(11))) is Halt.DATABASE_HISTORY_LOST


ENDED = make_metadata(LINEAGE, EARLIER)


@pytest.mark.parametrize(("k", "h"), [(8, 10), (10, 10), (8, 8)])
def test_row_15_halts_when_k_lies_beyond_the_end_of_its_token(k: int, h: int) -> None:
    """H has grown past it again, under another token: by another run of the same messages."""
    reading = at(k, ENDED, h=h, p=4, outbox=tuple(SPEAKING), token_ends={EARLIER: 7})
    assert halts(decide(reading)) is Halt.DATABASE_HISTORY_LOST
    assert "Kafka is at" in decide(reading).detail  # type: ignore[union-attr]
    assert "back at 7" in decide(reading).detail  # type: ignore[union-attr]


def test_row_15_lets_a_k_be_that_its_token_may_have_committed() -> None:
    reading = at(7, ENDED, p=4, outbox=SPEAKING, token_ends={EARLIER: 7})
    assert decide(reading) == Republish(7)
    assert decide(at(10, ENDED, token_ends={EARLIER: 10})) == Resume(10)


def test_row_15_judges_a_token_without_an_end_by_h() -> None:
    """Replaced by the version before, which wrote no ends down."""
    assert decide(at(10, ENDED, token_ends={})) == Resume(10)
    assert halts(decide(at(11, ENDED, token_ends={}))) is Halt.DATABASE_HISTORY_LOST


# Rows 16 and 17: outputs are to be published again


@pytest.mark.parametrize(
    "outbox",
    [
        pytest.param((), id="empty"),
        pytest.param((Manifest(7, 10, 1),), id="begins late"),
        pytest.param((Manifest(3, 7, 1), Manifest(7, 10, 1)), id="row straddles K"),
        pytest.param((Manifest(4, 6, 1), Manifest(7, 10, 1)), id="gap"),
        pytest.param((Manifest(4, 8, 1), Manifest(7, 10, 1)), id="overlap"),
        pytest.param((Manifest(4, 7, 1),), id="ends early"),
        pytest.param((Manifest(4, 7, 1), Manifest(7, 11, 1)), id="ends late"),
        pytest.param(
            (Manifest(4, 7, 1, "checksum of [4, 7) is wrong"), Manifest(7, 10, 0)), id="x"
        ),
        pytest.param((Manifest(4, 7, 0), Manifest(7, 10, 1, "1 output instead of 2")), id="count"),
    ],
)
def test_row_16_halts_when_the_outbox_is_not_whole(outbox: tuple[Manifest, ...]) -> None:
    assert halts(decide(at(4, p=4, outbox=outbox))) is Halt.OUTBOX_DAMAGED


@pytest.mark.parametrize("outbox", [SILENT, SPEAKING])
def test_row_17_publishes_again_what_is_whole(outbox: tuple[Manifest, ...]) -> None:
    assert decide(at(4, p=4, outbox=outbox)) == Republish(4)


def test_row_17_ignores_what_is_published_already_even_if_damaged() -> None:
    outbox = (Manifest(0, 4, 3, "damaged"), *SPEAKING)
    assert decide(at(4, p=0, outbox=outbox)) == Republish(4)


@pytest.mark.parametrize("token", [TOKEN, EARLIER])
def test_row_17_knows_every_token_since_the_one_read_back(token: str) -> None:
    assert decide(at(7, make_metadata(LINEAGE, token), p=4, outbox=SPEAKING)) == Republish(7)


@pytest.mark.parametrize(
    "log", [None, LogRange(0, 8), LogRange(12, 20)], ids=["unread", "truncated", "trimmed"]
)
def test_row_17_comes_before_the_log(log: LogRange | None) -> None:
    reading = at(4, p=4, outbox=SPEAKING, log=log, truncated=True)
    assert decide(reading) == Republish(4)


# Rows 18 to 22: K = H, now the log


def test_row_18_alone_raises_p_and_it_only_when_k_is_h() -> None:
    """Resume is what raises P; it needs K = H."""
    assert decide(at(10, p=4, outbox=SPEAKING)) == Resume(10)
    assert not isinstance(decide(at(7, p=4, outbox=SPEAKING)), Resume)


def test_row_19_halts_when_the_log_ends_before_h() -> None:
    assert halts(decide(replace(READING, log=LogRange(0, 9)))) is Halt.LOG_TRUNCATED


def test_row_19_halts_when_the_leader_epoch_does_not_fit() -> None:
    assert halts(decide(replace(READING, truncated=True))) is Halt.LOG_TRUNCATED


def test_row_20_moves_a_start_that_the_log_has_overtaken() -> None:
    assert decide(at(10, untouched=True, log=LogRange(12, 20))) == MoveStart(12)


def test_row_21_halts_when_input_was_deleted_unhandled() -> None:
    assert halts(decide(replace(READING, log=LogRange(11, 20)))) is Halt.INPUT_LOST


@pytest.mark.parametrize("log", [LogRange(0, 10), LogRange(10, 10), LogRange(10, 20)])
def test_row_22_resumes_at_h(log: LogRange) -> None:
    assert decide(replace(READING, log=log)) == Resume(10)


def test_a_remedy_is_named_for_every_halt() -> None:
    assert set(REMEDIES) == set(Halt)
    for halt, remedy in REMEDIES.items():
        assert "processor " in remedy, f"{halt} names no command"


# Whatever the reading


offsets = st.integers(0, 6)
k_offsets = st.none() | offsets
tokens = st.sampled_from([TOKEN, EARLIER, "of-a-lost-history"])
metadatas = st.builds(make_metadata, st.just(LINEAGE), tokens) | st.sampled_from(
    [*ALIEN[:4], FOREIGN]
)
systems = st.sampled_from([SYSTEM, SYSTEM, SYSTEM, SYSTEM + 1])
logs = st.none() | st.tuples(offsets, offsets).map(sorted).map(lambda pair: LogRange(*pair))
intents = st.none() | st.builds(Intent, offsets, k_offsets, metadatas, st.just("why"))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    p, h = sorted((draw(offsets), draw(offsets)))
    return replace(
        ROW,
        next_offset=h,
        published_offset=p,
        verified_offset=draw(k_offsets),
        system_identifier=draw(systems),
        tokens_in_k=tuple(draw(st.sampled_from([(TOKEN,), (EARLIER, TOKEN)]))),
        token_ends=draw(st.just({}) | st.builds(lambda end: {EARLIER: end}, st.integers(0, h))),
        intent=draw(intents),
        untouched=draw(st.booleans()),
    )


@st.composite
def tilings(draw: st.DrawFn) -> tuple[Manifest, ...]:
    """Consecutive rows over a range, now and then damaged."""
    edges = sorted(draw(st.sets(st.integers(0, 7), max_size=6)))
    return tuple(
        Manifest(
            first,
            end,
            draw(st.integers(0, 2)),
            draw(st.sampled_from([None, None, None, "damaged"])),
        )
        for first, end in pairwise(edges)
    )


@st.composite
def holey(draw: st.DrawFn) -> tuple[Manifest, ...]:
    whole = draw(tilings())
    return tuple(manifest for manifest in whole if draw(st.integers(0, 4)))


@st.composite
def scattered(draw: st.DrawFn) -> tuple[Manifest, ...]:
    """Ranges in order of their begin, with gaps and overlaps."""
    ranges = draw(
        st.lists(st.tuples(offsets, st.integers(1, 3)), max_size=4, unique_by=lambda pair: pair[0])
    )
    return tuple(
        Manifest(first, first + length, draw(st.integers(0, 2))) for first, length in sorted(ranges)
    )


readings = st.builds(
    Reading,
    partition=st.just(READING.partition),
    topic_id=st.just("topic-id"),
    system_identifier=systems,
    row=st.none() | rows(),
    older=st.none() | rows().map(lambda row: replace(row, topic_id="old-id")),
    superseded=st.sampled_from([False] * 9 + [True]),
    topic_elsewhere=st.sampled_from([False] * 4 + [True]),
    other_cluster=st.sampled_from([False] * 4 + [True]),
    outbox=tilings() | holey() | scattered(),
    committed=st.builds(Committed, k_offsets, metadatas),
    log=logs,
    truncated=st.sampled_from([False] * 4 + [True]),
    trouble=st.sampled_from([None] * 9 + ["no answer"]),
)


@st.composite
def likely_readings(draw: st.DrawFn) -> Reading:
    """Of a healthy history: P <= K <= H, our own metadata, a log that covers them."""
    p, k, h = sorted(draw(st.tuples(offsets, offsets, offsets)))
    edges = sorted({p, k, h} | draw(st.sets(st.integers(p, h))))
    outbox = [Manifest(first, end, draw(st.integers(0, 2))) for first, end in pairwise(edges)]
    ends = draw(st.just({}) | st.builds(lambda end: {EARLIER: end}, st.integers(k, h)))
    return at(
        k,
        make_metadata(LINEAGE, draw(st.sampled_from([TOKEN, EARLIER]))),
        h=h,
        p=p,
        token_ends=ends,
        outbox=tuple(outbox),
        log=LogRange(draw(st.integers(0, p)), draw(st.integers(h, 8))),
        leader_epoch=draw(st.none() | offsets),
    )


WRONG = ["M", "K", "outbox", "log", "epoch", "server", "intent", "start", "end"]


@st.composite
def near_misses(draw: st.DrawFn, what: str | None = None) -> Reading:
    """A healthy history in which one thing is not as it should be."""
    reading = draw(likely_readings())
    row, k = reading.row, reading.committed.offset
    assert row is not None
    wrong: dict[str, st.SearchStrategy[Any]] = {
        "M": metadatas.map(lambda m: {"committed": Committed(k, m)}),
        "K": k_offsets.map(lambda k: {"committed": Committed(k, reading.committed.metadata)}),
        "outbox": (holey() | scattered()).map(lambda outbox: {"outbox": outbox}),
        "log": logs.map(lambda log: {"log": log}),
        "epoch": st.just({"truncated": True}),
        "server": st.just({"system_identifier": SYSTEM + 1}),
        "intent": intents.map(lambda intent: {"row": replace(row, intent=intent)}),
        "end": offsets.map(
            lambda end: {"row": replace(row, token_ends={EARLIER: min(end, row.next_offset)})}
        ),
        "start": logs.map(lambda log: {"log": log, "row": replace(row, untouched=True)}),
    }
    return replace(reading, **draw(wrong[what or draw(st.sampled_from(WRONG))]))


anything = readings | likely_readings() | near_misses()


def whole(outbox: tuple[Manifest, ...], start: int, end: int) -> bool:
    """Said another way than the code does: the edges chain from start to end, undamaged."""
    wanted = [manifest for manifest in outbox if manifest.next > start]
    chain = [start, *(manifest.next for manifest in wanted)]
    return (
        [manifest.first for manifest in wanted] == chain[:-1]
        and chain[-1] == end
        and not any(manifest.damage for manifest in wanted)
    )


def quiet(row: Row, outbox: tuple[Manifest, ...]) -> bool:
    p, h = row.published_offset, row.next_offset
    return whole(outbox, p, h) and not sum(m.output_count for m in outbox if m.next > p)


def expected(r: Reading) -> tuple[int, type[Decision] | Halt]:
    """The table, read from the top: the number of the first row that matches, and its decision."""
    row, (k, m), log = r.row, (r.committed.offset, r.committed.metadata), r.log
    ours = read_metadata(m)
    if r.trouble is not None or (r.superseded and not r.other_cluster):
        return 0, Wait
    if row is None:
        older = r.older
        table: list[tuple[int, bool, type[Decision] | Halt]] = [
            (1, r.other_cluster, Halt.CLUSTER_CHANGED),
            (1, older is None and k is None and r.topic_elsewhere, Halt.CLUSTER_CHANGED),
            (2, older is None and k is not None and ours is not None, Halt.DATABASE_HISTORY_LOST),
            (3, older is None and k is not None, Halt.FOREIGN_OFFSETS),
            (4, older is None, Start),
            (
                5,
                older is not None
                and quiet(older, r.outbox)
                and older.verified_offset == older.next_offset,
                Supersede,
            ),
            (6, True, Halt.TOPIC_RECREATED),
        ]
        return next((number, what) for number, matches, what in table if matches)
    h, p, intent = row.next_offset, row.published_offset, row.intent
    alien = ours is None
    foreign = ours is not None and ours[0] != row.lineage
    known = ours is not None and not foreign and ours[1] in row.tokens_in_k
    stale = not (alien or foreign or known)
    beyond = known and ours[1] != TOKEN and (k or 0) > row.token_ends.get(EARLIER, h)
    if intent is not None:
        same = k == intent.replaces_offset and (m or "") == (intent.replaces_metadata or "")
        done = k == intent.offset and known
        return (7, CommitOffset) if same or done else (8, Halt.FOREIGN_OFFSETS)
    if k is None:
        return (9, CommitOffset) if quiet(row, r.outbox) else (10, Halt.UNKNOWN_PUBLICATION)
    table = [
        (11, foreign or row.system_identifier != r.system_identifier, Halt.FOREIGN_LINEAGE),
        (12, alien and k == p == h, CommitOffset),
        (13, k < p, Halt.OFFSETS_REWOUND),
        (14, alien, Halt.FOREIGN_OFFSETS),
        (15, stale or k > h or beyond, Halt.DATABASE_HISTORY_LOST),
        (16, k < h and not whole(r.outbox, k, h), Halt.OUTBOX_DAMAGED),
        (17, k < h, Republish),
        (0, log is None, Wait),
        (19, log is not None and (log.high_watermark < h or r.truncated), Halt.LOG_TRUNCATED),
        (20, log is not None and log.start > h and row.untouched, MoveStart),
        (21, log is not None and log.start > h, Halt.INPUT_LOST),
        (22, True, Resume),
    ]
    return next((number, what) for number, matches, what in table if matches)


@given(anything)
def test_the_first_row_that_matches_decides(reading: Reading) -> None:
    """And decide() is total: it has an answer to every reading, none raises."""
    as_the_table_says(reading)


@pytest.mark.parametrize("what", WRONG)
@given(st.data())
def test_one_thing_that_is_wrong_is_found(what: str, data: st.DataObject) -> None:
    as_the_table_says(data.draw(near_misses(what)))


def as_the_table_says(reading: Reading) -> None:
    number, what = expected(reading)
    decision = decide(reading)
    if isinstance(what, Halt):
        assert isinstance(decision, HaltAt), f"row {number}"
        assert decision.reason is what, f"row {number}"
    else:
        assert isinstance(decision, what), f"row {number}"


@given(anything)
def test_deciding_twice_is_deciding_once(reading: Reading) -> None:
    assert decide(reading) == decide(reading)


@given(anything)
def test_resumes_only_where_both_stores_agree_and_the_log_covers_h(reading: Reading) -> None:
    decision = decide(reading)
    if not isinstance(decision, Resume):
        return
    row, log = reading.row, reading.log
    assert row is not None
    assert log is not None
    assert decision.offset == row.next_offset == reading.committed.offset
    assert mark(row, reading.committed.metadata) is Mark.KNOWN
    assert decision.offset <= reach(row, reading.committed.metadata)
    assert row.system_identifier == reading.system_identifier
    assert row.intent is None
    assert log.start <= row.next_offset <= log.high_watermark
    assert not reading.truncated


@given(anything)
def test_republishes_only_an_undamaged_tiling_from_k_to_h(reading: Reading) -> None:
    decision = decide(reading)
    if not isinstance(decision, Republish):
        return
    row, k = reading.row, reading.committed.offset
    assert row is not None
    assert k is not None
    assert decision.start == k
    assert row.published_offset <= k < row.next_offset
    assert whole(reading.outbox, k, row.next_offset)
    assert mark(row, reading.committed.metadata) is Mark.KNOWN
    assert k <= reach(row, reading.committed.metadata)


@given(anything)
def test_commits_an_offset_only_where_no_output_can_be_skipped(reading: Reading) -> None:
    """Without an intent: K = H is committed only over a range that is known to be silent."""
    decision = decide(reading)
    if not isinstance(decision, CommitOffset):
        return
    row = reading.row
    assert row is not None
    if decision.intent is not None:
        assert decision.intent == row.intent
        assert decision.offset == row.intent.offset
    else:
        assert decision.offset == row.next_offset
        assert quiet(row, reading.outbox) or row.published_offset == row.next_offset
        assert reading.committed.offset in (None, row.next_offset)


@given(anything)
def test_supersedes_only_a_silent_topic_whose_last_offset_was_verified(reading: Reading) -> None:
    decision = decide(reading)
    if isinstance(decision, Supersede):
        assert reading.row is None
        assert decision.old == reading.older
        assert quiet(decision.old, reading.outbox)
        assert decision.old.verified_offset == decision.old.next_offset


@given(anything)
def test_starts_only_where_no_store_knows_anything(reading: Reading) -> None:
    if isinstance(decide(reading), Start):
        assert (reading.row, reading.older) == (None, None)
        assert reading.committed.offset is None
        assert not reading.other_cluster


@given(likely_readings())
def test_a_healthy_history_goes_on_by_itself(reading: Reading) -> None:
    row = reading.row
    assert row is not None
    if reading.committed.offset == row.next_offset:
        assert decide(reading) == Resume(row.next_offset)
    else:
        assert decide(reading) == Republish(reading.committed.offset or 0)


@given(anything, st.data())
def test_what_is_pruned_or_unasked_does_not_matter(reading: Reading, data: st.DataObject) -> None:
    """Rows below P, the epoch, the first partition count and the order of tokens: no part of it."""
    row = reading.row
    if row is None:
        return
    below = tuple(
        Manifest(first, first + 1, data.draw(st.integers(0, 2)), "damaged long ago")
        for first in range(-3, -1)
    )
    kept = tuple(m for m in reading.outbox if m.next > row.published_offset)
    other = replace(
        row,
        leader_epoch=data.draw(st.none() | offsets),
        initial_partitions=data.draw(offsets),
        tokens_in_k=row.tokens_in_k[::-1],
        verified_offset=data.draw(k_offsets),
    )
    changed = replace(reading, row=other, outbox=below + reading.outbox)
    assert decide(changed) == decide(reading)
    k = reading.committed.offset
    if k is None or k >= row.published_offset:
        assert decide(replace(changed, outbox=kept)) == decide(reading)


@given(anything)
def test_the_log_says_nothing_about_what_is_to_be_published(reading: Reading) -> None:
    decision = decide(reading)
    if isinstance(decision, (Republish, CommitOffset, Start)):
        for log in (None, LogRange(0, 0), LogRange(9, 9)):
            assert decide(replace(reading, log=log)) == decision


# The parts


@given(tilings() | holey() | scattered(), offsets, offsets)
def test_tiles_finds_every_hole(outbox: tuple[Manifest, ...], start: int, end: int) -> None:
    assert (tiles(outbox, start, end) is None) == whole(outbox, start, end)


def test_tiles_names_the_damage() -> None:
    assert tiles((Manifest(0, 2, 1, "checksum of [0, 2) is wrong"),), 0, 2) == (
        "checksum of [0, 2) is wrong"
    )
    assert "begins at 0" in str(tiles((Manifest(1, 2, 1),), 0, 2))
    assert "ends at 2 instead of 3" in str(tiles((Manifest(0, 2, 1),), 0, 3))


def test_tiles_a_range_of_nothing_with_nothing() -> None:
    assert tiles((), 5, 5) is None
    assert tiles((Manifest(0, 5, 3),), 5, 5) is None


@given(rows(), tilings() | holey())
def test_silent_means_a_whole_outbox_without_outputs(
    row: Row, outbox: tuple[Manifest, ...]
) -> None:
    assert silent(row, outbox) == quiet(row, outbox)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (KNOWN, Mark.KNOWN),
        (make_metadata(LINEAGE, EARLIER), Mark.KNOWN),
        (STALE, Mark.STALE),
        (FOREIGN, Mark.FOREIGN),
        (make_metadata("another-lineage", "any"), Mark.FOREIGN),
        *((metadata, Mark.ALIEN) for metadata in ALIEN),
    ],
)
def test_mark(metadata: str | None, found: Mark) -> None:
    assert mark(ROW, metadata) is found


hexes = st.text("0123456789abcdef", min_size=1)


@given(hexes, hexes)
def test_metadata_is_read_as_it_was_made(lineage: str, token: str) -> None:
    assert read_metadata(make_metadata(lineage, token)) == (lineage, token)


@given(st.none() | st.text())
def test_metadata_of_others_is_never_taken_for_ours(text: str | None) -> None:
    found = read_metadata(text)
    if found is not None:
        assert text == make_metadata(*found)
        assert all(found)
    assert (text or "").startswith(recovery.METADATA_PREFIX) or found is None
