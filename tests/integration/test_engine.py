"""The service on real servers: whatever comes in takes effect once in both stores."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from devstack import Kafka, Postgres, Service
from devstack.waiting import wait_until
from processor.engine.outbox import read_provenance
from processor.errors import Exit
from tests.support.pipelines import Act
from tests.support.running import WAIT_SECONDS, Scene, numbered

PARTITIONS = 24
QUICK_METADATA = '{"topic.metadata.refresh.interval.ms": 500}'

SceneFactory = Callable[..., Scene]
_partitions = itertools.count()


@pytest.fixture(scope="module")
def shared(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """One service for many tests, each with a partition of its own."""
    folder = tmp_path_factory.mktemp("engine")
    scene = Scene(kafka, postgres, admin, folder, partitions=PARTITIONS)
    with scene.service(topic_check_seconds="0.5") as service:
        wait_until(lambda: owned(scene, service) == PARTITIONS, WAIT_SECONDS, "all partitions")
        yield scene
        service.child.check()
    scene.close()


@pytest.fixture
def partition() -> int:
    return next(_partitions)


@pytest.fixture
def scenes(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path: Path
) -> Iterator[SceneFactory]:
    """Scenes of one test's own."""
    made: list[Scene] = []

    def make(**options: Any) -> Scene:
        made.append(Scene(kafka, postgres, admin, tmp_path, **options))
        return made[-1]

    yield make
    for scene in made:
        scene.close()


def owned(scene: Scene, service: Service) -> int:
    service.child.check()
    return int(
        scene.observed.value(
            "SELECT count(*) FROM processor.partition_states"
            " WHERE state = 'running' AND topic = %s",
            scene.acts,
        )
    )


def agree(scene: Scene, partition: int, numbers: list[int]) -> None:
    """Exactly these, once each and in order, in Postgres and in Kafka."""
    scene.wait_rest(partition)
    assert scene.effects(partition) == numbers, scene.dead_letters(partition)
    assert scene.told(partition) == numbers


class TestOutputs:
    """What is produced, and what it says of itself."""

    def test_every_message_takes_effect_once_in_both_stores(
        self, shared: Scene, partition: int
    ) -> None:
        shared.produce(partition, *numbered(*range(500)))
        agree(shared, partition, list(range(500)))

    def test_outputs_say_where_they_come_from(self, shared: Scene, partition: int) -> None:
        end = shared.produce(partition, *numbered(1, 2, 3))
        shared.wait_rest(partition)
        row = shared.row(partition)
        assert row is not None
        found = [told for told, _ in shared.outputs(partition)]
        assert [told.source_offset for told in found] == list(range(end))
        for told in found:
            assert (told.lineage, told.topic_id) == (row["lineage"], row["topic_id"])
            assert told.first <= (told.source_offset or 0) < told.next <= end
            assert 0 <= told.ordinal < told.count
        places = [(told.first, told.ordinal) for told in found]
        assert places == sorted(set(places))

    def test_bytes_tombstones_and_empty_keys_pass_unharmed(self, shared: Scene) -> None:
        headers = [("h", b"\x00\xff"), ("h", b""), ("none", None), ("é", b"x")]
        sent: list[tuple[bytes | None, bytes | None, Any]] = [
            (b"k", None, headers),
            (b"", b"", None),
            (None, b"\x00\xff\xfe", []),
            (b"\xff\x00", b"{not json", headers[:1]),
        ]
        for key, value, given in sent:
            shared.producer.produce(shared.raw, value, key, partition=0, headers=given)
        assert shared.producer.flush(WAIT_SECONDS) == 0
        shared.wait_rest(0, shared.raw)
        found = {told.source_offset: m for told, m in shared.outputs(0, shared.raw)}
        for offset, (key, value, given) in enumerate(sent):
            message = found[offset]
            assert (message.key(), message.value()) == (key, value)
            assert (message.headers() or [])[:-1] == list(given or [])

    def test_a_batch_handler_gets_all_of_them_once(self, shared: Scene) -> None:
        batches = shared.batches
        shared.produce(0, *numbered(1, 2, 3), Act(4, "fail"), *numbered(5, 6), topic=batches)
        shared.wait_rest(0, batches)
        assert shared.effects(0, batches) == [1, 2, 3, 5, 6]
        assert [letter["offset"] for letter in shared.dead_letters(0, batches)] == [3]
        outputs = shared.outputs(0, batches)
        assert {told.source_offset for told, _ in outputs} == {None}
        offsets = [json.loads(message.value())["more"] for _, message in outputs]
        assert list(itertools.chain(*offsets)) == [0, 1, 2, 4, 5]

    def test_handlers_read_what_they_wrote_before(self, shared: Scene, partition: int) -> None:
        name = f"total-{partition}"
        shared.produce(partition, *(Act(n, "total", name) for n in range(1, 41)))
        shared.wait_rest(partition)
        totals = [json.loads(m.value())["more"] for _, m in shared.outputs(partition)]
        assert totals == list(itertools.accumulate(range(1, 41)))
        total = shared.observed.value("SELECT total FROM totals WHERE name = %s", name)
        assert total == totals[-1]


