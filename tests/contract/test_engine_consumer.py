"""The engine's consumer, over clients and brokers that take their time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

import pytest

from processor.engine.batch import Partition
from processor.engine.consumer import Consumer
from tests.contract.kafka_worlds import make_world
from tests.support.engine import free_steps, in_hand
from tests.support.worlds import Sprung, World

WAIT_SECONDS = 30.0
LATE_SECONDS = 1.5
ASKED_WITHIN_SECONDS = 1.0
"""After an assignment the client has asked by then what it asks of itself."""
MANY, FEW, AT_ONCE = 12_000, 5, 100
SOON_FETCHES = 80
HANDLING_SECONDS = 0.1
"""A batch's."""
BATCHES, BATCH = 5, 300
"""More than one fetch brings, on the real broker (1 MB) and on the simulated one (1,000)."""


@pytest.fixture(scope="module", params=["kafka", "simulated"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with make_world(request) as world:
        yield world


class Nobody:
    def assigned(self, partitions: Collection[Partition]) -> None: ...

    def revoked(self, partitions: Collection[Partition]) -> None: ...

    def lost(self, partitions: Collection[Partition]) -> None: ...


@pytest.mark.parametrize("request_name", ["ListOffsets", "Fetch"])
def test_all_is_brought_from_where_it_was_started_however_late_the_broker_answers(
    world: World, request_name: str
) -> None:
    """From before the assignment on: a look-up of another position must not be left behind."""
    world = world.sibling()
    world.member.leave()
    topic = world.new_topic("late")
    for _ in range(BATCHES):
        world.append(topic, [b"v" * 4_000] * BATCH)
    with world.answering_slowly(request_name, LATE_SECONDS) as sprung:
        consumer = Consumer(
            world.clients(breakable=True),
            [topic],
            Nobody(),
            in_hand(100, 10**9, world),
            free_steps(),
            world,
        )
        consumer.subscribe()
        try:
            brought = read(world, consumer, Partition(topic, 0), sprung)
        finally:
            consumer.close()
    assert brought == list(range(BATCHES * BATCH))


def read(world: World, consumer: Consumer, partition: Partition, sprung: Sprung) -> list[int]:
    """Start the partition at 0 once what delays is on its way; offsets until the end is told."""
    offsets: list[int] = []
    owned_at: float | None = None
    started = False

    def turn() -> bool:
        nonlocal owned_at, started
        fetched = consumer.fetch(0.05)
        assert not fetched.doubtful
        offsets.extend(m.offset() for each in fetched.slices for m in each.messages)
        if partition in consumer.owned and not started:
            owned_at = owned_at or world.now()
            if sprung.sprung or world.now() > owned_at + ASKED_WITHIN_SECONDS:
                consumer.start({partition: (0, None)})
                started = True
        following = offsets[-1] + 1 if offsets else 0
        return following == BATCHES * BATCH or consumer.idle_end(partition, following) is not None

    world.wait_until(turn, WAIT_SECONDS, "the end of the log")
    return offsets


@pytest.mark.parametrize("before", ["new", "held"])
def test_a_log_that_does_not_fit_the_leader_epoch_of_h_is_told(world: World, before: str) -> None:
    """Whether the client is given the partition (``new``) or has it already and is sought."""
    world = world.sibling()
    world.member.leave()
    topic = world.new_topic("epochs")
    world.append(topic, [b"v"] * 10)
    epoch = world.refill(topic, keep=3, values=[b"w"] * 10)
    partition = Partition(topic, 0)
    consumer = Consumer(
        world.clients(breakable=False),
        [topic],
        Nobody(),
        in_hand(100, 10**9, world),
        free_steps(),
        world,
    )
    consumer.subscribe()
    truncated: set[Partition] = set()
    brought: list[int] = []

    def turn() -> bool:
        fetched = consumer.fetch(0.05)
        truncated.update(fetched.truncated)
        brought.extend(m.offset() for each in fetched.slices for m in each.messages)
        return bool(truncated or brought)

    def owned() -> bool:
        consumer.fetch(0.05)
        return partition in consumer.owned

    try:
        world.wait_until(owned, WAIT_SECONDS, "the assignment")
        if before == "held":
            consumer.start({partition: (9, None)})
            consumer.hold([partition])
        consumer.start({partition: (5, epoch)})
        world.wait_until(turn, WAIT_SECONDS, "a message or an error")
    finally:
        consumer.close()
    assert (truncated, brought) == ({partition}, [])


def test_many_messages_of_one_partition_do_not_hold_up_a_few_of_another(world: World) -> None:
    """Though the client has all of the many in its queue; and none of them is lost by that."""
    world = world.sibling()
    world.member.leave()
    many, few = world.new_topic("many"), world.new_topic("few")
    for _ in range(MANY // 1_000):
        world.append(many, [b"v" * 100] * 1_000)
    consumer = Consumer(
        world.clients(breakable=False),
        [many, few],
        Nobody(),
        in_hand(AT_ONCE, 10**9, world),
        free_steps(),
        world,
    )
    consumer.subscribe()
    brought: dict[str, list[int]] = defaultdict(list)

    def turn() -> None:
        fetched = consumer.fetch(0.05)
        assert not fetched.doubtful
        for each in fetched.slices:
            brought[each.partition.topic] += [message.offset() for message in each.messages]
            consumer.handled(each.partition, len(each.messages), HANDLING_SECONDS)

    def owned() -> bool:
        turn()
        return len(consumer.owned) == 2

    def done() -> bool:
        turn()
        return len(brought[many]) >= MANY

    try:
        world.wait_until(owned, WAIT_SECONDS, "the assignment")
        consumer.start({Partition(many, 0): (0, None), Partition(few, 0): (0, None)})
        while len(brought[many]) < 5 * AT_ONCE:
            turn()
        world.append(few, [b"v"] * FEW)
        for _ in range(SOON_FETCHES):
            turn()
            world.sleep(HANDLING_SECONDS)
            if len(brought[few]) == FEW:
                break
        before = len(brought[many])
        world.wait_until(done, WAIT_SECONDS, "all of them")
    finally:
        consumer.close()
    assert brought[few] == list(range(FEW))
    assert before < MANY - 50 * AT_ONCE
    assert brought[many] == list(range(MANY))
