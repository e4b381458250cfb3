"""What a consumer client hands over: positions, ends, what is hidden, what is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, Message, TopicPartition

from tests.contract.kafka_worlds import make_world
from tests.support.worlds import World, unique

WAIT_SECONDS = 30.0
CONFIG = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 50,
}


@pytest.fixture(scope="module", params=["kafka", "simulated"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with make_world(request) as world:
        yield world


class Reader:
    """A consumer of one partition; messages and events in the order of their arrival."""

    def __init__(self, world: World, topic: str, at: int = 0, **config: object) -> None:
        self.client = world.consumer(
            {"group.id": unique("reader"), **CONFIG, **config}, breakable=True
        )
        self.world = world
        self.topic = topic
        self.client.assign([self.at(at)])
        self.messages: list[Message] = []
        self.events: list[Message] = []

    def at(self, offset: int) -> TopicPartition:
        return TopicPartition(self.topic, 0, offset)

    def take(self, count: int, seconds: float) -> None:
        for message in self.client.consume(count, seconds):
            (self.messages if message.error() is None else self.events).append(message)

    def until(self, condition: Callable[[], Any], what: str, count: int = 100) -> None:
        def turn() -> bool:
            self.take(count, 0.02)
            return bool(condition())

        self.world.wait_until(turn, WAIT_SECONDS, what)

    @property
    def offsets(self) -> list[int | None]:
        return [message.offset() for message in self.messages]

    @property
    def ends(self) -> list[int | None]:
        return [
            event.offset()
            for event in self.events
            if event.error().code() == KafkaError._PARTITION_EOF
        ]

    def fetched_ahead(self) -> None:
        """Let the client fetch more than was consumed."""
        self.until(lambda: self.messages, "the first message", count=1)
        begun = self.world.now()
        self.world.wait_until(lambda: self.world.now() > begun + 0.3, 10, "a moment")


@pytest.fixture
def reading(world: World) -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def read(topic: str, at: int = 0, **config: object) -> Reader:
        readers.append(Reader(world, topic, at, **config))
        return readers[-1]

    yield read
    for reader in readers:
        reader.client.close()


Reading = Callable[..., Reader]


class TestEnds:
    def test_the_end_is_told_once_and_again_when_more_has_come(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("ends")
        world.append(topic, [b"0", b"1"])
        reader = reading(topic)
        reader.until(lambda: reader.ends, "the end")
        begun = world.now()
        reader.until(lambda: world.now() > begun + 0.3, "a moment")
        assert (reader.offsets, reader.ends) == ([0, 1], [2])
        world.append(topic, [b"2"])
        reader.until(lambda: len(reader.ends) > 1, "the new end")
        assert (reader.offsets, reader.ends) == ([0, 1, 2], [2, 3])

    def test_the_end_of_an_empty_log_is_told(self, world: World, reading: Reading) -> None:
        reader = reading(world.new_topic("empty"))
        reader.until(lambda: reader.ends, "the end")
        assert reader.ends == [0]

    def test_the_end_is_told_again_after_a_seek(self, world: World, reading: Reading) -> None:
        topic = world.new_topic("ends")
        world.append(topic, [b"0"])
        reader = reading(topic)
        reader.until(lambda: reader.ends, "the end")
        reader.client.seek(reader.at(1))
        reader.until(lambda: len(reader.ends) > 1, "the same end")
        assert (reader.offsets, reader.ends) == ([0], [1, 1])

    def test_control_records_and_aborted_data_are_invisible_and_count(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("hidden")
        world.append_transaction(topic, [b"0", b"1"], commit=True)
        world.append_transaction(topic, [b"aborted"], commit=False)
        world.append_transaction(topic, [b"5"], commit=True)
        reader = reading(topic)
        reader.until(lambda: reader.ends and reader.ends[-1] == 7, "the end")
        assert [message.value() for message in reader.messages] == [b"0", b"1", b"5"]
        assert reader.offsets == [0, 1, 5]

    def test_an_open_transaction_hides_itself_and_all_behind_it(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("open")
        world.append(topic, [b"0"])
        abort = world.append_transaction(topic, [b"1"], commit=None)
        world.append(topic, [b"2"])
        reader = reading(topic)
        reader.until(lambda: reader.ends, "the end")
        assert (reader.offsets, reader.ends) == ([0], [1])
        abort()
        reader.until(lambda: reader.ends[-1] == 4, "the new end")
        assert reader.offsets == [0, 2]


class TestPositions:
    VALUES = tuple(b"%d" % number for number in range(50))

    def test_a_seek_drops_what_was_fetched(self, world: World, reading: Reading) -> None:
        topic = world.new_topic("sought")
        world.append(topic, self.VALUES)
        reader = reading(topic)
        reader.fetched_ahead()
        reader.client.seek(reader.at(40))
        reader.until(lambda: reader.ends, "the end")
        assert reader.offsets == [0, *range(40, 50)]

    def test_pausing_drops_nothing_that_was_not_consumed(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("paused")
        world.append(topic, self.VALUES)
        reader = reading(topic)
        reader.fetched_ahead()
        reader.client.pause([reader.at(0)])
        begun = world.now()
        reader.until(lambda: world.now() > begun + 0.3, "a moment")
        assert reader.offsets == [0], "what was fetched is not handed over"
        reader.client.resume([reader.at(0)])
        reader.until(lambda: reader.ends, "the end")
        assert reader.offsets == list(range(50)), "nor is it skipped"

    def test_a_paused_partition_flows_from_where_it_is_sought(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("assigned")
        world.append(topic, self.VALUES)
        reader = reading(topic, OFFSET_END)
        reader.client.pause([reader.at(0)])
        reader.take(1, 0.05)
        reader.client.seek(reader.at(45))
        reader.client.resume([reader.at(0)])
        reader.until(lambda: reader.ends, "the end")
        assert reader.offsets == list(range(45, 50))

    def test_an_assignment_at_an_offset_flows_from_there_though_it_was_paused(
        self, world: World, reading: Reading
    ) -> None:
        """As the engine does it, with what goes on flowing in the same assignment."""
        topic = world.new_topic("assigned")
        world.append(topic, self.VALUES)
        reader = reading(topic, 10)
        reader.fetched_ahead()
        reader.client.pause([reader.at(0)])
        reader.client.unassign()
        reader.client.assign([reader.at(45)])
        reader.client.resume([reader.at(0)])
        reader.until(lambda: reader.ends, "the end")
        assert reader.offsets == [10, *range(45, 50)]
        reader.client.assign([reader.at(48)])
        reader.until(lambda: len(reader.ends) > 1, "the end again")
        assert reader.offsets[-2:] == [48, 49]

    def test_a_look_up_of_the_end_that_is_under_way_overrides_a_seek(
        self, world: World, reading: Reading
    ) -> None:
        """In silence. This is why the engine gives the client no logical offset."""
        topic = world.new_topic("jump")
        for _ in range(5):
            world.append(topic, [b"v"] * 300)
        small = {"max.partition.fetch.bytes": 1}
        with world.answering_slowly("ListOffsets", 1.0) as sprung:
            reader = reading(topic, OFFSET_END, **small)
            reader.client.pause([reader.at(0)])
            reader.until(lambda: sprung.sprung, "the look-up")
            reader.client.seek(reader.at(0))
            reader.client.resume([reader.at(0)])
            begun = world.now()
            world.wait_until(lambda: world.now() > begun + 2.0, 10, "a moment")
        reader.until(lambda: reader.ends, "the end")
        assert reader.ends == [1_500]
        assert len(reader.offsets) < 1_500, "what is between was skipped"

    def test_the_last_stable_offset_is_the_end(self, world: World, reading: Reading) -> None:
        topic = world.new_topic("end")
        world.append(topic, self.VALUES)
        abort = world.append_transaction(topic, [b"open"], commit=None)
        reader = reading(topic, OFFSET_END)
        reader.until(lambda: reader.ends, "the end")
        assert (reader.offsets, reader.ends) == ([], [50])
        abort()

    def test_an_offset_that_the_log_does_not_have_ends_the_partition(
        self, world: World, reading: Reading
    ) -> None:
        topic = world.new_topic("short")
        world.append(topic, [b"0"])
        reader = reading(topic, 7)
        reader.until(lambda: reader.events, "an error")
        [event] = reader.events
        assert event.error().code() == KafkaError._AUTO_OFFSET_RESET
        world.append(topic, self.VALUES)
        begun = world.now()
        reader.until(lambda: world.now() > begun + 0.5, "a moment")
        assert (reader.messages, len(reader.events)) == ([], 1)
        with pytest.raises(KafkaException) as error:
            reader.client.seek(reader.at(0))
        assert error.value.args[0].code() == KafkaError._STATE
        reader.client.assign([reader.at(0)])
        reader.until(lambda: reader.ends, "the end")
        assert len(reader.messages) == 51


class TestClient:
    def test_asking_for_times_finds_the_first_that_is_not_older(self, world: World) -> None:
        topic = world.new_topic("times")
        world.append(topic, [b"0", b"1"])
        client = world.consumer({"group.id": unique("reader"), **CONFIG})
        [first] = client.offsets_for_times([TopicPartition(topic, 0, 0)], 10)
        [none] = client.offsets_for_times([TopicPartition(topic, 0, 2**60)], 10)
        assert (first.offset, none.offset) == (0, OFFSET_END)
        client.close()

    def test_a_seek_of_what_is_not_assigned_is_refused(self, world: World) -> None:
        client = world.consumer({"group.id": unique("reader"), **CONFIG})
        with pytest.raises(KafkaException) as error:
            client.seek(TopicPartition(world.topic, 0, 0))
        assert error.value.args[0].code() in (KafkaError._STATE, KafkaError._UNKNOWN_PARTITION)
        client.close()
