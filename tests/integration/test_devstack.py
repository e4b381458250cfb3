"""The stack does what the fault tests will rely on: kill, pause, restart, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devstack import Kafka, Postgres, Stack, StackError
from devstack.waiting import wait_until

TOPIC = "kept"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack to break, so that the shared one is spared."""
    with Stack() as stack:
        yield stack


def produce(servers: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "message.timeout.ms": 20_000})
    failures: list[object] = []
    for value in values:
        producer.produce(
            TOPIC, value, on_delivery=lambda error, _: failures.append(error) if error else None
        )
    assert producer.flush(30) == 0
    assert failures == []


def consume(servers: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    try:
        return [bytes(message.value() or b"") for message in consumer.consume(count, 20)]
    finally:
        consumer.close()


def create_topic(kafka: Kafka, replicas: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(TOPIC, 1, replicas)])[TOPIC].result(30)
    kafka.wait_ready()


def answers(servers: str, timeout_seconds: float = 0.5) -> bool:
    try:
        AdminClient({"bootstrap.servers": servers, "log_level": 0}).list_topics(
            timeout=timeout_seconds
        )
    except KafkaException:
        return False
    return True


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids)


class TestKafka:
    def test_keeps_its_data_over_kill_and_orderly_restart(self, own: Stack) -> None:
        create_topic(own.kafka)
        produce(own.kafka.bootstrap_servers, b"one", b"two")
        pid = own.kafka.nodes[0].child.pid

        own.kafka.kill()
        assert gone([pid])()
        assert not answers(own.kafka.bootstrap_servers)
        own.kafka.restart()
        produce(own.kafka.bootstrap_servers, b"three")
        own.kafka.restart()

        assert consume(own.kafka.bootstrap_servers, 3) == [b"one", b"two", b"three"]

    def test_answers_nothing_while_paused(self, own: Stack) -> None:
        own.kafka.pause()
        assert not answers(own.kafka.bootstrap_servers)
        own.kafka.resume()
        assert answers(own.kafka.bootstrap_servers, timeout_seconds=20)

    def test_can_be_killed_while_paused(self, own: Stack) -> None:
        own.kafka.pause()
        own.kafka.kill()
        own.kafka.restart()
        assert answers(own.kafka.bootstrap_servers, timeout_seconds=20)

    def test_outlives_the_thread_that_started_it(self, own: Stack) -> None:
        """The kernel's parent-death signal is about threads: without the guard it would die."""
        starter = threading.Thread(target=own.kafka.restart)
        starter.start()
        starter.join()
        own.kafka.check()
        assert answers(own.kafka.bootstrap_servers, timeout_seconds=20)

    def test_shows_its_log_when_it_died(self, own: Stack) -> None:
        child = own.kafka.nodes[0].child
        child.log.open("a").write("last words\n")
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not child.alive, 10, "death")

        with pytest.raises(StackError, match=r"(?s)node 0 ended by signal 9.*\| last words"):
            own.kafka.wait_ready()
        with pytest.raises(StackError, match="node 0 ended"):
            own.check()
        own.kafka.restart()

    def test_shows_what_the_storage_tool_said(self, tmp_path: Path) -> None:
        kafka = Kafka(tmp_path, broker_config={"log.retention.hours": "never"})
        with pytest.raises(StackError, match=r"log\.retention\.hours"):
            kafka.start()

    @pytest.mark.slow
    def test_three_nodes_bear_the_loss_of_one(self, tmp_path: Path) -> None:
        begun = time.monotonic()
        with Kafka(tmp_path, 3) as kafka:
            assert time.monotonic() - begun < 15
            create_topic(kafka, replicas=3)
            produce(kafka.bootstrap_servers, b"one")
            kafka.kill(1)
            produce(kafka.bootstrap_servers, b"two")
            kafka.restart(1)
            assert consume(kafka.bootstrap_servers, 2) == [b"one", b"two"]


