"""What only the broker in memory can be made to do: time passes at once, operators strike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from processor.engine.batch import Committed, Partition
from processor.engine.clients import LogLines
from processor.engine.cluster import Cluster, TopicFacts
from processor.engine.consumer import Consumer as EngineConsumer
from processor.engine.failures import MemberFenced
from processor.settings import Kafka
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.clients import SimulatedClients
from processor.testing.kafka.consumer import Consumer
from processor.testing.kafka.offsets import Offset
from processor.testing.kafka.producer import Producer
from processor.testing.network import Fate, Network
from processor.testing.scheduler import Clock, Process, Scheduler
from tests.simulation import smoke
from tests.support.engine import free_steps, in_hand

SESSION_SECONDS = 6.0
CONFIG = {
    "group.id": "group",
    "session.timeout.ms": int(SESSION_SECONDS * 1_000),
    "heartbeat.interval.ms": 1_500,
    "max.poll.interval.ms": 30_000,
    "enable.partition.eof": True,
}


class World:
    """A broker with the topic ``input`` of four partitions."""

    def __init__(self) -> None:
        self.time = Scheduler(seed=7)
        self.network = Network(self.time)
        self.broker = Broker(self.time)
        self.broker.create_topic("input", 4)

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        assert self.time.run(lambda: bool(condition()), self.time.now() + seconds)
        assert not self.broker.failures

    def worker(self, slot: str) -> Worker:
        return Worker(self, slot)

    def producer(self, name: str = "producer") -> tuple[Producer, LogLines]:
        lines = LogLines()
        config = {
            "transactional.id": name,
            "transaction.timeout.ms": 20_000,
            "socket.timeout.ms": 1_000,
        }
        producer = Producer(config, self.broker, self.network, lines.logger())
        producer.init_transactions(10)
        return producer, lines

    def clients(self, slot: str) -> SimulatedClients:
        return SimulatedClients(self.broker, self.network, Kafka(), "group", slot)

    def cluster(self) -> Cluster:
        return Cluster(self.clients("reader").admin, "group", free_steps())


class Worker:
    """A process with a consumer that polls for ever, and writes down what becomes of it."""

    def __init__(self, world: World, slot: str) -> None:
        self.told: list[tuple[str, list[int]]] = []
        self.messages: list[Message] = []
        self.errors: list[KafkaError] = []
        self.process = Process(slot)
        self.hangs = 0.0
        self._world = world
        self._slot = slot
        world.time.spawn(self.process, self._run)

    @property
    def owned(self) -> list[int]:
        found: list[int] = []
        for kind, numbers in self.told:
            found = numbers if kind == "assign" else []
        return found

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def _run(self) -> None:
        config = {**CONFIG, "group.instance.id": self._slot}
        self.client = Consumer(config, self._world.broker, self._world.network)
        self.client.subscribe(
            ["input"],
            on_assign=lambda _, parts: self._tell("assign", parts),
            on_revoke=lambda _, parts: self._tell("revoke", parts),
            on_lost=lambda _, parts: self._tell("lost", parts),
        )
        while True:
            message = self.client.poll(0.1)
            if message is not None:
                error = message.error()
                (self.messages if error is None else self.errors).append(error or message)
            if self.hangs:
                seconds, self.hangs = self.hangs, 0.0
                self._world.time.pause(seconds)

    def _tell(self, kind: str, partitions: list[TopicPartition]) -> None:
        self.told.append((kind, [each.partition for each in partitions]))
        if kind == "assign":
            self.client.assign([TopicPartition(p.topic, p.partition, 0) for p in partitions])


@pytest.fixture
def world() -> World:
    return World()


def codes(errors: list[KafkaError]) -> list[int]:
    return [e.code() for e in errors if e.code() != KafkaError._PARTITION_EOF]


class TestProcesses:
    def test_one_that_is_stopped_loses_its_partitions_and_joins_again(self, world: World) -> None:
        first, second = world.worker("0"), world.worker("1")
        world.until(lambda: len(first.owned) == len(second.owned) == 2)
        first.process.stopped_until = world.time.now() + 3 * SESSION_SECONDS
        world.until(lambda: len(second.owned) == 4)
        assert len(first.owned) == 2, "it does not know"
        world.until(lambda: len(first.owned) == len(second.owned) == 2)
        assert first.kinds == ["assign", "revoke", "assign", "lost", "assign"] or (
            first.kinds == ["assign", "lost", "assign"]
        )

    def test_one_that_comes_back_in_time_disturbs_nobody(self, world: World) -> None:
        first, second = world.worker("0"), world.worker("1")
        world.until(lambda: len(first.owned) == len(second.owned) == 2)
        generation, share, told = world.broker.group("group").generation, second.owned, first.told
        second.process.kill()
        again = world.worker("1")
        world.until(lambda: again.owned)
        assert (again.owned, world.broker.group("group").generation) == (share, generation)
        assert first.told == told

    def test_a_dead_one_without_successor_is_missed_after_its_session(self, world: World) -> None:
        first, second = world.worker("0"), world.worker("1")
        world.until(lambda: len(first.owned) == len(second.owned) == 2)
        second.process.kill()
        killed = world.time.now()
        world.until(lambda: len(first.owned) == 4)
        assert SESSION_SECONDS - 2 < world.time.now() - killed < SESSION_SECONDS + 3

    def test_one_that_does_not_poll_loses_its_partitions(self, world: World) -> None:
        worker = world.worker("0")
        world.until(lambda: len(worker.owned) == 4)
        worker.hangs = 60.0
        world.until(lambda: "lost" in worker.kinds, 120)
        assert KafkaError._MAX_POLL_EXCEEDED in codes(worker.errors)
        world.until(lambda: len(worker.owned) == 4)

    @pytest.mark.parametrize("stall_seconds", [0.0, 8.0])
    def test_the_engine_ends_when_another_takes_its_slot(
        self, world: World, stall_seconds: float
    ) -> None:
        """Also when it hears of its assignment and of the fence behind it at the same time."""

        class Listener:
            assigned = revoked = lost = staticmethod(lambda partitions: None)

        def run(stall_seconds: float) -> None:
            clock = Clock(world.time)
            consumer = EngineConsumer(
                world.clients("0"),
                ["input"],
                Listener(),
                in_hand(10, 1_000, clock),
                free_steps(),
                clock,
            )
            consumer.subscribe()
            world.time.pause(stall_seconds)
            while True:
                consumer.fetch(0.1)

        tasks = [world.time.spawn(Process("old"), lambda: run(stall_seconds))]
        world.until(lambda: world.broker.group("group").members)
        world.time.pause(1)
        tasks.append(world.time.spawn(Process("new"), lambda: run(0.0)))
        world.until(tasks[0].done)
        assert isinstance(tasks[0].error, MemberFenced)
        assert not tasks[1].done()


class TestOperators:
    def test_a_restart_keeps_the_generation_and_is_told_in_the_log(self, world: World) -> None:
        worker, (producer, lines) = world.worker("0"), world.producer()
        world.until(lambda: len(worker.owned) == 4)
        generation = world.broker.group("group").generation
        world.broker.restart(3.0)
        world.time.pause(10)
        producer.poll(0)
        assert lines.suspicious, "the connection was lost"
        assert world.broker.group("group").generation == generation
        world.broker.append("input", 0, b"after")
        world.until(lambda: worker.messages)

    def test_markers_wait_for_the_broker(self, world: World) -> None:
        world.broker.create_topic("output")
        producer, _ = world.producer()
        producer.begin_transaction()
        producer.produce("output", b"x")
        world.broker.pace.markers = world.broker.pace.slow_markers = (1.0, 1.0)
        producer.commit_transaction(5)
        world.broker.restart(5.0)
        world.time.pause(3)
        assert not world.broker.visible("output")
        world.until(lambda: world.broker.visible("output"))

    def test_a_recreated_topic_is_read_on_in_silence(self, world: World) -> None:
        worker, cluster = world.worker("0"), world.cluster()
        for number in range(3):
            world.broker.append("input", 0, b"old %d" % number)
        world.until(lambda: len(worker.messages) == 3)
        before = cluster.topics(["input"])["input"]
        world.broker.recreate_topic("input")
        for number in range(5):
            world.broker.append("input", 0, b"new %d" % number)
        world.until(lambda: len(worker.messages) == 5)
        assert [m.value() for m in worker.messages][3:] == [b"new 3", b"new 4"]
        after = cluster.topics(["input"])["input"]
        assert isinstance(before, TopicFacts)
        assert isinstance(after, TopicFacts)
        assert before.topic_id != after.topic_id

    @pytest.mark.parametrize("kept", [False, True])
    def test_offsets_of_a_deleted_topic(self, world: World, kept: bool) -> None:
        world.broker.reset_offsets("group", {("input", 0): 5})
        world.broker.recreate_topic("input", keep_offsets=kept)
        partition = Partition("input", 0)
        expected = Committed(5, "") if kept else Committed(None, None)
        assert world.cluster().committed([partition]) == {partition: expected}

    def test_offsets_are_reset_by_a_tool_only_while_nobody_is_there(self, world: World) -> None:
        worker = world.worker("0")
        world.until(lambda: worker.owned)
        with pytest.raises(KafkaException) as error:
            world.broker.reset_offsets("group", {("input", 0): 0})
        assert error.value.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID
        world.broker.remove_member("group", "0")
        worker.process.kill()
        world.broker.reset_offsets("group", {("input", 0): 3})
        assert world.broker.committed("group", "input", 0) == (Offset(3, ""), False)
        world.broker.expire_offsets("group")
        assert world.broker.committed("group", "input", 0) == (None, False)

    def test_what_retention_deletes_ends_the_partition(self, world: World) -> None:
        for _ in range(5):
            world.broker.append("input", 0, b"x")
        world.broker.trim("input", 0, 3)
        worker = world.worker("0")
        world.until(lambda: KafkaError._AUTO_OFFSET_RESET in codes(worker.errors))
        assert world.cluster().log_ranges([Partition("input", 0)])[("input", 0)].start == 3

    def test_a_truncated_log_is_told_by_the_leader_epoch(self, world: World) -> None:
        for _ in range(5):
            world.broker.append("input", 0, b"x")
        world.broker.truncate("input", 0, 2)
        for _ in range(5):
            world.broker.append("input", 0, b"y")
        client = Consumer(CONFIG, world.broker, world.network)
        client.assign([TopicPartition("input", 0, 0)])
        client.seek(TopicPartition("input", 0, 4, leader_epoch=0))
        [message] = client.consume(1, 5)
        assert message.error().code() == KafkaError._AUTO_OFFSET_RESET
        assert "truncat" in message.error().str().lower()

    def test_added_partitions_are_found(self, world: World) -> None:
        worker = world.worker("0")
        world.until(lambda: len(worker.owned) == 4)
        world.broker.add_partitions("input", 6)
        world.until(lambda: len(worker.owned) == 6)

    def test_sending_offsets_may_never_return(self, world: World) -> None:
        producer, _ = world.producer()
        producer.begin_transaction()
        world.broker.hang_chance = 1.0
        member = Consumer(CONFIG, world.broker, world.network)
        offsets = [TopicPartition("input", 0, 1)]
        sending = world.time.spawn(
            Process("worker"),
            lambda: producer.send_offsets_to_transaction(
                offsets, member.consumer_group_metadata(), 8
            ),
        )
        world.time.later(0.0001, lambda: world.broker.restart(1.0))
        with pytest.raises(TimeoutError):
            sending.result(60)


class TestRequests:
    @pytest.mark.parametrize("fate", [Fate.LOST, Fate.REPLY_LOST, Fate.LATE])
    def test_produce_is_sent_again_and_taken_once(self, world: World, fate: Fate) -> None:
        world.broker.create_topic("output")
        producer, lines = world.producer()
        fates = iter([fate, fate])
        world.network.fates = lambda request: (
            next(fates, Fate.ARRIVES) if request.name == "Produce" else Fate.ARRIVES
        )
        producer.begin_transaction()
        for number in range(20):
            producer.produce("output", b"%d" % number)
        producer.commit_transaction(200)
        world.time.pause(200)
        assert [m.value() for m in world.broker.visible("output")] == [
            b"%d" % number for number in range(20)
        ]
        producer.poll(0)
        assert lines.suspicious

    def test_a_lost_answer_to_a_refusal_is_asked_for_again(self, world: World) -> None:
        producer, _ = world.producer()
        world.producer()
        producer.begin_transaction()
        fates = iter([Fate.REPLY_LOST])
        world.network.fates = lambda _: next(fates, Fate.ARRIVES)
        member = Consumer(CONFIG, world.broker, world.network)
        with pytest.raises(KafkaException) as error:
            producer.send_offsets_to_transaction(
                [TopicPartition("input", 0, 1)], member.consumer_group_metadata(), 8
            )
        assert error.value.args[0].code() == KafkaError._FENCED

    def test_what_is_sent_last_stands_whichever_marker_comes_first(self, world: World) -> None:
        world.broker.pace.slow_chance = 0.0
        member = Consumer(CONFIG, world.broker, world.network).consumer_group_metadata()
        for number, seconds in enumerate((2.0, 0.1), 1):
            producer, _ = world.producer(f"producer-{number}")
            producer.begin_transaction()
            producer.send_offsets_to_transaction([TopicPartition("input", 0, number)], member, 8)
            world.broker.pace.markers = seconds, seconds
            producer.commit_transaction(8)
        world.until(world.broker.settled)
        assert world.broker.committed("group", "input", 0) == (Offset(2, None), False)


@pytest.mark.parametrize("seed", range(3))
def test_engine_rooms_over_it_go_the_same_way_each_time(seed: int) -> None:
    logging.disable(logging.NOTSET)
    first: Any = smoke.run(seed)
    assert first == smoke.run(seed)