class TestBadMessages:
    """A message that cannot be handled is set aside alone."""

    def test_the_others_of_the_batch_go_on(self, shared: Scene, partition: int) -> None:
        unique = 1_000 + partition
        shared.produce(
            partition,
            Act(1),
            Act(2, "fail"),
            Act(unique, "constraint"),
            Act(unique, "constraint"),
            Act(3, "large"),
            Act(4, "reject"),
            b"{",
            b'{"type": "unheard of"}',
            None,
            Act(5, "swallow"),
            Act(6, "text", "nul \x00"),
            Act(7),
        )
        agree(shared, partition, [1, unique, 7])
        found = {
            letter["offset"]: (letter["error"], letter["attempts"])
            for letter in shared.dead_letters(partition)
        }
        assert found == {
            1: ("ValueError", 3),
            3: ("UniqueViolation", 1),
            4: ("OutputTooLarge", 3),
            5: ("Reject", 1),
            6: ("DecodeError", 1),
            7: ("UnknownType", 1),
            8: ("DecodeError", 1),
            9: ("DivisionByZero", 1),
            10: ("DataError", 1),
        }
        row = shared.row(partition)
        assert row is not None
        assert (row["handled"], row["dead_lettered"], row["outputs"]) == (3, 9, 3)

    def test_a_dead_letter_holds_the_whole_message_and_the_reason(
        self, shared: Scene, partition: int
    ) -> None:
        shared.producer.produce(
            shared.acts,
            b'{"type": "act", "n": 1, "do": "fail", "text": "na\xc3\xafve \\u0000"}',
            b"\x00k",
            partition=partition,
            headers=[("h", b"\xff")],
        )
        shared.producer.flush(WAIT_SECONDS)
        shared.wait_h(partition, 1)
        [letter] = shared.dead_letters(partition)
        assert bytes(letter["key"]) == b"\x00k"
        assert b"fail" in bytes(letter["value"])
        assert letter["handler"] == "act"
        assert "naïve" in letter["reason"]
        assert "Traceback" in letter["trace"]

    def test_a_constraint_that_is_checked_late_is_the_messages_fault_too(
        self, shared: Scene, partition: int
    ) -> None:
        unique = 1_000 + partition
        acts = [Act(1), Act(unique, "deferred"), Act(unique, "deferred"), Act(2)]
        shared.produce(partition, *acts)
        wait_until(lambda: shared.h(partition) == 4, 20, "the batch to be done with")
        agree(shared, partition, [1, unique, 2])
        assert [letter["offset"] for letter in shared.dead_letters(partition)] == [2]