class TestPostgres:
    def test_keeps_what_was_committed_over_a_kill(self, own: Stack) -> None:
        url = own.postgres.create_database("kept")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE numbers (n int)")
            connection.execute("INSERT INTO numbers VALUES (1)")
            connection.commit()
            connection.execute("INSERT INTO numbers VALUES (2)")
            backend = connection.info.backend_pid
            postmaster = own.postgres.child.pid

            own.postgres.kill()

            assert gone([backend, postmaster])()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        own.postgres.start()
        assert query(url, "SELECT n FROM numbers") == [(1,)]
        own.postgres.restart()
        assert query(url, "SELECT n FROM numbers") == [(1,)]

    def test_stands_still_while_paused_and_goes_on(self, own: Stack) -> None:
        with psycopg.connect(own.postgres.url) as connection, ThreadPoolExecutor(1) as pool:
            own.postgres.pause()
            answer = pool.submit(connection.execute, "SELECT 1")
            with pytest.raises(TimeoutError):
                answer.result(0.3)
            own.postgres.resume()
            assert answer.result(10).fetchall() == [(1,)]

    def test_a_replica_follows_until_it_is_cut_off_and_takes_writes_once_promoted(
        self, own: Stack, tmp_path: Path
    ) -> None:
        url = own.postgres.create_database("followed")
        insert = "INSERT INTO numbers SELECT count(*) + 1 FROM numbers"

        def execute(url: str, statement: str) -> None:
            with psycopg.connect(url) as connection:
                connection.execute(statement.encode())

        execute(url, "CREATE TABLE numbers (n int)")
        with Postgres(tmp_path, replica_of=own.postgres) as replica:
            copy = replica.url_of("followed")
            execute(url, insert)
            wait_until(lambda: query(copy, "SELECT n FROM numbers") == [(1,)], 30, "the row")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                execute(copy, insert)
            replica.stop_receiving()
            execute(url, insert)
            replica.promote()
            assert query(copy, "SELECT n FROM numbers") == [(1,)]
            execute(copy, insert)
            replica.restart()
            assert query(copy, "SELECT n FROM numbers") == [(1,), (2,)]
        assert query(url, "SELECT n FROM numbers") == [(1,), (2,)]

    def test_stop_may_be_called_twice(self, own: Stack) -> None:
        own.postgres.stop()
        own.postgres.stop()
        with pytest.raises(StackError, match="not running"):
            own.postgres.pause()
        own.postgres.start()
        assert query(own.postgres.url, "SHOW fsync") == [("on",)]

    def test_takes_settings(self, own: Stack) -> None:
        own.postgres.settings["application_name"] = "it's \\ quoted"
        own.postgres.restart()
        own.postgres.settings.clear()
        # Without an application_name of the client's the server's own is shown.
        assert query(own.postgres.url, "SHOW application_name") == [("it's \\ quoted",)]
        own.postgres.restart()

    def test_shows_its_log_when_it_does_not_start(self, tmp_path: Path) -> None:
        postgres = Postgres(tmp_path, {"shared_buffers": "plenty"})
        try:
            with pytest.raises(StackError, match=r'(?s)ended with exit code 1.*"shared_buffers"'):
                postgres.start()
        finally:
            postgres.close()


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


class TestNothingIsLeft:
    def test_after_the_context(self) -> None:
        with Stack() as stack:
            pids = [stack.kafka.nodes[0].child.pid, stack.postgres.child.pid]
            assert stack.environment["PROCESSOR_DATABASE__URL"] == stack.postgres.url
        assert gone(pids)()
        assert not stack.data_dir.exists()

    def test_after_a_kill_of_the_owner(self) -> None:
        """Even with a forked child about, which holds every pipe of the owner's open."""
        script = """
            import os, time
            from devstack import Stack
            with Stack() as stack:
                if os.fork() == 0:
                    time.sleep(600)
                children = [stack.kafka.nodes[0].child, stack.postgres.child]
                print(stack.data_dir, *(child.pid for child in children),
                      *(child.guard_pid for child in children), flush=True)
                time.sleep(600)
        """
        code = "\n".join(line[12:] for line in script.splitlines())
        owner = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            process_group=0,
        )
        try:
            assert owner.stdout is not None
            folder, *numbers = owner.stdout.readline().split()
            pids = [int(number) for number in numbers]
            assert len(pids) == 4
            os.kill(owner.pid, signal.SIGKILL)
            wait_until(gone(pids), 10, "death of the orphans")
        finally:
            os.killpg(owner.pid, signal.SIGKILL)
            owner.communicate()
        assert Path(folder).exists()
        Stack().close()
        assert not Path(folder).exists()

    def test_after_ctrl_c_during_the_start(self) -> None:
        command = [sys.executable, "-m", "devstack", "up"]
        up = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
        wait_until(lambda: bool(children(up.pid)), 20, "first child")
        started = children(up.pid)
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(20) == 130
        wait_until(gone(started), 10, "end of the children")

    def test_after_ctrl_c(self) -> None:
        command = [sys.executable, "-m", "devstack", "up"]
        up = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
        )
        assert up.stdout is not None
        shown = {}
        for line in up.stdout:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            shown[name] = value
            if line.startswith("Ctrl-C"):
                break
        assert answers(shown["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"], timeout_seconds=20)
        assert query(shown["PROCESSOR_DATABASE__URL"], "SELECT 1") == [(1,)]
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(30) == 0
        assert not answers(shown["PROCESSOR_KAFKA__BOOTSTRAP_SERVERS"])
        with pytest.raises(psycopg.OperationalError):
            query(shown["PROCESSOR_DATABASE__URL"], "SELECT 1")
