"""What the consumer passes on, and what it drops."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any
from unittest.mock import ANY

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from processor.engine.batch import Partition, Slice
from processor.engine.consumer import Consumer, Fetched
from processor.engine.failures import Doubt, MemberFenced
from processor.engine.pace import BATCHES_AHEAD, ENOUGH_MESSAGES
from tests.support.clocks import ManualClock
from tests.support.engine import free_steps, in_hand
from tests.support.messages import Raw, end_of_file, event
from tests.support.scripted_consumer import ScriptedConsumer

FIRST, SECOND = Partition("input", 0), Partition("input", 1)


class Clients:
    """Hands out the scripted client."""

    def __init__(self, client: ScriptedConsumer, incremental: bool) -> None:
        self.client = client
        self.incremental = incremental

    def consumer(self, on_error: Any) -> ScriptedConsumer:
        self.on_error = on_error
        return self.client


class Listener:
    """Writes down what it is told, and what the consumer knew at that moment."""

    def __init__(self) -> None:
        self.told: list[tuple[str, set[Partition]]] = []
        self.consumer: Any = None
        self.snapshots: list[object] = []

    def assigned(self, partitions: Collection[Partition]) -> None:
        self.told.append(("assigned", set(partitions)))
        self.snapshots.append(self.consumer.snapshot)

    def revoked(self, partitions: Collection[Partition]) -> None:
        self.told.append(("revoked", set(partitions)))
        self.snapshots.append(self.consumer.snapshot)

    def lost(self, partitions: Collection[Partition]) -> None:
        self.told.append(("lost", set(partitions)))
        self.snapshots.append(self.consumer.snapshot)


class Bench:
    """A consumer over a script; ``start`` assigns both partitions and lets them flow."""

    def __init__(
        self, *, incremental: bool = True, max_messages: int = 100, max_bytes: int = 10**9
    ) -> None:
        self.client = ScriptedConsumer()
        self.clock = ManualClock()
        self.clients: Any = Clients(self.client, incremental)
        self.listener = Listener()
        self.consumer = Consumer(
            self.clients,
            ["input"],
            self.listener,
            in_hand(max_messages, max_bytes, self.clock),
            free_steps(),
            self.clock,
        )
        self.listener.consumer = self.consumer
        self.consumer.subscribe()

    def fetch(self, *turns: Any) -> Fetched:
        self.client.turns = list(turns)
        self.clock.sleep(1.0)
        return self.consumer.fetch(0.1)

    def start(self, **at: int) -> Bench:
        self.fetch(self.client.assigns(0, 1))
        self.consumer.start({FIRST: (at.get("first", 0), 5), SECOND: (at.get("second", 0), None)})
        return self


@pytest.fixture
def bench() -> Bench:
    return Bench().start()


def messages(*offsets: int, of: Partition = FIRST) -> list[Raw]:
    return [Raw(offset, b"v", of) for offset in offsets]


def brought(fetched: Fetched) -> list[tuple[Partition, int, list[int]]]:
    return [(each.partition, each.first, [m.at for m in each.messages]) for each in fetched.slices]


# Assignment


def test_an_assignment_flows_only_once_it_was_started(bench: Bench) -> None:
    new = Bench()
    new.fetch(new.client.assigns(0, 1))
    assert new.client.fetched == set()
    assert brought(new.fetch(messages(0), messages(0, of=SECOND))) == []
    new.consumer.start({SECOND: (3, None)})
    assert new.client.fetched == {SECOND}
    fetched = new.fetch(messages(0), messages(3, of=SECOND))
    assert brought(fetched) == [(SECOND, 3, [3])]
    assert fetched.doubtful == {}, "what does not flow is dropped, not doubted"


def test_a_partition_is_placed_where_it_starts(bench: Bench) -> None:
    assert bench.client.placed[:2] == [("input", 0, 0, 5), ("input", 1, 0, None)]
    assert bench.client.paused == set()


def test_leader_epochs_are_compared_by_a_seek_because_an_assignment_does_not() -> None:
    bench = Bench(incremental=False)
    bench.fetch(bench.client.assigns(0, 1))
    bench.consumer.start({FIRST: (3, 5)})
    assert bench.client.placed == [("input", 0, 3, 5), ("input", 0, 3, 5)]
    bench.consumer.start({SECOND: (7, None)})
    assert bench.client.placed[-1] == ("input", 0, 3, 5), "of what flows already, too"
    bench.fetch(messages(3), messages(4))
    bench.consumer.hold([SECOND])
    bench.client.fetched.discard(SECOND)
    bench.consumer._placing._fetched.discard(SECOND)
    bench.consumer.start({SECOND: (7, None)})
    assert bench.client.placed[-1] == ("input", 0, 5, messages(4)[0].leader_epoch())


def test_a_client_that_does_not_begin_with_a_partition_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("processor.engine.placing.VALIDATE_PAUSE_SECONDS", 0.0)
    bench = Bench(incremental=False)
    bench.fetch(bench.client.assigns(0))
    bench.client.refused = KafkaException(KafkaError(KafkaError._STATE))
    with pytest.raises(Doubt, match="does not begin with input/0"):
        bench.consumer.start({FIRST: (3, 5)})


def test_the_group_is_not_answered_outside_of_its_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty incremental_unassign would answer a revocation that this process has not seen."""
    bench = Bench(incremental=True)
    bench.fetch(bench.client.assigns(0, 1))
    unassigned: list[Any] = []
    monkeypatch.setattr(bench.client, "incremental_unassign", unassigned.append)
    bench.consumer.start({FIRST: (3, None)})
    assert unassigned == []


