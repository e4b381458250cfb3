"""The reconciliation of both stores, without either."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from processor.engine.recovery import Manifest, make_metadata
from processor.errors import Exit
from processor.operations.broker import Offset
from processor.operations.verify.bounds import Bound, Row
from processor.operations.verify.judge import ALWAYS, NEVER, Circumstances, judge
from processor.operations.verify.outputs import Where, Work
from processor.operations.verify.report import Kind, PartitionReport, Recorded, verdict
from processor.operations.verify.tally import Bits, Seen, Tally

LINEAGE = "0f0f0f0f0f0f0f0f"
H = 30
OUT = Where(0, "out/0")
WHOLE = Circumstances(whole=True, start=0, input_gone=None)


class TestBits:
    def test_it_is_a_set_of_offsets(self) -> None:
        """Against Python's own set, over random runs."""
        source = random.Random(7)
        for _ in range(200):
            start = source.randrange(100)
            end = start + source.randrange(1, 90)
            bits, plain = Bits(start, end), set()
            for _ in range(5):
                first = source.randrange(start, end)
                last = source.randrange(first, end)
                bits.fill(first, last)
                plain.update(range(first, last))
                bits.add(first)
                plain.add(first)
            assert [n in bits for n in range(start, end)] == [n in plain for n in range(start, end)]
            low, high = sorted(source.randrange(start - 5, end + 5) for _ in range(2))
            assert bits.count(low, high) == sum(low <= n < high for n in plain)

    def test_an_empty_range(self) -> None:
        assert Bits(5, 5).count(0, 10) == 0


class TestTally:
    def test_what_is_new_what_is_twice_and_what_contradicts(self) -> None:
        tally = Tally(10, 40)
        assert tally.add(20, 30, 1, 3) is Seen.NEW
        assert tally.add(10, 20, 0, 1) is Seen.NEW
        assert tally.add(20, 30, 1, 3) is Seen.DUPLICATE
        assert tally.add(20, 31, 2, 3) is Seen.CONTRADICTION
        assert tally.add(20, 30, 2, 4) is Seen.CONTRADICTION
        assert tally.add(20, 30, 0, 3) is Seen.NEW
        found = [(b.first, b.next, b.count, b.found) for b in tally.batches()]
        assert found == [(10, 20, 1, 1), (20, 30, 3, 2)]
        assert list(tally.missing(list(tally.batches())[1])) == [2]

    def test_memory_does_not_grow_with_messages(self) -> None:
        """A million outputs: an eighth of a byte each, and 20 bytes for each batch."""
        tally = Tally(0, 1_000_000)
        for first in range(0, 1_000_000, 1_000):
            for ordinal in range(1_000):
                tally.add(first, first + 1_000, ordinal, 1_000)
        assert len(tally._bits) == 125_000
        assert len(tally._length) == 1_000


def bound(
    *,
    outputs: int = H,
    handled: int = H,
    k: int = H,
    p: int = H,
    floor: int | None = None,
    manifests: Sequence[Manifest] = (),
    recorded: Sequence[Recorded] = (),
    metadata: str | None = None,
) -> Bound:
    now = datetime.now(UTC)
    row = Row(1, "in", 0, "id", H, p, LINEAGE, None, 1, handled, outputs, 0, 0, 0, now)
    told = make_metadata(LINEAGE, "token") if metadata is None else metadata
    return Bound(row, Offset(k, told), floor, max(p, min(k, H)), list(recorded), list(manifests))


class Postgres:
    """What H is by now."""

    def __init__(self, h: int = H) -> None:
        self.h = h
        self.asked = 0

    def next_offset(self, topic_id: str, partition: int, lineage: str) -> int | None:
        self.asked += 1
        return self.h


def work(given: Bound | None = None, begin: int = 0, end: int = H, h: int = H) -> Work:
    made = Work(given or bound(), begin, end, Postgres(h))
    made.present.fill(begin, end)
    return made


def publish(to: Work, *batches: tuple[int, int], where: int = 0) -> None:
    """Batches of [first, next) with an output for each message, all in one output partition."""
    for first, end in batches:
        for source in range(first, end):
            to.add(Where(where, f"out/{where}"), 0, first, end, source - first, end - first, source)


def kinds(report: PartitionReport) -> dict[Kind, int]:
    return {finding.kind: finding.count for finding in report.findings}


def judged(
    of: Work, seen: Circumstances = WHOLE, letters: Iterable[int] = ()
) -> tuple[dict[Kind, int], dict[str, int]]:
    report = judge(of, seen, letters)
    return kinds(report), {item.what: item.count for item in report.unverifiable}


def recorded(action: str, **detail: object) -> Recorded:
    return Recorded(action, "somebody", datetime.now(UTC), detail)


