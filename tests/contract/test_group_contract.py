"""The group as the engine relies on it: members, generations, fences, offsets that wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from processor.engine.batch import Committed, Partition
from tests.contract.kafka_worlds import make_world
from tests.support.worlds import Member, World, unique

NOTHING = Committed(None, None)
PARTITIONS = 64
CALL_SECONDS = 10.0
SESSION = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 300}


@pytest.fixture(scope="module", params=["kafka", "simulated"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One group with a member without an instance id; each test takes partitions of its own."""
    with make_world(request) as world:
        yield world


class Slots:
    """Static members of a group of their own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.group = unique("slots")
        self.members: list[Member] = []

    def start(self, slot: str) -> Member:
        """A process of this slot; whoever had the slot before is replaced."""
        config = {"group.instance.id": f"{self.group}:{slot}"}
        member = Member(self.world, self.group, **config, **SESSION)
        self.members.append(member)
        member.subscribe()
        self.until(lambda: member.assignments, 30, "an assignment")
        return member

    def until(self, condition: Any, seconds: float, what: str) -> None:
        """Poll all who are not fenced until it is so."""

        def turn() -> bool:
            for member in self.members:
                if not member.fenced:
                    member.poll()
            return bool(condition())

        self.world.wait_until(turn, seconds, what)

    def shared(self, *members: Member) -> bool:
        """Whether the partitions are divided among these."""
        owned = [number for member in members for number in member.owned]
        return sorted(owned) == list(range(PARTITIONS)) and all(m.owned for m in members)


@pytest.fixture
def slots(world: World) -> Iterator[Slots]:
    slots = Slots(world)
    yield slots
    for member in slots.members:
        member.leave()


def send(
    world: World, metadata: Any, partition: Partition, offset: int, group: str | None = None
) -> int | None:
    """One transaction with an offset alone; the code of its refusal."""
    producer = world.producer({"transactional.id": unique("sender"), "retry.backoff.ms": 1})
    producer.init_transactions(CALL_SECONDS)
    producer.begin_transaction()
    try:
        producer.send_offsets_to_transaction(
            [TopicPartition(*partition, offset, "m")], metadata, CALL_SECONDS
        )
        producer.commit_transaction(CALL_SECONDS)
    except KafkaException as error:
        return int(error.args[0].code())
    return None


class TestMembers:
    def test_static_members_share_the_partitions(self, world: World, slots: Slots) -> None:
        first = slots.start("0")
        assert slots.shared(first)
        second = slots.start("1")
        slots.until(lambda: slots.shared(first, second), 30, "two shares")

    def test_who_comes_back_has_its_share_again_in_the_same_generation(
        self, world: World, slots: Slots
    ) -> None:
        first, second = slots.start("0"), slots.start("1")
        slots.until(lambda: slots.shared(first, second), 30, "two shares")
        before, share, assignments = second.snapshot, set(second.owned), first.assignments
        second.leave()
        slots.members.remove(second)
        again = slots.start("1")
        assert again.owned == share
        slots.until(lambda: True, 1, "a turn")
        assert first.assignments == assignments, "nobody else was asked"
        partition = world.partition()
        assert send(world, first.snapshot, partition, 1) is None, "its generation is still good"
        assert send(world, before, partition, 2) == KafkaError.FENCED_INSTANCE_ID

    def test_who_is_replaced_while_it_lives_is_fenced(self, world: World, slots: Slots) -> None:
        old = slots.start("0")
        new = slots.start("0")
        slots.until(lambda: old.fenced, 30, "the end of the old one")
        begun = world.now()
        slots.until(lambda: world.now() > begun + 1, 10, "a moment")
        assert old.poll()
        assert old.told == ["assigned", "fenced"], "its partitions are not even called lost"
        assert slots.shared(new)
        assert send(world, old.snapshot, world.partition(), 1) == KafkaError.FENCED_INSTANCE_ID

    def test_an_assignment_and_the_fence_behind_it_come_in_one_call(
        self, world: World, slots: Slots
    ) -> None:
        """Of a process that stood still meanwhile."""
        config = {"group.instance.id": f"{slots.group}:0"}
        old = Member(world, slots.group, **config, **SESSION)
        old.subscribe()
        begun = world.now()
        world.wait_until(lambda: world.now() > begun + 2, 10, "its joining unheard")
        slots.start("0")
        begun = world.now()
        slots.until(lambda: world.now() > begun + 1, 10, "its fence unheard")
        [message] = old.client.consume(1, 5.0)
        assert message.error().code() == KafkaError._FATAL
        assert old.told == ["assigned"]
        old.leave()

    def test_partitions_of_who_does_not_come_back_go_to_the_others(
        self, world: World, slots: Slots
    ) -> None:
        first, second = slots.start("0"), slots.start("1")
        slots.until(lambda: slots.shared(first, second), 30, "two shares")
        second.leave()
        slots.members.remove(second)
        begun = world.now()
        slots.until(lambda: slots.shared(first), 30, "all partitions")
        assert world.now() - begun > 4, "a static member's share is kept for its session"


class TestFence:
    def test_a_stale_generation_is_refused(self, world: World, slots: Slots) -> None:
        first = slots.start("0")
        stale = first.snapshot
        second = slots.start("1")
        slots.until(lambda: slots.shared(first, second), 30, "two shares")
        partition = world.partition()
        assert send(world, stale, partition, 1) == KafkaError.ILLEGAL_GENERATION
        assert send(world, first.snapshot, partition, 2) is None

    def test_a_member_that_left_is_refused(self, world: World) -> None:
        own = world.sibling()
        own.member.leave()
        assert send(world, own.member.snapshot, world.partition(), 1) == (
            KafkaError.UNKNOWN_MEMBER_ID
        )

    def test_metadata_without_a_member_passes(self, world: World) -> None:
        """The hazard for which metadata is only taken from an assignment."""
        never_joined = world.consumer({"group.id": world.group})
        partition = world.partition()
        assert send(world, never_joined.consumer_group_metadata(), partition, 5) is None
        never_joined.close()
        assert world.k(partition) == Committed(5, "m")

    def test_fresh_metadata_passes_for_a_partition_of_another(
        self, world: World, slots: Slots
    ) -> None:
        """The broker does not look whose partition it is."""
        first, second = slots.start("0"), slots.start("1")
        slots.until(lambda: slots.shared(first, second), 30, "two shares")
        [foreign] = sorted(second.owned)[:1]
        assert send(world, first.snapshot, Partition(world.topic, foreign), 1) is None


class TestTransactionsOfOneEpoch:
    """One producer epoch serves many transactions: what is late acts on a later one."""

    def producer(self, world: World, **config: Any) -> Any:
        producer = world.producer(
            {
                "transactional.id": unique("late"),
                "retry.backoff.ms": 1,
                "socket.timeout.ms": 2_000,
                "transaction.timeout.ms": 20_000,
                **config,
            },
            breakable=True,
        )
        producer.init_transactions(CALL_SECONDS)
        return producer

    def offsets(self, partition: Partition, offset: int) -> Sequence[TopicPartition]:
        return [TopicPartition(*partition, offset, "m")]

    def test_a_late_abort_takes_the_outputs_of_a_later_transaction(self, world: World) -> None:
        """Silent loss: success is said, K advances, the output is invisible."""
        partition, output = world.partition(), world.new_topic("output")
        producer = self.producer(world)
        with world.holding("EndTxn") as held:
            producer.begin_transaction()
            producer.produce(output, b"aborted", partition=0)
            producer.flush(CALL_SECONDS)
            producer.abort_transaction(CALL_SECONDS)
            assert held.sprung == 1, "it was sent again, and success was said"
            producer.begin_transaction()
            producer.produce(output, b"lost", partition=0)
            producer.flush(CALL_SECONDS)
            held.release()
            producer.send_offsets_to_transaction(
                self.offsets(partition, 1), world.member.snapshot, CALL_SECONDS
            )
            producer.commit_transaction(CALL_SECONDS)
        assert world.k(partition) == Committed(1, "m")
        assert world.settled(output) == []

    def test_a_late_commit_splits_a_later_transaction(self, world: World) -> None:
        partition, output = world.partition(), world.new_topic("output")
        producer = self.producer(world)
        with world.holding("EndTxn") as held:
            producer.begin_transaction()
            producer.produce(output, b"first", partition=0)
            producer.commit_transaction(CALL_SECONDS)
            assert held.sprung == 1
            producer.begin_transaction()
            producer.produce(output, b"second", partition=0)
            producer.flush(CALL_SECONDS)
            held.release()
        assert [m.value() for m in world.settled(output)] == [b"first", b"second"]
        assert world.k(partition) == NOTHING, "visible before its offsets were even sent"

    def test_late_offsets_move_k_backwards(self, world: World) -> None:
        partition = world.partition()
        producer = self.producer(world)
        with world.holding("TxnOffsetCommit") as held:
            for offset in (5, 9):
                producer.begin_transaction()
                producer.send_offsets_to_transaction(
                    self.offsets(partition, offset), world.member.snapshot, CALL_SECONDS
                )
                if offset == 9:
                    held.release()
                producer.commit_transaction(CALL_SECONDS)
            assert held.sprung == 1
        assert world.k(partition) == Committed(5, "m")

    def test_a_new_epoch_refuses_what_is_late(self, world: World) -> None:
        partition, output = world.partition(), world.new_topic("output")
        name = unique("retired")
        producer = self.producer(world, **{"transactional.id": name})
        with world.holding("EndTxn") as held:
            producer.begin_transaction()
            producer.produce(output, b"aborted", partition=0)
            producer.flush(CALL_SECONDS)
            producer.abort_transaction(CALL_SECONDS)
            assert held.sprung == 1
            producer = self.producer(world, **{"transactional.id": name})
            producer.begin_transaction()
            producer.produce(output, b"kept", partition=0)
            producer.flush(CALL_SECONDS)
            held.release()
            producer.send_offsets_to_transaction(
                self.offsets(partition, 1), world.member.snapshot, CALL_SECONDS
            )
            producer.commit_transaction(CALL_SECONDS)
        assert [m.value() for m in world.settled(output)] == [b"kept"]
        assert world.k(partition) == Committed(1, "m")


class TestTimeOut:
    def test_an_open_transaction_is_aborted_and_its_producer_fenced(self, world: World) -> None:
        partition, output = world.partition(), world.new_topic("output")
        producer = world.producer(
            {
                "transactional.id": unique("slow"),
                "transaction.timeout.ms": 1_000,
                "message.timeout.ms": 1_000,
                "socket.timeout.ms": 1_000,
            }
        )
        producer.init_transactions(CALL_SECONDS)
        producer.begin_transaction()
        producer.produce(output, b"never", partition=0)
        producer.send_offsets_to_transaction(
            [TopicPartition(*partition, 7, "m")], world.member.snapshot, CALL_SECONDS
        )

        def unstable() -> bool:
            found = world.cluster.committed([partition])[partition]
            return isinstance(found, str) and "UNSTABLE" in found.upper()

        assert unstable(), "K is not known while a transaction that moves it is pending"
        world.wait_until(lambda: not unstable(), 30, "the end of the transaction")
        assert world.k(partition) == NOTHING
        assert world.settled(output) == []
        with pytest.raises(KafkaException) as error:
            producer.commit_transaction(CALL_SECONDS)
        assert error.value.args[0].code() == KafkaError._FENCED
        assert error.value.args[0].fatal()
