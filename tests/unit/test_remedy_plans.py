"""What each remedy makes of the facts, and when it refuses: no I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from processor.engine.batch import Committed, LogRange, Partition
from processor.engine.halts import REMEDIES, Halt, remedy
from processor.engine.recovery import (
    CommitOffset,
    HaltAt,
    Intent,
    Manifest,
    Republish,
    Resume,
    Row,
    decide,
    make_metadata,
)
from processor.errors import Refused
from processor.operations.remedies.adopt import plan_adopt
from processor.operations.remedies.discard import plan_discard
from processor.operations.remedies.published import doubtful
from processor.operations.remedies.recreated import plan_recreated
from processor.operations.remedies.replay.plan import Replay, plan_replay
from processor.operations.remedies.reset import plan_reset
from processor.operations.remedies.resolve import Published, plan_resolve
from processor.operations.remedies.restore import plan_restore
from processor.operations.remedies.skip import plan_skip
from processor.operations.remedies.values import Facts, Plan, unchanged
from tests.support.readings import FOREIGN, KNOWN, LINEAGE, READING, ROW, STALE, SYSTEM

LOG = LogRange(0, 20)
OUTBOX = (Manifest(4, 7, 2), Manifest(7, 10, 1))


def facts(
    k: int | None = 10,
    metadata: str | None = KNOWN,
    *,
    p: int = 10,
    outbox: tuple[Manifest, ...] = (),
    log: LogRange = LOG,
    row: Row | None = ROW,
    reason: str | None = None,
    **changes: Any,
) -> Facts:
    of_row = {name: changes.pop(name) for name in list(changes) if hasattr(ROW, name)}
    elsewhere = changes.pop("elsewhere", None)
    row = row and replace(row, published_offset=p, **of_row)
    reading = replace(
        READING, row=row, committed=Committed(k, metadata), outbox=outbox, log=log, **changes
    )
    return Facts(reading, 4, elsewhere, "halted", reason)


def after(before: Facts, plan: Plan) -> Facts:
    """What recovery reads once the plan is written: K has not moved yet."""
    row, change = before.row or before.reading.older or before.elsewhere or ROW, plan.change
    lineage = "new" if change.new_lineage or change.insert else row.lineage
    keeps = change.intent is None
    changed = replace(
        row,
        topic_id="topic-id",
        next_offset=change.next_offset,
        published_offset=change.published_offset,
        lineage=lineage,
        token="newer",
        tokens_in_k=(*row.tokens_in_k, "newer") if keeps else ("newer",),
        intent=change.intent,
        system_identifier=SYSTEM if change.take_server or change.insert else row.system_identifier,
    )
    outbox = before.reading.outbox if change.keep_outbox else ()
    for first, end in change.emptied:
        outside = [m for m in outbox if m.next <= first or m.first >= end]
        outbox = tuple(sorted([*outside, Manifest(first, end, 0)], key=lambda m: m.first))
    reading = replace(before.reading, row=changed, older=None, other_cluster=False, outbox=outbox)
    return replace(before, reading=reading)


def carried_out(before: Facts, plan: Plan) -> Facts:
    """After the owner has done row 7, and what recovery reads next."""
    planned = after(before, plan)
    decision = planned.decision
    assert isinstance(decision, CommitOffset), decision
    assert decision.intent == plan.change.intent
    row = planned.row
    assert row is not None
    committed = Committed(decision.offset, make_metadata(row.lineage, "newer"))
    raised = max(row.published_offset, decision.offset)
    row = replace(row, intent=None, published_offset=raised)
    return replace(planned, reading=replace(planned.reading, row=row, committed=committed))


def goes_on(before: Facts, plan: Plan, h: int) -> None:
    assert carried_out(before, plan).decision == Resume(h)


class TestAdopt:
    def test_k_of_a_tool_beyond_h_is_a_gap(self) -> None:
        before = facts(14, "")
        plan = plan_adopt(before)
        assert (plan.detail["from"], plan.detail["to"]) == (10, 14)
        goes_on(before, plan, 14)

    def test_k_of_a_tool_below_h_does_not_lower_it(self) -> None:
        before = facts(8, "", p=8, outbox=(Manifest(8, 10, 0),))
        plan = plan_adopt(before)
        assert "from" not in plan.detail
        goes_on(before, plan, 10)

    def test_outputs_that_kafka_may_lack_are_named(self) -> None:
        before = facts(8, "", p=4, outbox=OUTBOX)
        with pytest.raises(Refused, match=r"\[4, 7\) with 2 outputs, \[7, 10\) with 1 output"):
            plan_adopt(before)
        plan = plan_adopt(before, discard=True)
        assert plan.detail["discarded_outputs"] == [[4, 7, 2], [7, 10, 1]]
        goes_on(before, plan, 10)

    def test_k_beyond_the_log_is_refused(self) -> None:
        with pytest.raises(Refused, match="the log ends at 20"):
            plan_adopt(facts(30, ""))

    def test_another_server_keeps_k_lineage_and_outbox(self) -> None:
        before = facts(4, p=4, outbox=OUTBOX, system_identifier=1)
        before = replace(before, reading=replace(before.reading, system_identifier=SYSTEM))
        plan = plan_adopt(before)
        assert plan.change.intent is None
        assert after(before, plan).decision == Republish(4)

    def test_another_lineage_takes_a_new_one(self) -> None:
        before = facts(12, FOREIGN)
        plan = plan_adopt(before)
        assert plan.change.new_lineage
        goes_on(before, plan, 12)

    def test_another_cluster_needs_a_position_where_it_holds_none(self) -> None:
        before = facts(None, None, row=None, other_cluster=True, elsewhere=ROW)
        with pytest.raises(Refused, match="--at"):
            plan_adopt(before)
        goes_on(before, plan_adopt(before, at="5"), 5)
        goes_on(before, plan_adopt(before, at="latest"), 20)

    def test_a_partition_that_the_other_cluster_did_not_have(self) -> None:
        before = facts(None, None, row=None, topic_elsewhere=True)
        with pytest.raises(Refused, match="--at"):
            plan_adopt(before)
        plan = plan_adopt(before, at="earliest")
        goes_on(before, plan, 0)
        assert plan.change.supersedes == ()
        assert any("no such partition" in line for line in plan.says)

    def test_under_an_intent_that_somebody_crossed(self) -> None:
        before = facts(3, "", intent=Intent(10, 9, "x", "test"))
        goes_on(before, plan_adopt(before), 10)

    def test_before_the_first_start(self) -> None:
        before = facts(6, "", row=None)
        goes_on(before, plan_adopt(before), 6)

    @pytest.mark.parametrize("metadata", [KNOWN, STALE])
    def test_nothing_else_is_adopted(self, metadata: str) -> None:
        with pytest.raises(Refused, match="adopt is not for this"):
            plan_adopt(facts(10, metadata))


class TestRestore:
    def test_k_goes_back_to_h(self) -> None:
        before = facts(3, "")
        goes_on(before, plan_restore(before), 10)

    def test_outputs_or_a_hole_from_p_on_are_refused(self) -> None:
        for outbox in (OUTBOX, ()):
            with pytest.raises(Refused, match="resolve"):
                plan_restore(facts(3, "", p=4, outbox=outbox))


class TestReset:
    @pytest.mark.parametrize(("to", "offset"), [("0", 0), ("earliest", 0), ("latest", 20)])
    def test_anywhere_in_the_log(self, to: str, offset: int) -> None:
        before = facts()
        plan = plan_reset(before, to)
        assert plan.change.new_lineage
        assert plan.detail["old_lineage"] == LINEAGE
        assert ("from" in plan.detail) == (offset > 10)
        goes_on(before, plan, offset)

    def test_outside_the_log_is_refused(self) -> None:
        with pytest.raises(Refused, match=r"the log has \[2, 20\)"):
            plan_reset(facts(log=LogRange(2, 20)), "1")

    def test_outputs_that_are_not_published_are_not_dropped_in_silence(self) -> None:
        with pytest.raises(Refused, match="--discard-outputs"):
            plan_reset(facts(4, p=4, outbox=OUTBOX), "0")

    def test_published_ones_do_not_matter(self) -> None:
        before = facts(10, p=4, outbox=OUTBOX)
        goes_on(before, plan_reset(before, "0"), 0)


class TestSkip:
    def test_to_the_log_start(self) -> None:
        before = facts(log=LogRange(15, 20))
        plan = plan_skip(before)
        assert (plan.detail["from"], plan.detail["to"]) == (10, 15)
        goes_on(before, plan, 15)

    def test_to_the_end_of_a_truncated_log_with_a_new_lineage(self) -> None:
        before = facts(log=LogRange(0, 6))
        plan = plan_skip(before)
        assert plan.change.new_lineage
        goes_on(before, plan, 6)

    def test_a_cut_that_the_log_does_not_show_has_to_be_told(self) -> None:
        before = facts(reason="log-truncated")
        with pytest.raises(Refused, match="--to OFFSET"):
            plan_skip(before)
        goes_on(before, plan_skip(before, "8"), 8)

    def test_a_message_by_name_and_never_backwards(self) -> None:
        goes_on(facts(), plan_skip(facts(), "11"), 11)
        with pytest.raises(Refused, match="reset replays"):
            plan_skip(facts(), "9")
        with pytest.raises(Refused, match="nothing is lost"):
            plan_skip(facts())

    def test_not_while_outputs_wait(self) -> None:
        with pytest.raises(Refused, match="outputs"):
            plan_skip(facts(4, p=4, outbox=OUTBOX), "12")


class TestRecreated:
    OLDER = replace(ROW, topic_id="old", verified_offset=8)

    def older(self, **changes: Any) -> Facts:
        return facts(None, None, row=None, older=replace(self.OLDER, **changes))

    def test_the_new_topic_is_read_from_its_start_or_from_where_it_is_told(self) -> None:
        goes_on(self.older(), plan_recreated(self.older()), 0)
        goes_on(self.older(), plan_recreated(self.older(), "10"), 10)

    def test_it_tells_what_may_be_handled_twice(self) -> None:
        assert any("[8, 10)" in line for line in plan_recreated(self.older()).says)

    def test_outputs_of_the_old_one_are_given_up_by_name_only(self) -> None:
        before = self.older(published_offset=4)
        before = replace(before, reading=replace(before.reading, outbox=OUTBOX))
        with pytest.raises(Refused, match="--discard-outputs"):
            plan_recreated(before)
        assert "discarded_outputs" in plan_recreated(before, discard=True).detail


class TestResolve:
    UNKNOWN = facts(None, None, p=4, outbox=OUTBOX)

    @pytest.mark.parametrize(("up_to", "q"), [(None, 4), (7, 7), (10, 10)])
    def test_published_are_those_up_to_the_last_one_found(self, up_to: int | None, q: int) -> None:
        plan = plan_resolve(self.UNKNOWN, Published(up_to))
        assert plan.detail["published_to"] == q
        decision = carried_out(self.UNKNOWN, plan).decision
        assert decision == (Republish(q) if q < 10 else Resume(10))

    def test_not_found_proves_nothing_where_outputs_may_be_gone(self) -> None:
        with pytest.raises(Refused, match="output/0 is compacted"):
            plan_resolve(self.UNKNOWN, Published(7, 2, ("output/0 is compacted",)))
        assert plan_resolve(self.UNKNOWN, Published(10, 3, ("output/0 is compacted",)))

    def test_the_operators_word_has_to_lie_between_rows(self) -> None:
        assert plan_resolve(self.UNKNOWN, published_to=7).detail["by"] == "word"
        for offset in (3, 5, 11):
            with pytest.raises(Refused):
                plan_resolve(self.UNKNOWN, published_to=offset)

    def test_a_hole_in_what_is_left_to_publish_is_refused(self) -> None:
        damaged = facts(4, p=4, outbox=(Manifest(7, 10, 1),))
        with pytest.raises(Refused, match="no row that begins at 4"):
            plan_resolve(damaged, Published(None))
        assert plan_resolve(damaged, Published(7)).detail["published_to"] == 7

    def test_k_of_ours_needs_no_other_proof(self) -> None:
        """Of [K, H) nothing is published, whatever the topics hold; but it cannot be had either."""
        damaged = facts(4, p=4, outbox=(Manifest(4, 10, 1, "checksum"),))
        with pytest.raises(Refused, match="checksum"):
            plan_resolve(damaged, Published(None, 0, ("output/0 begins at 7",)))

    def test_outputs_beyond_h_are_of_a_lost_history(self) -> None:
        with pytest.raises(Refused, match="replay-effects"):
            plan_resolve(self.UNKNOWN, Published(12))


class TestDiscard:
    DAMAGED = facts(4, p=4, outbox=(Manifest(4, 7, 2, "checksum is wrong"), Manifest(7, 10, 1)))

    def test_a_row_by_its_first_offset(self) -> None:
        plan = plan_discard(self.DAMAGED, 4)
        assert (plan.detail["first"], plan.detail["next"], plan.detail["outputs"]) == (4, 7, 2)
        assert after(self.DAMAGED, plan).decision == Republish(4)

    def test_a_range_that_has_no_row(self) -> None:
        before = facts(4, p=4, outbox=(Manifest(7, 10, 1),))
        with pytest.raises(Refused, match="--to"):
            plan_discard(before, 4)
        assert after(before, plan_discard(before, 4, 7)).decision == Republish(4)

    @pytest.mark.parametrize(("first", "end"), [(4, 8), (5, 7), (2, 7), (7, 12)])
    def test_no_half_row_and_nothing_outside(self, first: int, end: int) -> None:
        with pytest.raises(Refused):
            plan_discard(self.DAMAGED, first, end)


class TestReplay:
    def test_from_h_to_k(self) -> None:
        plan = plan_replay(facts(15, STALE))
        assert plan == Replay(10, 15, LINEAGE, None)

    def test_a_later_start_is_a_recorded_gap_and_an_earlier_one_is_h(self) -> None:
        plan = plan_replay(facts(15, STALE), 12)
        assert isinstance(plan, Replay)
        assert plan.left_out == (10, 12)
        assert (plan.detail["from"], plan.detail["to"]) == (10, 12)
        again = plan_replay(facts(15, STALE), 0)
        assert isinstance(again, Replay)
        assert (again.start, again.left_out) == (10, None)

    def test_without_a_row_the_start_has_to_be_told(self) -> None:
        with pytest.raises(Refused, match="--from"):
            plan_replay(facts(15, STALE, row=None))
        plan = plan_replay(facts(15, FOREIGN, row=None), 3)
        assert plan == Replay(3, 15, "another-lineage", None)

    def test_what_the_log_has_lost_cannot_be_handled(self) -> None:
        with pytest.raises(Refused, match="--from 12"):
            plan_replay(facts(15, STALE, log=LogRange(12, 20)))
        with pytest.raises(Refused, match="the log ends at 14"):
            plan_replay(facts(15, STALE, log=LogRange(0, 14)))

    @pytest.mark.parametrize("k", [4, 10])
    def test_a_lost_token_alone_needs_no_handler(self, k: int) -> None:
        before = facts(k, STALE, p=4, outbox=OUTBOX)
        plan = plan_replay(before)
        assert isinstance(plan, Plan)
        decision = carried_out(before, plan).decision
        assert decision == (Resume(10) if k == 10 else Republish(4))


def test_a_change_is_undone_by_nobody_who_moves_k_meanwhile() -> None:
    """Then the next halt says so, instead of a wrong K."""
    before = facts(14, "")
    planned = after(before, plan_adopt(before))
    moved = replace(planned, reading=replace(planned.reading, committed=Committed(15, "")))
    decision = moved.decision
    assert isinstance(decision, HaltAt)
    assert decision.reason is Halt.FOREIGN_OFFSETS


def test_anything_left_of_a_partition_shows_what_retention_has_not_taken() -> None:
    incomplete = {
        ("o", 0): "o/0 begins at 5",
        ("o", 1): "o/1 begins at 9",
        ("c", 0): "c/0 is compacted",
    }
    assert doubtful(incomplete, [("o", 0), ("c", 0)]) == ["o/1 begins at 9", "c/0 is compacted"]


@pytest.mark.parametrize("halt", Halt)
def test_a_remedy_can_be_pasted(halt: Halt) -> None:
    told = remedy(halt, "shop.pipeline:pipeline", Partition("events", 3))
    assert "shop.pipeline:pipeline --partition events/3" in told
    assert "{" not in told
    assert halt in REMEDIES


def test_facts_decide_as_recovery_does() -> None:
    assert facts().decision == decide(READING)


class TestUnchanged:
    def test_what_is_of_no_row_and_no_offset_may_change(self) -> None:
        unchanged(facts(), facts(log=LogRange(3, 40), reason="another"))

    @pytest.mark.parametrize(
        "now",
        [
            facts(11),
            facts(metadata=FOREIGN),
            facts(token="of the next owner"),
            facts(next_offset=12),
            facts(row=None),
        ],
        ids=["K", "its metadata", "token", "H", "no row"],
    )
    def test_another_row_or_another_k_is_refused(self, now: Facts) -> None:
        with pytest.raises(Refused, match="input/0 has moved meanwhile"):
            unchanged(facts(), now)