class TestJudge:
    def test_a_sound_partition(self) -> None:
        of = work()
        publish(of, (0, 10), (10, 11), (11, 30))
        assert judged(of) == ({}, {})

    def test_a_missing_output(self) -> None:
        of = work()
        publish(of, (0, 10), (11, 30))
        of.add(OUT, 0, 11, 30, 0, 19, 11)
        assert judged(of)[0] == {Kind.DUPLICATED: 1, Kind.MISSING: 1}

    def test_a_whole_batch_is_missing_where_no_output_tells(self) -> None:
        of = work()
        publish(of, (0, 10), (20, 30))
        report = judge(of, WHOLE, ())
        assert kinds(report) == {Kind.MISSING: 10}
        assert "must be of input [10, 20)" in report.findings[0].examples[0]

    def test_a_counter_is_wrong_for_certain_where_no_batch_can_be_missing(self) -> None:
        of = work(bound(outputs=31))
        publish(of, (0, 30))
        assert judged(of)[0] == {Kind.COUNT: 1}

    def test_where_there_are_no_records_no_batch_can_be_missing(self) -> None:
        of = Work(bound(outputs=21, handled=20), 0, H, Postgres())
        of.present.fill(0, 20)
        publish(of, (0, 20))
        assert judged(of)[0] == {Kind.COUNT: 1}

    def test_more_outputs_than_were_counted(self) -> None:
        of = work(bound(outputs=29))
        publish(of, (0, 30))
        assert judged(of)[0] == {Kind.COUNT: 1}

    def test_order_is_of_each_output_partition(self) -> None:
        of = work()
        publish(of, (10, 30))
        publish(of, (0, 10), where=1)
        assert judged(of) == ({}, {})
        of = work()
        publish(of, (10, 30), (0, 10))
        assert judged(of)[0] == {Kind.ORDER: 10}

    def test_outputs_of_later_work_are_left_alone(self) -> None:
        """Postgres is asked again only when an output claims more than was known."""
        of = work(h=40)
        publish(of, (0, 30), (30, 35), (35, 40))
        assert judged(of) == ({}, {})
        assert of.later == 10
        assert of._now.asked == 1  # type: ignore[attr-defined]
        publish(of, (40, 41))
        assert judged(of)[0] == {Kind.WITHOUT_SOURCE: 1}

    def test_nothing_is_demanded_of_what_waits_in_the_outbox(self) -> None:
        waiting = [Manifest(10, 20, 10), Manifest(20, 30, 10)]
        for shown in ([], [(10, 20)], [(10, 20), (20, 30)]):
            of = work(bound(k=10, p=0, manifests=[Manifest(0, 10, 10), *waiting]))
            publish(of, (0, 10), *shown)
            assert judged(of) == ({}, {})

    def test_what_k_says_is_published_has_to_be_there_though_it_is_in_the_outbox(self) -> None:
        of = work(bound(k=10, p=0, manifests=[Manifest(0, 10, 10), Manifest(10, 30, 20)]))
        assert judged(of)[0] == {Kind.MISSING: 10}

    @pytest.mark.parametrize(
        "manifests",
        [
            [],
            [Manifest(10, 20, 10)],
            [Manifest(15, 30, 10)],
            [Manifest(10, 30, 20, "checksum of [10, 30) is wrong")],
        ],
    )
    def test_the_outbox_tiles(self, manifests: list[Manifest]) -> None:
        of = work(bound(k=10, p=10, manifests=manifests))
        publish(of, (0, 10))
        assert judged(of)[0] == {Kind.OUTBOX: 1}

    def test_an_outbox_row_that_says_otherwise_than_the_output(self) -> None:
        of = work(bound(k=10, p=10, manifests=[Manifest(10, 30, 20)]))
        publish(of, (0, 10), (10, 29))
        assert judged(of)[0] == {Kind.OVERLAP: 19}

    def test_batches_do_not_overlap(self) -> None:
        of = work(bound(outputs=35))
        publish(of, (0, 10), (5, 10), (10, 30))
        assert judged(of)[0] == {Kind.OVERLAP: 1}

    def test_a_source_that_is_no_record(self) -> None:
        of = Work(bound(handled=29), 0, H, Postgres())
        of.present.fill(0, 10)
        of.present.fill(11, 30)
        publish(of, (0, 30))
        assert judged(of)[0] == {Kind.WITHOUT_SOURCE: 1}

    def test_a_batch_handler_names_no_source(self) -> None:
        """Then the whole batch has to have a record."""
        of = Work(bound(handled=20, outputs=2), 0, H, Postgres())
        of.present.fill(0, 20)
        of.add(OUT, 0, 0, 20, 0, 1, None)
        of.add(OUT, 0, 20, 30, 0, 1, None)
        assert judged(of)[0] == {Kind.WITHOUT_SOURCE: 1}

    @pytest.mark.parametrize("letters", [[3], [3, 3], [3, 29]])
    def test_dead_letters(self, letters: list[int]) -> None:
        of = Work(bound(handled=29, outputs=29), 0, H, Postgres())
        of.present.fill(0, 29)
        publish(of, (0, 29))
        found, _ = judged(of, letters=letters)
        assert found.pop(Kind.COUNT) == 1  # the counter says 0
        assert found == ({} if letters == [3] else {Kind.DEAD_LETTER: 1})

    def test_k_below_p_and_beyond_h(self) -> None:
        assert bound(k=5, p=10, floor=10).broken == "K 5 is below P 10"
        assert bound(k=31).broken == "K 31 is beyond H 30"
        assert bound(k=5, p=10, floor=5).broken is None  # P was raised since
        of = replace(bound(k=31))
        of.row = replace(of.row, intent={"offset": 3})
        assert of.broken is None


