"""The one Kafka transaction: outputs and K together, or a doubt and a new producer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from processor.engine import clients as clients_module
from processor.engine import producer as producer_module
from processor.engine import publisher as publisher_module
from processor.engine.batch import Committed
from processor.engine.failures import PublishDoubt
from processor.engine.outbox import PROVENANCE_HEADER, read_provenance
from processor.engine.publisher import Publisher
from tests.contract.kafka_worlds import make_world
from tests.support.worlds import NOW, World, outputs_of

NOTHING = Committed(None, None)


@pytest.fixture(scope="module", params=["kafka", "simulated"])
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    """One group with one member for all tests here; each takes a partition of its own."""
    with make_world(request) as world:
        yield world


@pytest.fixture
def world(shared: World, request: pytest.FixtureRequest) -> World:
    shared.name = f"{shared.group}:{request.node.name}"
    return shared


@pytest.fixture
def output(world: World) -> str:
    return world.new_topic("output")


def values(world: World, topic: str) -> list[bytes | None]:
    return [message.value() for message in world.settled(topic)]


class TestTransaction:
    """Nothing is to be seen before the commit, everything after it."""

    def test_what_was_sent_is_seen_with_the_commit_and_k_moves(
        self, world: World, output: str
    ) -> None:
        partition, publisher = world.partition(), world.ready()
        publisher.send(
            [outputs_of(output, b"one", b"two")],
            [(partition, 2, "processor:l:t")],
            world.member.snapshot,
        )
        assert world.visible(output) == []

        def pending() -> bool:
            return isinstance(world.cluster.committed([partition])[partition], str)

        world.wait_until(
            pending, 5, "the offsets under way: K is not known, rather than the old one"
        )
        publisher.commit()
        assert values(world, output) == [b"one", b"two"]
        assert world.k(partition) == Committed(2, "processor:l:t")
        assert publisher.ready

    def test_bytes_pass_unharmed_with_their_provenance(self, world: World, output: str) -> None:
        partition, publisher = world.partition(), world.ready()
        publisher.send(
            [outputs_of(output, b"\x00\xff", None, b"", first=5)],
            [(partition, 8, "m")],
            world.member.snapshot,
        )
        publisher.commit()
        found = world.settled(output)
        assert [message.value() for message in found] == [b"\x00\xff", None, b""]
        assert {message.key() for message in found} == {b"k"}
        assert {message.timestamp() for message in found} == {(1, NOW)}
        for ordinal, message in enumerate(found):
            (name, content), (last, provenance) = message.headers() or []
            assert (name, content, last) == ("h", b"\xff", PROVENANCE_HEADER)
            told = read_provenance(provenance)
            assert (told.first, told.next, told.ordinal, told.count) == (5, 8, ordinal, 3)

    def test_a_transaction_may_have_offsets_alone(self, world: World) -> None:
        partition, publisher = world.partition(), world.ready()
        publisher.send([], [(partition, 7, "m")], world.member.snapshot)
        publisher.commit()
        assert world.k(partition) == Committed(7, "m")

    def test_several_partitions_move_together(self, world: World, output: str) -> None:
        first, second, publisher = world.partition(), world.partition(), world.ready()
        publisher.send(
            [outputs_of(output, b"a"), outputs_of(output, b"b")],
            [(first, 1, "m"), (second, 9, "n")],
            world.member.snapshot,
        )
        publisher.commit()
        assert world.k(first) == Committed(1, "m")
        assert world.k(second) == Committed(9, "n")

    def test_a_producer_is_used_again_while_there_is_no_doubt(
        self, world: World, output: str
    ) -> None:
        partition = world.partition()
        publisher, clients = world.publisher()
        publisher.prepare()
        for number in range(20):
            publisher.prepare()
            publisher.send(
                [outputs_of(output, b"%d" % number)],
                [(partition, number + 1, "m")],
                world.member.snapshot,
            )
            publisher.commit()
        assert values(world, output) == [b"%d" % number for number in range(20)]
        assert clients.succeeded.count("commit_transaction") == 20

    def test_what_is_abandoned_is_never_seen(self, world: World, output: str) -> None:
        partition, publisher = world.partition(), world.ready()
        publisher.send(
            [outputs_of(output, b"dropped")], [(partition, 1, "m")], world.member.snapshot
        )
        publisher.abandon()
        assert not publisher.ready, "after an abort the producer is never used again"
        publisher.abandon()
        publisher.prepare()
        publisher.send([outputs_of(output, b"kept")], [(partition, 1, "m")], world.member.snapshot)
        publisher.commit()
        assert values(world, output) == [b"kept"]

    def test_abandoning_nothing_keeps_the_producer(self, world: World) -> None:
        publisher = world.ready()
        publisher.abandon()
        assert publisher.ready

    def test_what_a_retired_producer_left_open_is_ended_by_the_next(
        self, world: World, output: str
    ) -> None:
        partition, publisher = world.partition(), world.ready()
        publisher.send([outputs_of(output, b"left")], [(partition, 1, "m")], world.member.snapshot)
        publisher.retire()
        publisher.prepare()
        publisher.send([outputs_of(output, b"kept")], [(partition, 1, "m")], world.member.snapshot)
        publisher.commit()
        assert values(world, output) == [b"kept"]

    def test_nothing_is_sent_without_a_producer(self, world: World) -> None:
        publisher, _ = world.publisher()
        with pytest.raises(PublishDoubt):
            publisher.send([], [], None)


class TestFences:
    """Who is not the owner any more commits nothing."""

    def test_metadata_of_a_member_that_left_is_refused(self, world: World, output: str) -> None:
        own = world.sibling()
        own.member.leave()
        self.refused(own, output)

    def test_metadata_of_an_earlier_generation_is_refused(self, world: World, output: str) -> None:
        own = world.sibling()
        member = own.member
        stale = member.snapshot
        member.join()
        member.snapshot, fresh = stale, member.snapshot
        self.refused(own, output)
        publisher, partition = own.ready(), own.partition()
        publisher.send([outputs_of(output, b"of the new generation")], [(partition, 3, "m")], fresh)
        publisher.commit()
        assert own.k(partition) == Committed(3, "m")
        member.leave()

    def refused(self, own: World, output: str) -> None:
        publisher, partition = own.ready(), own.partition()
        publisher.send(
            [outputs_of(output, b"of a member that is gone")],
            [(partition, 3, "m")],
            own.member.snapshot,
        )
        with pytest.raises(PublishDoubt) as doubt:
            publisher.commit()
        assert not doubt.value.fenced
        assert not doubt.value.refused, "no topic has refused an output"
        assert not publisher.ready
        publisher.prepare()
        assert own.settled(output) == []
        assert own.k(partition) == NOTHING

    @pytest.mark.parametrize("moment", ["before send", "before commit"])
    def test_a_second_producer_of_the_slot_fences_the_first(
        self, world: World, output: str, moment: str
    ) -> None:
        partition = world.partition()
        first = world.ready()
        zombie = [outputs_of(output, b"zombie")], [(partition, 9, "zombie")], world.member.snapshot
        if moment == "before commit":
            first.send(*zombie)
        second = world.ready()

        def act() -> None:
            if moment == "before send":
                first.send(*zombie)
            first.commit()

        with pytest.raises(PublishDoubt) as doubt:
            act()
        assert doubt.value.fenced
        assert not first.ready
        second.send(
            [outputs_of(output, b"owner")], [(partition, 1, "owner")], world.member.snapshot
        )
        second.commit()
        assert values(world, output) == [b"owner"]
        assert world.k(partition) == Committed(1, "owner")


class TestRefusals:
    """An output that its topic does not take."""

    def publish(self, world: World, topic: str, value: bytes) -> PublishDoubt:
        partition, publisher = world.partition(), world.ready()

        def transaction() -> None:
            publisher.send([outputs_of(topic, value)], [(partition, 1, "m")], world.member.snapshot)
            publisher.commit()

        with pytest.raises(PublishDoubt) as doubt:
            transaction()
        assert not publisher.ready
        publisher.prepare()
        assert world.k(partition) == NOTHING
        return doubt.value

    def test_an_output_too_large_names_its_topic(self, world: World) -> None:
        small = world.new_topic("small", config={"max.message.bytes": "1000"})
        incompressible = random.Random(1).randbytes(4_000)
        doubt = self.publish(world, small, incompressible)
        assert doubt.refused == {small}
        assert values(world, small) == []

    def test_a_missing_topic_is_named(self, world: World) -> None:
        doubt = self.publish(world, "no-such-topic", b"x")
        assert doubt.refused == {"no-such-topic"}


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
    def shorten(call_seconds: float, socket_milliseconds: int) -> None:
        for module in (publisher_module, producer_module):
            monkeypatch.setattr(module, "CALL_TIMEOUT_SECONDS", call_seconds)
        monkeypatch.setattr(clients_module, "SOCKET_TIMEOUT_MILLISECONDS", socket_milliseconds)

    return shorten


class TestSilentResends:
    """librdkafka sends again by itself and says success; the late original may act later."""

    def attempt(
        self, world: World, publisher: Publisher, output: str
    ) -> tuple[PublishDoubt | None, int]:
        partition = world.partition()
        publisher.send([outputs_of(output, b"once")], [(partition, 1, "m")], world.member.snapshot)
        try:
            publisher.commit()
        except PublishDoubt as doubt:
            return doubt, partition.number
        return None, partition.number

    def agree(self, world: World, publisher: Publisher, output: str, number: int) -> None:
        """K and the outputs, read after the doubt, say the same."""
        publisher.prepare()
        k = world.k(world.partition()._replace(number=number))
        assert (k == Committed(1, "m")) == (values(world, output) == [b"once"])

    @pytest.mark.parametrize("request_", ["EndTxn", "TxnOffsetCommit"])
    def test_a_connection_that_breaks_in_the_middle_is_a_doubt_though_success_is_said(
        self, world: World, output: str, request_: str
    ) -> None:
        publisher, clients = world.publisher(breakable=True)
        publisher.prepare()
        with world.losing_answer(request_) as trap:
            doubt, number = self.attempt(world, publisher, output)
            assert trap.sprung == 1
        assert "send_offsets_to_transaction" in clients.succeeded, "librdkafka said success"
        if request_ == "EndTxn":
            assert "commit_transaction" in clients.succeeded, "librdkafka said success"
        else:
            assert "commit_transaction" not in clients.succeeded, "it was not gone on with"
        assert doubt is not None, "a request may have been sent twice, and nobody was told"
        assert "may have been sent twice" in str(doubt)
        assert not publisher.ready
        self.agree(world, publisher, output, number)

    def test_an_answer_later_than_the_socket_timeout_is_a_doubt_though_success_is_said(
        self,
        world: World,
        output: str,
        short_timeouts: Callable[[float, int], None],
    ) -> None:
        short_timeouts(20.0, 1_000)
        publisher, clients = world.publisher(breakable=True)
        publisher.prepare()
        with world.answering_late("EndTxn", 2.5) as trap:
            doubt, number = self.attempt(world, publisher, output)
            assert trap.sprung == 1
        assert "commit_transaction" in clients.succeeded, "librdkafka said success"
        assert doubt is not None
        assert not publisher.ready
        self.agree(world, publisher, output, number)

    def test_a_stall_ends_as_a_timeout_before_anything_is_sent_again(
        self,
        world: World,
        output: str,
        short_timeouts: Callable[[float, int], None],
    ) -> None:
        """The time-outs as they are set: the call's is below the socket's."""
        assert clients_module.CALL_TIMEOUT_SECONDS * 1_000 < (
            clients_module.SOCKET_TIMEOUT_MILLISECONDS
        )
        short_timeouts(1.5, 5_000)
        publisher, clients = world.publisher(breakable=True)
        publisher.prepare()
        with world.stalled_from("EndTxn") as trap:
            begun = world.now()
            doubt, number = self.attempt(world, publisher, output)
            took = world.now() - begun
            assert trap.sprung == 1
        assert doubt is not None
        assert "commit_transaction" not in clients.succeeded
        assert took < 5.0
        assert not publisher.ready
        self.agree(world, publisher, output, number)

    def test_a_clean_run_is_no_doubt(self, world: World, output: str) -> None:
        publisher = world.ready(breakable=True)
        partition = world.partition()
        for number in range(30):
            publisher.send(
                [outputs_of(output, b"%d" % number)],
                [(partition, number + 1, "m")],
                world.member.snapshot,
            )
            publisher.commit()
        assert len(values(world, output)) == 30


class TestAway:
    """A broker that does not answer."""

    def test_preparing_is_a_doubt_that_can_be_tried_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(publisher_module, "CALL_TIMEOUT_SECONDS", 1.0)
        publisher, _ = world.publisher(breakable=True)
        with world.away(), pytest.raises(PublishDoubt) as doubt:
            publisher.prepare()
        assert not publisher.ready
        assert not doubt.value.fenced

        def ready() -> bool:
            try:
                publisher.prepare()
            except PublishDoubt:
                return False
            return publisher.ready

        world.wait_until(ready, 30, "the producer")
