"""The states of owned partitions, and which moves there are."""

from __future__ import annotations

from itertools import product

import pytest

from processor.engine.batch import Partition
from processor.engine.partitions import MOVES, Owned, Partitions, State

FIRST, SECOND = Partition("input", 0), Partition("input", 1)


def owned(state: State) -> Owned:
    return Owned(FIRST, state=state)


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_only_the_moves_of_the_table_are_made(before: State, after: State) -> None:
    each = owned(before)
    if after in MOVES[before] or after is before:
        each.move(after)
        assert each.state is after
    else:
        with pytest.raises(AssertionError, match=f"{before} -> {after}"):
            each.move(after)
        assert each.state is before


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(State)


def test_messages_flow_only_after_recovery_or_a_wait_under_the_same_belief() -> None:
    into_running = {state for state, targets in MOVES.items() if State.RUNNING in targets}
    assert into_running == {State.RECOVERING, State.WAITING, State.BACKING_OFF}


def test_a_halt_is_left_only_through_recovery() -> None:
    assert MOVES[State.HALTED] == {State.RECOVERING}


def test_whatever_runs_can_come_into_doubt() -> None:
    for state in State:
        assert state is State.RECOVERING or State.RECOVERING in MOVES[state]


def test_a_move_tells_whether_anything_is_new() -> None:
    each = owned(State.RECOVERING)
    assert each.move(State.HALTED, "reason", "detail", "remedy")
    assert not each.move(State.HALTED, "reason", "another detail", "remedy")
    assert each.move(State.HALTED, "another reason")


def test_a_move_forgets_the_reason_of_the_last_one() -> None:
    each = owned(State.RECOVERING)
    each.move(State.WAITING, "reason", "detail", "remedy")
    each.move(State.RUNNING)
    report = each.report()
    assert (report.state, report.reason, report.detail, report.remedy) == (
        "running",
        None,
        None,
        None,
    )


def test_an_assignment_forgets_every_belief() -> None:
    partitions = Partitions()
    partitions.replace([FIRST])
    partitions.move(partitions[FIRST], State.RUNNING)
    partitions[FIRST].next_offset = 7
    partitions.replace([SECOND, FIRST])
    assert [each.partition for each in partitions] == [FIRST, SECOND]
    assert {each.state for each in partitions} == {State.RECOVERING}
    assert partitions[FIRST].next_offset == 0
    assert partitions[FIRST].row is None


def test_states_are_reported_once_each_and_in_order() -> None:
    partitions = Partitions()
    partitions.replace([SECOND, FIRST])
    assert [report.partition for report in partitions.take_reports()] == [FIRST, SECOND]
    assert partitions.take_reports() == []
    partitions.move(partitions[SECOND], State.RUNNING)
    partitions.move(partitions[SECOND], State.RUNNING)
    assert [report.state for report in partitions.take_reports()] == ["running"]


def test_a_partition_that_is_gone_is_not_reported() -> None:
    partitions = Partitions()
    partitions.replace([FIRST, SECOND])
    partitions.remove([FIRST, Partition("never", 0)])
    assert [report.partition for report in partitions.take_reports()] == [SECOND]
    assert len(partitions) == 1


def test_due_are_those_in_the_state_whose_time_has_come() -> None:
    partitions = Partitions()
    partitions.replace([FIRST, SECOND])
    partitions[FIRST].due = 5.0
    partitions[SECOND].due = 6.0
    assert [each.partition for each in partitions.due(5.0, State.RECOVERING)] == [FIRST]
    assert partitions.due(9.0, State.HALTED, State.WAITING) == []