class TestNotVerifiable:
    """Never lost, never a mismatch."""

    def test_retention_has_moved_the_inputs_start(self) -> None:
        of = work(begin=10)
        of.log_start = 10
        publish(of, (0, 10), (10, 30))
        found, left_out = judged(of)
        assert (found, sum(left_out.values())) == ({}, 10)

    def test_more_is_counted_than_retention_can_have_removed(self) -> None:
        of = work(bound(handled=41), begin=10)
        of.log_start = 10
        publish(of, (0, 10), (10, 30))
        assert judged(of)[0] == {Kind.COUNT: 1}

    def test_outputs_at_or_below_the_horizon(self) -> None:
        """In order per output partition: what came after the earliest survivor is still there."""
        of = work()
        for first in (0, 10, 20):
            for ordinal in range(1, 10):
                of.add(OUT, 0, first, first + 10, ordinal, 10, first + ordinal)
        found, left_out = judged(of, replace(WHOLE, horizon=10))
        assert found == {Kind.MISSING: 1}
        assert sum(left_out.values()) == 2

    def test_compacted_outputs(self) -> None:
        of = work()
        publish(of, (0, 10))
        found, left_out = judged(of, replace(WHOLE, horizon=ALWAYS))
        assert (found, sum(left_out.values())) == ({}, 20)

    def test_too_many_outputs_are_a_mismatch_even_there(self) -> None:
        of = work(bound(outputs=5))
        publish(of, (0, 10))
        assert judged(of, replace(WHOLE, horizon=ALWAYS))[0] == {Kind.COUNT: 1}

    def test_an_unknown_start(self) -> None:
        of = work(bound(handled=20, outputs=20))
        publish(of, (10, 30))
        found, left_out = judged(of, replace(WHOLE, start=None))
        assert (found, sum(left_out.values())) == ({}, 10)
        assert judged(of)[0] == {Kind.COUNT: 1}

    def test_a_gap_that_a_remedy_has_recorded(self) -> None:
        of = work(
            bound(handled=20, outputs=20, recorded=[recorded("skip", **{"from": 0, "to": 10})])
        )
        publish(of, (10, 30))
        found, left_out = judged(of)
        assert (found, sum(left_out.values())) == ({}, 10)

    def test_a_remedy_that_tells_no_range(self) -> None:
        of = work(bound(handled=25, outputs=25, recorded=[recorded("adopt")]))
        publish(of, (0, 30))
        found, left_out = judged(of)
        assert found == {}
        assert left_out == {"differences of counts after a recorded remedy (adopt)": 5}

    def test_a_range_does_not_compare_counters(self) -> None:
        of = work(bound(handled=7, outputs=3), begin=10, end=20)
        publish(of, (0, 10), (10, 20), (20, 30))
        assert judged(of, replace(WHOLE, whole=False)) == ({}, {})


class TestVerdict:
    def test_the_sentences(self) -> None:
        of = work()
        publish(of, (0, 30))
        sound = judge(of, WHOLE, ())
        assert verdict([sound], True) == (
            "both stores agree: 30 input records, 0 dead letters, 30 outputs,"
            " 0 missing, 0 duplicated",
            Exit.OK,
        )
        publish(of, (0, 1))
        broken = judge(of, WHOLE, ())
        said, code = verdict([sound, broken], True)
        assert said.startswith("the stores do not agree in 1 of 2 partitions: ")
        assert code is Exit.VERDICT
        assert verdict([], True) == ("nothing is known of this group", Exit.OK)

    def test_the_default_horizon_excuses_nothing(self) -> None:
        assert WHOLE.horizon == NEVER