class TestWaiting:
    """What is nobody's fault, or the operator's to decide, holds up its partition alone."""

    def test_retry_waits_and_succeeds(self, shared: Scene, partition: int) -> None:
        shared.produce(partition, Act(1), Act(2, "retry"), Act(3))
        assert shared.wait_state(partition, "backing-off")["reason"] == "retry"
        agree(shared, partition, [1, 2, 3])
        assert shared.dead_letters(partition) == []

    def test_retry_is_not_tried_before_its_time(self, shared: Scene, partition: int) -> None:
        shared.produce(partition, Act(2, "retry"))
        shared.wait_rest(partition)
        [(_, message)] = shared.outputs(partition)
        tries = json.loads(message.value())["more"]
        # The batch that failed is run again at once, message by message; then it waits.
        assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(tries[1:]))

    def test_a_halt_is_resumed_by_command(self, shared: Scene, partition: int) -> None:
        name = f"switch-{partition}"
        shared.produce(partition, Act(1), Act(2, "halt", name), Act(3))
        state = shared.wait_state(partition, "halted", "handler-halt")
        assert "at offset 1: the switch is off" in state["detail"]
        assert "processor resume" in state["remedy"]
        assert shared.h(partition) == 1
        other = next(_partitions)
        shared.produce(other, *numbered(1))
        shared.wait_h(other, 1)
        assert shared.state(partition)["state"] == "halted", "it does not go on by itself"
        shared.resume(partition)
        wait_until(self.taken(shared), WAIT_SECONDS, "the command")
        shared.wait_state(partition, "halted", "handler-halt")
        shared.observed.execute("INSERT INTO switches VALUES (%s)", name)
        shared.resume(partition)
        agree(shared, partition, [1, 2, 3])
        assert shared.dead_letters(partition) == []

    def taken(self, shared: Scene) -> Callable[[], bool]:
        query = "SELECT count(*) FROM processor.control WHERE NOT acknowledged"
        return lambda: shared.observed.value(query) == 0

    def test_an_undeclared_output_topic_halts_and_dead_letters_nothing(
        self, shared: Scene, partition: int
    ) -> None:
        shared.produce(partition, Act(1), Act(2, "undeclared"), Act(3))
        state = shared.wait_state(partition, "halted", "pipeline-error")
        assert "'undeclared' is not declared" in state["detail"]
        assert shared.h(partition) == 1
        assert shared.dead_letters(partition) == []
        wait_until(lambda: shared.told(partition) == [1], WAIT_SECONDS, "what came before it")

    def test_a_missing_table_is_waited_for_and_nothing_is_dead_lettered(
        self, shared: Scene, partition: int
    ) -> None:
        shared.produce(partition, Act(1), Act(2, "refused"), Act(3))
        state = shared.wait_state(partition, "backing-off", "database-refused")
        assert "missing" in state["detail"]
        assert shared.h(partition) == 1
        shared.observed.execute("CREATE TABLE missing (n bigint)")
        agree(shared, partition, [1, 2, 3])
        assert shared.dead_letters(partition) == []


class TestIdle:
    """At rest everything stands at the log's end, past what no handler sees."""

    def test_p_k_and_h_pass_control_records_and_aborted_data(
        self, shared: Scene, partition: int, kafka: Kafka
    ) -> None:
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": f"idle-{partition}",
            }
        )
        producer.init_transactions(WAIT_SECONDS)

        def transaction(end: Callable[[], None], *numbers: int) -> None:
            producer.begin_transaction()
            for n in numbers:
                value = json.dumps({"type": "act", "n": n})
                producer.produce(shared.acts, value.encode(), key=b"k", partition=partition)
            producer.flush(WAIT_SECONDS)
            end()

        transaction(producer.commit_transaction, 1, 2)
        transaction(producer.abort_transaction, 3, 4)
        shared.wait_rest(partition)
        assert shared.h(partition) == 6
        transaction(producer.abort_transaction, 5)
        shared.wait_rest(partition)
        transaction(producer.commit_transaction, 6)
        agree(shared, partition, [1, 2, 6])

    def test_a_partition_with_aborted_data_alone_comes_to_rest(
        self, shared: Scene, partition: int, kafka: Kafka
    ) -> None:
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": f"idle-{partition}",
            }
        )
        producer.init_transactions(WAIT_SECONDS)
        producer.begin_transaction()
        producer.produce(shared.acts, b"aborted", partition=partition)
        producer.flush(WAIT_SECONDS)
        producer.abort_transaction()
        shared.wait_rest(partition)
        assert shared.h(partition) == 2
        assert shared.dead_letters(partition) == []

    def test_messages_without_outputs_move_k_soon(self, shared: Scene, partition: int) -> None:
        shared.produce(partition, *numbered(1, 2, 3, do="quiet"))
        shared.wait_rest(partition)
        assert shared.effects(partition) == [1, 2, 3]
        assert shared.told(partition) == []

    def test_the_verified_offset_follows(self, shared: Scene, partition: int) -> None:
        end = shared.produce(partition, *numbered(1, 2))
        shared.wait_rest(partition)
        wait_until(
            lambda: (shared.row(partition) or {})["verified_offset"] == end,
            WAIT_SECONDS,
            "the check of the topic's id",
        )


