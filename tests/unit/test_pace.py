"""How fast the handlers are, and how much is taken in hand for them."""

from __future__ import annotations

from math import inf

import pytest

from processor.engine.batch import Partition
from processor.engine.pace import BYTES_AHEAD, ENOUGH_SECONDS, FEW_SECONDS, USUAL_SECONDS, Pace
from tests.support.clocks import ManualClock

FAST, SLOW = Partition("input", 0), Partition("input", 1)


def measured(*batches: tuple[int, int, float]) -> Pace:
    """:param batches: how many messages were taken and given back, and how long that took."""
    clock = ManualClock()
    pace = Pace(clock.now)
    for taken, back, seconds in batches:
        pace.took(taken, others_wait=True)
        pace.gave_back(back)
        clock.seconds += seconds
    pace.took(0, others_wait=False)
    return pace


def test_nothing_is_known_before_a_batch_is_done() -> None:
    pace = Pace(ManualClock().now)
    assert pace.per_second == inf
    pace.took(100, others_wait=True)
    assert pace.per_second == inf
    assert pace.seconds_each(SLOW) == USUAL_SECONDS


def test_what_was_given_back_was_not_handled() -> None:
    assert measured((5_000, 4_800, 2.0)).per_second == 100


def test_more_than_was_taken_cannot_be_given_back() -> None:
    """What a rest of the batch before gives back late is no slowness of this one."""
    assert measured((10, 20, 2.0)).per_second == 0


def test_waiting_for_messages_is_no_slowness() -> None:
    clock = ManualClock()
    pace = Pace(clock.now)
    pace.took(5, others_wait=False)
    clock.seconds += 1_000
    pace.took(5, others_wait=True)
    assert pace.per_second == inf


def test_one_slow_batch_does_not_say_all() -> None:
    pace = measured(*[(1_000, 0, 1.0)] * 20, (1_000, 0, 100.0))
    assert 700 < pace.per_second < 1_000


@pytest.mark.parametrize(
    ("per_second", "batch", "size", "most"),
    [
        (100, 5_000, 200, 20_000),
        (100, 10, 200, 600),
        (20_000, 5_000, 200, BYTES_AHEAD // 700),
        (20_000, 5_000, 1_000, BYTES_AHEAD // 1_500),
        (1, 1, 200, 40),
        (100, 160, 50_000, BYTES_AHEAD // 50_500),
        (100, 5_000, 10**6, 5_000),
    ],
)
def test_what_is_taken_in_hand(per_second: int, batch: int, size: int, most: int) -> None:
    assert measured((per_second, 0, 1.0)).most(batch, size) == most


def test_a_partition_has_enough_by_the_time_that_it_takes() -> None:
    pace = Pace(ManualClock().now)
    pace.handled(FAST, 1_000, 1.0)
    assert pace.enough(FAST) == pytest.approx(ENOUGH_SECONDS * 1_000)
    assert pace.few(FAST) == pytest.approx(FEW_SECONDS * 1_000)
    pace.handled(SLOW, 1, 10.0)
    assert (pace.enough(SLOW), pace.few(SLOW)) == (20, 5), "a client takes a while to begin again"


def test_a_message_takes_some_time_whatever_the_clock_says() -> None:
    pace = Pace(ManualClock().now)
    pace.handled(FAST, 1_000, 0.0)
    assert pace.seconds_each(FAST) > 0
    pace.handled(SLOW, 0, 1.0)
    assert pace.seconds_each(SLOW) == USUAL_SECONDS, "none was handled"


def test_a_partition_that_becomes_slow_is_known_in_some_batches_and_a_hiccup_is_forgotten() -> None:
    pace = Pace(ManualClock().now)
    for _ in range(20):
        pace.handled(FAST, 400, 0.012)
    pace.handled(FAST, 1, 0.03)
    assert pace.seconds_each(FAST) < 0.000_15
    for _ in range(8):
        pace.handled(FAST, 17, 0.17)
    assert pace.seconds_each(FAST) > 0.009