def test_no_logical_offset_is_ever_given_to_the_client() -> None:
    """librdkafka would look it up, and go there behind a seek."""
    bench = Bench(incremental=False).start(first=3)
    bench.consumer.hold([FIRST])
    bench.consumer.start({FIRST: (1, None)})
    bench.fetch(bench.client.assigns(0))
    bench.consumer.start({FIRST: (2, None)})
    assert {offset for _, _, offset, _ in bench.client.placed} == {0, 1, 2, 3}


def test_a_whole_assignment_leaves_what_flows_where_it_is() -> None:
    bench = Bench(incremental=False)
    bench.fetch(bench.client.assigns(0, 1))
    bench.consumer.start({FIRST: (3, None)})
    bench.fetch(messages(3), messages(4))
    bench.consumer.start({SECOND: (7, None)})
    assert ("input", 1, 7, None) in bench.client.placed
    assert brought(bench.fetch(messages(5), messages(7, of=SECOND))) == [
        (FIRST, 5, [5]),
        (SECOND, 7, [7]),
    ]


def test_what_is_held_leaves_a_whole_assignment_and_comes_back() -> None:
    bench = Bench(incremental=False)
    bench.fetch(bench.client.assigns(0, 1))
    bench.consumer.start({FIRST: (3, None)})
    bench.consumer.hold([FIRST])
    bench.consumer.start({SECOND: (7, None)})
    assert bench.client.fetched == {SECOND}
    bench.consumer.start({FIRST: (3, None)})
    assert bench.client.fetched == {FIRST, SECOND}
    assert bench.client.paused == set()


@pytest.mark.parametrize("incremental", [True, False])
def test_what_was_held_and_what_is_new_start_together(incremental: bool) -> None:
    bench = Bench(incremental=incremental)
    bench.fetch(bench.client.assigns(0, 1))
    bench.consumer.start({FIRST: (3, None)})
    bench.consumer.hold([FIRST])
    bench.consumer.start({FIRST: (3, 5), SECOND: (7, None)})
    assert bench.client.fetched == {FIRST, SECOND}
    assert bench.client.paused == set()
    assert ("input", 0, 3, 5) in bench.client.placed


@pytest.mark.parametrize("incremental", [True, False])
def test_nothing_flows_that_the_client_would_not_seek(incremental: bool) -> None:
    bench = Bench(incremental=incremental).start()
    bench.consumer.hold([FIRST])
    bench.client.refused = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    with pytest.raises(Doubt, match="seek"):
        bench.consumer.start({FIRST: (3, None)})
    assert bench.client.paused == {FIRST}
    assert brought(bench.fetch(messages(3))) == []


