"""Partitions take turns, and each one's messages stay in order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from processor.engine.backlog import TURN_SECONDS, Backlog
from processor.engine.batch import Partition, Slice

ONE = 50e-6
"""What a message takes."""
TURN = round(TURN_SECONDS / ONE)
PLENTY = 3_600.0


class Raw:
    def __init__(self, at: int) -> None:
        self.at = at

    def offset(self) -> int:
        return self.at

    def leader_epoch(self) -> int:
        return 7


def take(backlog: Backlog, room: int, seconds: float = PLENTY, **each: float) -> list[Slice]:
    """:param each: of a partition whose messages take another time, by its number: ``p0``."""
    return backlog.take(room, seconds, lambda partition: each.get(f"p{partition.number}", ONE))


def piece(number: int, first: int, count: int) -> Slice:
    return Slice(Partition("t", number), first, [Raw(first + n) for n in range(count)])


def told(taken: list[Slice]) -> list[tuple[int, int, int]]:
    """Of each: its partition's number, where it begins, how many it has."""
    for each in taken:
        found = [message.offset() for message in each.messages]
        assert found == list(range(each.first, each.first + len(found)))
    return [(each.partition.number, each.first, len(each.messages)) for each in taken]


def filled(*counts: int) -> Backlog:
    backlog = Backlog()
    for number, count in enumerate(counts):
        backlog.add(piece(number, 0, count))
    return backlog


def test_each_partition_has_an_equal_part() -> None:
    backlog = filled(1_000, 1_000, 1_000)
    assert told(take(backlog, 600)) == [(0, 0, 200), (1, 0, 200), (2, 0, 200)]
    assert len(backlog) == 2_400


def test_what_some_do_not_need_is_for_those_that_have_more() -> None:
    backlog = filled(1_000, 10, 1_000)
    assert told(take(backlog, 600)) == [(0, 0, 300), (1, 0, 10), (2, 0, 290)]


def test_a_few_messages_do_not_wait_behind_many() -> None:
    backlog = filled(100_000)
    take(backlog, 500)
    backlog.add(piece(1, 7, 3))
    assert (1, 7, 3) in told(take(backlog, 500))


def test_each_partition_has_as_much_time() -> None:
    backlog = filled(1_000, 1_000, 1_000)
    assert told(take(backlog, 600, p1=200 * ONE)) == [(0, 0, 300), (1, 0, 1), (2, 0, 299)]


def test_a_slow_message_has_its_turn_like_any_other() -> None:
    backlog = filled(100, 100, 100)
    assert [count for _, _, count in told(take(backlog, 300, p0=7.0, seconds=1.0))] == [1]
    assert [number for number, _, _ in told(take(backlog, 300, p0=7.0, seconds=1.0))][:2] == [1, 2]


def test_a_batch_is_bounded_by_the_time_that_it_seems_to_take() -> None:
    backlog = filled(1_000, 1_000)
    assert told(take(backlog, 2_000, seconds=400 * ONE)) == [(0, 0, 200), (1, 0, 200)]


def test_what_is_let_go_is_behind_what_is_kept() -> None:
    backlog = filled(10, 10)
    assert backlog.cut(Partition("t", 0), 4) == (4, 7)
    assert (len(backlog), backlog.of(Partition("t", 0))) == (14, 4)
    assert told(take(backlog, 100)) == [(0, 0, 4), (1, 0, 10)]


def test_of_many_partitions_some_have_their_turn_and_then_the_others() -> None:
    backlog = filled(*[300] * 10)
    turns = [told(take(backlog, 2 * TURN)) for _ in range(5)]
    assert [number for turn in turns for number, _, _ in turn] == list(range(10))
    assert told(take(backlog, TURN)) == [(0, TURN, TURN)]


def test_whoever_has_waited_in_vain_is_next() -> None:
    backlog = filled(300, 300, 300)
    first, second = take(backlog, 200)
    backlog.put_back(second, has_waited=True)
    backlog.put_back(Slice(first.partition, 50, first.messages[50:]), has_waited=False)
    assert told(take(backlog, 300)) == [(1, 0, 100), (2, 0, 100), (0, 50, 100)]


def test_what_is_put_back_last_comes_first() -> None:
    backlog = filled(600)
    [first], [second] = take(backlog, 100), take(backlog, 100)
    backlog.put_back(second, has_waited=True)
    backlog.put_back(first, has_waited=True)
    assert told(take(backlog, 1_000)) == [(0, 0, 600)]


def test_dropped_is_gone() -> None:
    backlog = filled(5, 6)
    backlog.drop([Partition("t", 0), Partition("t", 9)])
    assert (len(backlog), backlog.of(Partition("t", 0)), backlog.of(Partition("t", 1))) == (6, 0, 6)
    backlog.clear()
    assert told(take(backlog, 10)) == []
    assert not backlog


class Walk(RuleBasedStateMachine):
    """Whatever is done: of each partition the next message comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.added = [0, 0, 0]
        self.done = [0, 0, 0]

    @rule(number=st.integers(0, 2), count=st.integers(1, 400))
    def add(self, number: int, count: int) -> None:
        self.backlog.add(piece(number, self.added[number], count))
        self.added[number] += count

    @rule(room=st.integers(1, 700), kept=st.lists(st.integers(0, 300), min_size=3, max_size=3))
    def take(self, room: int, kept: list[int]) -> None:
        taken = take(self.backlog, room)
        assert sum(len(each.messages) for each in taken) <= room
        for each, keeps in zip(reversed(taken), kept, strict=False):
            number = each.partition.number
            assert each.first == self.done[number]
            rest: list[Any] = each.messages[keeps:]
            self.done[number] += min(keeps, len(each.messages))
            if rest:
                back = Slice(each.partition, self.done[number], rest)
                self.backlog.put_back(back, has_waited=not keeps)

    @rule(number=st.integers(0, 2))
    def drop(self, number: int) -> None:
        self.backlog.drop([Partition("t", number)])
        self.added[number] = self.done[number]

    @invariant()
    def nothing_is_lost(self) -> None:
        left = [a - d for a, d in zip(self.added, self.done, strict=True)]
        assert [self.backlog.of(Partition("t", n)) for n in range(3)] == left
        assert len(self.backlog) == sum(left)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=30)