class TestStarting:
    """Where a group begins."""

    def test_latest_begins_at_the_end_and_later_partitions_at_their_start(
        self, scenes: SceneFactory, admin: AdminClient
    ) -> None:
        scene = scenes()
        scene.produce(0, *numbered(1, 2))
        settings = {"start_from": "latest", "kafka__consumer": QUICK_METADATA}
        with scene.service(**settings) as service:
            wait_until(lambda: owned(scene, service) == 1, WAIT_SECONDS, "the first partition")
            scene.produce(0, *numbered(3))
            agree(scene, 0, [3])
            request = [NewPartitions(scene.acts, 2)]
            for future in admin.create_partitions(request).values():
                future.result(WAIT_SECONDS)
            scene.kafka.wait_ready()
            scene.producer.list_topics(scene.acts, WAIT_SECONDS)
            scene.produce(1, *numbered(11, 12))
            scene.wait_h(1, 2)
            scene.produce(0, *numbered(4))
            agree(scene, 1, [11, 12])
            agree(scene, 0, [3, 4])
            row = scene.row(1)
            assert row is not None
            assert row["initial_partitions"] == 1

    def test_a_time_begins_at_the_first_message_from_then_on(self, scenes: SceneFactory) -> None:
        scene = scenes(partitions=2)
        noon = int(time.time() * 1_000) - 60_000
        for n, at in ((1, noon - 10), (2, noon), (3, noon + 10)):
            value = json.dumps({"type": "act", "n": n})
            scene.producer.produce(scene.acts, value.encode(), b"key", partition=0, timestamp=at)
        value = json.dumps({"type": "act", "n": 9})
        scene.producer.produce(scene.acts, value.encode(), partition=1, timestamp=noon - 10)
        assert scene.producer.flush(WAIT_SECONDS) == 0
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(noon // 1_000))
        with scene.service(start_from=f"{start}.{noon % 1_000:03}Z"):
            agree(scene, 0, [2, 3])
            agree(scene, 1, [])

    def test_a_trimmed_log_begins_at_its_start(
        self, scenes: SceneFactory, admin: AdminClient
    ) -> None:
        scene = scenes()
        scene.produce(0, *numbered(1, 2, 3))
        for future in admin.delete_records([TopicPartition(scene.acts, 0, 2)]).values():
            future.result(WAIT_SECONDS)
        with scene.service():
            agree(scene, 0, [3])


def test_a_worker_that_cannot_claim_its_slot_at_once_tries_again(scenes: SceneFactory) -> None:
    """Postgres went away after the start had reached it."""
    scene = scenes()
    with scene.service(faults="report.before=raise") as service:
        scene.produce(0, *numbered(1))
        agree(scene, 0, [1])
        assert "worker-ended" not in service.child.log.read_text()
        assert service.drain() == Exit.OK


class TestStopping:
    """SIGTERM finishes what is in hand."""

    def test_a_drained_service_leaves_nothing_open(self, scenes: SceneFactory) -> None:
        scene = scenes(partitions=3)
        with scene.service(workers=2) as service:
            wait_until(lambda: owned(scene, service) == 3, WAIT_SECONDS, "all partitions")
            for partition in range(3):
                scene.produce(partition, *numbered(*range(300)))
            for partition in range(3):
                scene.wait_h(partition, 1)
            begun = time.monotonic()
            assert service.drain() == Exit.OK
            assert time.monotonic() - begun < 15
        for partition in range(3):
            row, k = scene.row(partition), scene.k(partition)
            assert row is not None
            assert k is not None
            assert row["next_offset"] == k.offset
            assert row["published_offset"] == row["next_offset"]
            assert scene.observed.outbox(row["id"]) == []
            assert scene.state(partition)["state"] == "unowned"
        with scene.service():
            for partition in range(3):
                agree(scene, partition, list(range(300)))

    def test_a_second_service_in_the_same_slot_ends_the_first(self, scenes: SceneFactory) -> None:
        """One of the two gives up and says why; the other goes on."""
        scene = scenes()
        with scene.service() as first:
            wait_until(lambda: owned(scene, first) == 1, WAIT_SECONDS, "the partition")
            scene.produce(0, *numbered(1))
            scene.wait_h(0, 1)
            with scene.service() as second:
                services = [first, second]
                wait_until(
                    lambda: any(not each.child.alive for each in services),
                    WAIT_SECONDS,
                    "one of the two to give up",
                )
                [gone] = [each for each in services if not each.child.alive]
                assert gone.child.exit_code == Exit.SLOT_TAKEN
                assert "give each machine its own" in gone.child.log.read_text()
                assert "Traceback" not in gone.child.log.read_text()
                scene.produce(0, *numbered(2, 3))
                agree(scene, 0, [1, 2, 3])

    def test_a_killed_service_goes_on_where_it_was(self, scenes: SceneFactory) -> None:
        scene = scenes()
        with scene.service() as service:
            scene.produce(0, *numbered(*range(2_000)))
            scene.wait_h(0, 1)
            service.child.kill()
        with scene.service():
            agree(scene, 0, list(range(2_000)))


def produce_on(scene: Scene, partition: int, first: int, until: Callable[[], bool]) -> list[int]:
    """Produce a few messages at a time until something has happened; all their numbers."""
    numbers: list[int] = []
    while not until():
        new = list(range(first + len(numbers), first + len(numbers) + 20))
        scene.produce(partition, *numbered(*new))
        numbers += new
    return numbers


class TestServersAway:
    """Servers come and go; the service goes on by itself."""

    def test_postgres_restarts(self, shared: Scene, partition: int, postgres: Postgres) -> None:
        before = list(range(100))
        shared.produce(partition, *numbered(*before))
        shared.wait_h(partition, 1)
        postgres.restart()
        after = list(range(100, 200))
        shared.produce(partition, *numbered(*after))
        agree(shared, partition, before + after)

    def test_postgres_crashes(self, shared: Scene, partition: int, postgres: Postgres) -> None:
        before = list(range(100))
        shared.produce(partition, *numbered(*before))
        shared.wait_h(partition, 1)
        postgres.kill()
        after = list(range(100, 200))
        shared.produce(partition, *numbered(*after))
        postgres.start()
        agree(shared, partition, before + after)

    def test_connections_to_postgres_are_cut_while_batches_run(
        self, shared: Scene, partition: int
    ) -> None:
        cuts = itertools.count()

        def cut_ten_times() -> bool:
            shared.observed.terminate()
            return next(cuts) >= 10

        numbers = produce_on(shared, partition, 0, cut_ten_times)
        agree(shared, partition, numbers)
        assert shared.dead_letters(partition) == []


def test_provenance_can_be_read_by_anybody(shared: Scene, partition: int) -> None:
    """Documented form: eight fields."""
    shared.produce(partition, *numbered(7))
    shared.wait_rest(partition)
    [(_, message)] = shared.outputs(partition)
    header = dict(message.headers() or [])["processor-source"]
    assert header.count(b";") == 7
    assert read_provenance(header).source_offset == 0


def test_kafka_restarts(shared: Scene, partition: int, kafka: Kafka) -> None:
    before = list(range(100))
    shared.produce(partition, *numbered(*before))
    shared.wait_h(partition, 1)
    kafka.kill()
    kafka.restart()
    after = list(range(100, 200))
    shared.produce(partition, *numbered(*after))
    # The group may wait for the session of a member that the restart has cut off.
    wait_until(lambda: shared.at_rest(partition), 60, "rest after the restart")
    agree(shared, partition, before + after)