@pytest.mark.parametrize("incremental", [True, False])
def test_a_partition_that_the_client_has_given_up_is_assigned_anew(incremental: bool) -> None:
    bench = Bench(incremental=incremental).start()
    bench.consumer.hold([FIRST])
    bench.client.refused = KafkaException(KafkaError(KafkaError._STATE))
    bench.consumer.start({FIRST: (3, None)})
    assert ("input", 0, 3, None) in bench.client.placed
    assert bench.client.fetched == {FIRST, SECOND}
    assert brought(bench.fetch(messages(3))) == [(FIRST, 3, [3])]


@pytest.mark.parametrize("turn", ["assigns", "revokes", "loses"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_change_in_the_middle_of_a_fetch_drops_everything(turn: str, place: int) -> None:
    bench = Bench().start()
    numbers = [] if turn == "assigns" else [1]
    change = getattr(bench.client, turn)(*numbers, then=[*messages(1)])
    turns: list[Any] = [messages(0), change] if place else [change, messages(2)]
    assert brought(bench.fetch(*turns)) == []
    assert brought(bench.fetch(messages(2))) == [], "until it is sought to H again"
    assert FIRST in bench.client.paused or FIRST not in bench.client.fetched
    bench.consumer.start({FIRST: (0, None)})
    assert brought(bench.fetch(messages(0), messages(1))) == [(FIRST, 0, [0, 1])]


def test_a_change_drops_what_was_said_of_the_assignment_before(bench: Bench) -> None:
    lost_position = event(KafkaError._AUTO_OFFSET_RESET, of=SECOND)
    fetched = bench.fetch(bench.client.revokes(1, then=[lost_position]))
    assert (fetched.doubtful, fetched.truncated) == ({}, set())


def test_a_change_drops_what_a_batch_had_no_room_for(bench: Bench) -> None:
    bench.fetch(messages(0), messages(1, 2))
    bench.consumer.give_back(Slice(FIRST, 1, messages(1, 2)))
    bench.client._call("on_revoke", [1], ())
    assert brought(bench.fetch()) == []


def test_a_revoked_partition_is_gone_and_the_others_are_paused(bench: Bench) -> None:
    bench.fetch(bench.client.revokes(1))
    assert bench.consumer.owned == {FIRST}
    assert FIRST in bench.client.paused
    assert bench.listener.told[-1] == ("revoked", {SECOND})


def test_a_lost_partition_is_told_apart_from_a_revoked_one(bench: Bench) -> None:
    bench.fetch(bench.client.loses(0, 1))
    assert bench.consumer.owned == set()
    assert bench.listener.told[-1] == ("lost", {FIRST, SECOND})


def test_assignments_add_up_where_they_come_by_difference() -> None:
    bench = Bench()
    bench.fetch(bench.client.assigns(0))
    bench.fetch(bench.client.assigns(1))
    assert bench.consumer.owned == {FIRST, SECOND}
    assert bench.listener.told[-1] == ("assigned", {FIRST, SECOND})


def test_assignments_replace_each_other_where_they_come_whole() -> None:
    bench = Bench(incremental=False)
    bench.fetch(bench.client.assigns(0))
    bench.fetch(bench.client.assigns(1))
    assert bench.consumer.owned == {SECOND}
    bench.consumer.start({SECOND: (0, None)})
    assert bench.client.fetched == {SECOND}


def test_the_snapshot_is_taken_in_each_assignment_and_nowhere_else(bench: Bench) -> None:
    """The client refuses to give metadata outside of a callback."""
    assert bench.consumer.snapshot == "generation 1"
    bench.fetch(messages(0))
    bench.fetch(bench.client.revokes(1))
    assert bench.consumer.snapshot == "generation 1", "a revocation is finished under the old one"
    assert bench.listener.snapshots[-1] == "generation 1"
    bench.fetch(bench.client.assigns())
    assert bench.consumer.snapshot == "generation 3", "an empty assignment renews it, too"
    assert bench.listener.snapshots[-1] == "generation 3", "before recovery hears of it"
    assert bench.client.snapshots == 2


# Offsets


def test_slices_begin_at_the_position_and_not_at_the_first_message(bench: Bench) -> None:
    assert brought(bench.fetch(messages(4), messages(7))) == [(FIRST, 0, [4, 7])]
    assert brought(bench.fetch(messages(9))) == [(FIRST, 8, [9])]


def test_partitions_are_sorted_apart(bench: Bench) -> None:
    mixed = [*messages(0), *messages(0, of=SECOND), *messages(1), *messages(1, of=SECOND)]
    assert brought(bench.fetch(mixed[:1], mixed[1:])) == [(FIRST, 0, [0, 1]), (SECOND, 0, [0, 1])]


@pytest.mark.parametrize("offsets", [[5, 5], [6, 5], [5, 6, 6], [5, 7, 6]])
def test_offsets_that_go_back_are_doubtful_and_dropped(bench: Bench, offsets: list[int]) -> None:
    fetched = bench.fetch(messages(offsets[0]), messages(*offsets[1:]))
    assert fetched.slices == []
    assert set(fetched.doubtful) == {FIRST}


def test_a_message_before_the_position_is_doubtful(bench: Bench) -> None:
    bench.fetch(messages(5))
    fetched = bench.fetch(messages(5), [*messages(0, of=SECOND)])
    assert set(fetched.doubtful) == {FIRST}
    assert brought(fetched) == [(SECOND, 0, [0])], "the other partition is not concerned"


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(0, 8))
def test_a_slice_is_strictly_rising_from_its_position(offsets: list[int], position: int) -> None:
    bench = Bench().start(first=position)
    fetched = bench.fetch(messages(offsets[0]), messages(*offsets[1:]))
    rising = all(a < b for a, b in pairwise([position - 1, *offsets]))
    assert (FIRST in fetched.doubtful) == (not rising)
    assert brought(fetched) == ([(FIRST, position, offsets)] if rising else [])


def test_a_lost_position_is_doubtful(bench: Bench) -> None:
    fetched = bench.fetch([event(KafkaError._AUTO_OFFSET_RESET, of=FIRST)], messages(0))
    assert set(fetched.doubtful) == {FIRST}
    assert fetched.slices == []
    assert fetched.truncated == set()


def test_a_log_that_does_not_fit_the_leader_epoch_is_told_apart(bench: Bench) -> None:
    fetched = bench.fetch([event(KafkaError._LOG_TRUNCATION, of=FIRST)])
    assert fetched.truncated == {FIRST}
    assert set(fetched.doubtful) == {FIRST}


def test_other_errors_of_a_partition_are_a_doubt(bench: Bench) -> None:
    """Else it would stand still and be called running."""
    fetched = bench.fetch([event(KafkaError.TOPIC_AUTHORIZATION_FAILED, of=FIRST)])
    assert set(fetched.doubtful) == {FIRST}
    assert "TOPIC_AUTHORIZATION_FAILED" in (bench.consumer.last_error or "")


def test_a_replaced_member_is_told_at_once(bench: Bench) -> None:
    with pytest.raises(MemberFenced):
        bench.fetch([event(KafkaError.FENCED_INSTANCE_ID, of=(None, None))])
    with pytest.raises(MemberFenced):
        bench.clients.on_error(KafkaError(KafkaError._FENCED))


def test_a_client_that_is_dead_is_told_at_once(bench: Bench) -> None:
    """This is how a fenced static member looks: code _FATAL, not marked fatal, of no topic."""
    with pytest.raises(MemberFenced):
        bench.fetch([event(KafkaError._FATAL, of=(None, 0))])


def test_an_error_that_passes_is_kept_for_the_status(bench: Bench) -> None:
    bench.clients.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert "_ALL_BROKERS_DOWN" in (bench.consumer.last_error or "")


# Holding, giving back, room


def test_a_held_partition_is_dropped_until_it_is_started_again(bench: Bench) -> None:
    bench.fetch(messages(0))
    bench.consumer.hold([FIRST])
    assert bench.client.paused == {FIRST}
    late = bench.fetch(messages(1), messages(2, of=SECOND))
    assert brought(late) == [(SECOND, 0, [2])]
    bench.consumer.start({FIRST: (0, None)})
    assert bench.client.placed[-1][:3] == ("input", 0, 0)
    assert brought(bench.fetch(messages(0))) == [(FIRST, 0, [0])]


def test_holding_drops_what_was_given_back(bench: Bench) -> None:
    bench.fetch(messages(0), messages(1, 2))
    bench.consumer.give_back(Slice(FIRST, 1, messages(1, 2)))
    bench.consumer.give_back(Slice(SECOND, 0, messages(0, of=SECOND)))
    bench.consumer.hold([FIRST])
    assert brought(bench.fetch()) == [(SECOND, 0, [0])]


def test_holding_what_is_not_ours_any_more_does_nothing(bench: Bench) -> None:
    bench.fetch(bench.client.revokes(1))
    bench.consumer.hold([SECOND, Partition("input", 7)])


def test_what_was_given_back_comes_first_and_once(bench: Bench) -> None:
    bench.fetch(messages(0), messages(1, 2))
    bench.consumer.give_back(Slice(FIRST, 1, messages(1, 2)))
    assert brought(bench.fetch([])) == [(FIRST, 1, [1, 2])]
    assert brought(bench.fetch(messages(3))) == [(FIRST, 3, [3])]


def test_the_group_hears_of_us_while_messages_are_given_back(bench: Bench) -> None:
    """And what comes meanwhile goes behind them."""
    bench.fetch(messages(0), messages(1, 2))
    bench.consumer.give_back(Slice(FIRST, 1, messages(1, 2)))
    bench.client.asked.clear()
    assert brought(bench.fetch(messages(3))) == [(FIRST, 1, [1, 2, 3])]
    assert bench.client.asked[0] == (1, 0), "without waiting"


def test_what_was_given_back_is_dropped_when_what_follows_is_doubtful(bench: Bench) -> None:
    bench.fetch(messages(0), messages(1, 2))
    bench.consumer.give_back(Slice(FIRST, 1, messages(1, 2)))
    bench.consumer.give_back(Slice(SECOND, 0, messages(0, of=SECOND)))
    fetched = bench.fetch(messages(2))
    assert set(fetched.doubtful) == {FIRST}
    assert brought(fetched) == [(SECOND, 0, [0])]


def test_only_the_first_message_is_waited_for(bench: Bench) -> None:
    bench.client.asked.clear()
    bench.fetch(messages(0), messages(1))
    assert bench.client.asked == [(1, 0.1), (BATCHES_AHEAD * 100 - 1, 0)]
    bench.client.asked.clear()
    bench.fetch()
    assert bench.client.asked == [(1, 0.1)]


def test_a_batch_is_bounded_by_count(bench: Bench) -> None:
    one = Bench(max_messages=1).start()
    one.client.asked.clear()
    assert brought(one.fetch(messages(0), messages(1, 2, 3))) == [(FIRST, 0, [0])]
    assert one.client.asked == [(1, 0.1), (2 * ENOUGH_MESSAGES - 1, 0)]
    assert brought(one.fetch()) == [(FIRST, 1, [1])]


def test_no_more_is_taken_from_the_client_than_some_batches_have(bench: Bench) -> None:
    first = [messages(0), messages(*range(1, BATCHES_AHEAD * 100))]
    assert brought(bench.fetch(*first)) == [(FIRST, 0, list(range(100)))]
    bench.client.asked.clear()
    bench.fetch(messages(BATCHES_AHEAD * 100), [])
    assert bench.client.asked == [(1, 0), (99, 0)], "the group hears of us all the same"


def test_a_batch_is_bounded_by_the_bytes_that_messages_seem_to_have() -> None:
    bench = Bench(max_messages=10_000, max_bytes=1_000_000).start()
    room = []
    for offset in range(30):
        bench.client.asked.clear()
        bench.fetch([Raw(offset, b"x" * 100_000, FIRST)])
        room.append((bench.client.asked[-1][0] + 1) // BATCHES_AHEAD)
    assert room[0] == 1_000
    assert 8 <= room[-1] <= 12
    assert room == sorted(room, reverse=True)


# A partition of which there is enough


def parked() -> Bench:
    """A message of the first partition takes 0.2 s: 20 are enough, 7 are few."""
    bench = Bench(max_messages=10).start()
    bench.consumer.handled(FIRST, 10, 2.0)
    found = bench.fetch(messages(0), messages(*range(1, 40)))
    assert brought(found) == [(FIRST, 0, list(range(10)))]
    return bench


def test_it_is_fetched_no_further_and_the_others_are() -> None:
    bench = parked()
    assert bench.client.paused == {FIRST}
    found = [*brought(bench.fetch(messages(0, of=SECOND))), *brought(bench.fetch())]
    assert found == [(FIRST, 10, ANY), (SECOND, 0, [0]), (FIRST, ANY, ANY)]


def test_it_goes_on_behind_what_was_kept_when_little_is_left() -> None:
    bench, at = parked(), 10
    while FIRST in bench.client.paused:
        at += sum(len(offsets) for _, _, offsets in brought(bench.fetch()))
    assert bench.client.placed[-1][:3] == ("input", 0, 20), "as many as are enough were kept"
    assert at == 20
    assert brought(bench.fetch(messages(20))) == [(FIRST, 20, [20])]


def test_what_the_client_still_hands_over_meanwhile_is_dropped() -> None:
    """It lies behind what was let go; it is fetched again with that."""
    bench, at = parked(), 10
    while FIRST in bench.client.paused:
        found = brought(bench.fetch(messages(40), [*messages(41), end_of_file(42)]))
        assert all(first == at for _, first, _ in found)
        at += sum(len(offsets) for _, _, offsets in found)
        assert ends(bench, at) is None
    assert at == 20
    assert ends(bench, at) is None


def test_what_is_done_in_no_time_is_never_enough() -> None:
    bench, at = Bench(max_messages=10).start(), 0
    while at < 2_000:
        count = min(60, bench.consumer._in_hand.wanted)
        more = messages(*range(at, at + count))
        for partition, _, offsets in brought(bench.fetch(more[:1], more[1:])):
            bench.consumer.handled(partition, len(offsets), 0.001)
        at += count
    assert not bench.client.paused


def test_one_that_the_client_does_not_take_again_is_doubtful_with_all_there_is_of_it() -> None:
    bench = parked()
    bench.client.refused = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    while not (found := bench.fetch()).doubtful:
        assert FIRST in bench.client.paused
    assert set(found.doubtful) == {FIRST}
    assert brought(found) == []
    assert brought(bench.fetch(messages(20))) == []


@pytest.mark.parametrize("change", ["hold", "revoke"])
def test_it_is_forgotten_with_what_there_was_of_it(change: str) -> None:
    bench = parked()
    if change == "hold":
        bench.consumer.hold([FIRST])
    else:
        bench.fetch(bench.client.revokes(1))
    bench.consumer.start({FIRST: (10, None)})
    assert FIRST not in bench.client.paused
    assert brought(bench.fetch(messages(10))) == [(FIRST, 10, [10])]


# The end of the log


def ends(bench: Bench, next_offset: int) -> int | None:
    return bench.consumer.idle_end(FIRST, next_offset)


def test_the_end_is_known_once_a_fetch_from_h_has_reached_it(bench: Bench) -> None:
    assert ends(bench, 0) is None
    bench.fetch([end_of_file(4)])
    assert ends(bench, 0) == 4


def test_an_end_that_h_has_reached_moves_nothing(bench: Bench) -> None:
    bench.fetch([end_of_file(0)])
    assert ends(bench, 0) is None


def test_the_end_past_control_records_is_reached_after_the_last_message(bench: Bench) -> None:
    bench.fetch([*messages(0)], [*messages(1), end_of_file(3)])
    assert ends(bench, 0) is None, "messages are in hand"
    assert ends(bench, 2) == 3


def test_a_later_message_takes_the_end_back(bench: Bench) -> None:
    bench.fetch([end_of_file(4)])
    bench.fetch(messages(4))
    assert ends(bench, 0) is None
    assert ends(bench, 5) is None
    bench.fetch([end_of_file(6)])
    assert ends(bench, 5) == 6


def test_an_end_before_the_position_is_an_old_one(bench: Bench) -> None:
    bench.fetch(messages(4))
    bench.fetch([end_of_file(3)])
    assert ends(bench, 5) is None


def test_a_seek_forgets_the_end(bench: Bench) -> None:
    bench.fetch([end_of_file(4)])
    bench.consumer.hold([FIRST])
    assert ends(bench, 0) is None
    bench.consumer.start({FIRST: (0, None)})
    assert ends(bench, 0) is None


def test_an_end_of_what_does_not_flow_is_none(bench: Bench) -> None:
    bench.consumer.hold([FIRST])
    bench.fetch([end_of_file(4)])
    bench.consumer.start({FIRST: (0, None)})
    assert ends(bench, 0) is None


def test_what_was_given_back_is_in_hand(bench: Bench) -> None:
    bench.fetch(messages(0), [*messages(1), end_of_file(3)])
    bench.consumer.give_back(Slice(FIRST, 1, messages(1)))
    assert ends(bench, 1) is None


def test_an_idle_step_moves_the_position_with_h(bench: Bench) -> None:
    bench.fetch([end_of_file(4)])
    bench.consumer.moved(FIRST, 4)
    assert ends(bench, 4) is None
    assert brought(bench.fetch(messages(4))) == [(FIRST, 4, [4])]


def test_an_idle_step_of_what_was_taken_away_moves_nothing(bench: Bench) -> None:
    bench.fetch([end_of_file(4)], bench.client.revokes(0))
    bench.consumer.moved(FIRST, 4)
    assert ends(bench, 4) is None


class Walk(RuleBasedStateMachine):
    """A log is consumed while its partition is held, started and reassigned in any order.

    The client goes on from where it is, as the real one does; H is what was passed on and kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench().start()
        self.client_at = 0
        self.at_once = 2
        self.kept: list[int] = []

    @property
    def h(self) -> int:
        return len(self.kept)

    def bring(self, count: int) -> list[Raw]:
        if FIRST in self.bench.client.paused:
            return self.late()[:count]
        at, self.client_at = self.client_at, self.client_at + count
        return messages(*range(at, self.client_at))

    def late(self) -> list[Raw]:
        """What the client was about to hand over as it was paused; it goes on where it is told."""
        at, self.client_at = self.client_at, self.client_at + 1
        return [*messages(at), end_of_file(at + 1)]

    def fetched(self) -> list[Slice]:
        placed = len(self.bench.client.placed)
        found = self.bench.fetch(lambda: self.bring(1), lambda: self.bring(self.at_once))
        if len(self.bench.client.placed) > placed:
            self.client_at = self.bench.client.placed[-1][2]
        assert found.doubtful == {}
        assert all(each.first == self.h for each in found.slices)
        return found.slices

    @rule()
    def keep(self) -> None:
        for each in self.fetched():
            self.kept += [message.at for message in each.messages]

    @rule(seconds=st.sampled_from([0.001, 10.0]), at_once=st.integers(1, 60))
    def the_pace_changes(self, seconds: float, at_once: int) -> None:
        """Of so slow a partition 20 are enough and 5 are few."""
        self.at_once = at_once
        for _ in range(20):
            self.bench.consumer.handled(FIRST, 1, seconds)

    @rule(room=st.integers(0, 3))
    def keep_what_there_is_room_for(self, room: int) -> None:
        for each in self.fetched():
            self.kept += [message.at for message in each.messages[:room]]
            if each.messages[room:]:
                self.bench.consumer.give_back(Slice(FIRST, self.h, each.messages[room:]))

    @rule()
    def doubt(self) -> None:
        self.fetched()  # and nothing of it is kept
        self.bench.consumer.hold([FIRST])

    @rule()
    def reassign(self) -> None:
        self.keep()  # what was given back comes before any callback
        found = self.bench.fetch(lambda: self.bring(1), self.bench.client.assigns())
        assert found.slices == []

    @rule()
    def recover(self) -> None:
        self.bench.consumer.hold([FIRST])
        self.bench.consumer.start({FIRST: (self.h, None)})
        self.client_at = self.bench.client.placed[-1][2]

    @invariant()
    def nothing_is_skipped_or_passed_on_twice(self) -> None:
        assert self.kept == list(range(len(self.kept)))

    @invariant()
    def no_end_is_believed_behind_messages(self) -> None:
        assert self.bench.consumer.idle_end(FIRST, self.h) is None


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=25)
