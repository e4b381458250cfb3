"""`processor status`, `offsets` and `outbox` on rows and offsets as a worker leaves them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import CommandLine, command_line, write_pipeline
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from devstack import Kafka
from processor.engine.batch import Record, Source
from processor.engine.outbox import seal
from processor.engine.recovery import make_metadata
from processor.operations import migrations
from processor.operations.readings import read
from processor.operations.status import Status, status
from processor.settings import Database, Settings
from processor.settings import Kafka as KafkaSettings

LINEAGE, TOKEN = "0f0f0f0f0f0f0f0f", "abababababababab"
MESSAGES = 10
BACKLOG = 5_000
SETTLE_SECONDS = 60.0


@dataclass
class World:
    """One input topic with two partitions, a group, and the database."""

    group: str
    topic: str
    database: str
    cluster_id: str
    servers: str

    def place(self, partition: int) -> tuple[str, str, str, int]:
        return self.cluster_id, self.group, self.topic, partition

    def row(self, partition: int, h: int, p: int, *, handled: int = 0) -> int:
        with psycopg.connect(self.database) as connection:
            found = connection.execute(
                "INSERT INTO processor.progress (cluster_id, group_id, topic, topic_id, partition,"
                " next_offset, published_offset, lineage, token, tokens_in_k, system_identifier,"
                " initial_partitions, handled) VALUES (%s, %s, %s, 'id', %s, %s, %s, %s, %s,"
                " ARRAY[%s], 1, 2, %s) RETURNING id",
                [*self.place(partition), h, p, LINEAGE, TOKEN, TOKEN, handled],
            ).fetchone()
        assert found is not None
        return int(found[0])

    def report(self, partition: int, state: str, *told: str) -> None:
        slot = f"{self.group}:host:0"
        with psycopg.connect(self.database) as connection:
            connection.execute(
                "INSERT INTO processor.slots (slot, group_id, incarnation, process_id, host)"
                " VALUES (%s, %s, 'i', 1, 'host') ON CONFLICT DO NOTHING",
                (slot, self.group),
            )
            reason, detail, remedy = told or (None, None, None)
            connection.execute(
                "INSERT INTO processor.partition_states"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [*self.place(partition), slot, state, reason, detail, remedy],
            )

    def asked(self) -> list[tuple[Any, ...]]:
        """The requests to owners, each with its row of the audit."""
        with psycopg.connect(self.database) as connection:
            return connection.execute(
                "SELECT command, partition, requested_by, actor, a.cluster_id, detail"
                " FROM processor.control c LEFT JOIN processor.audit a"
                " USING (group_id, topic, partition) WHERE group_id = %s",
                (self.group,),
            ).fetchall()

    def outbox(self, row: int, partition: int, first: int, end: int) -> None:
        source = Source("id", partition, LINEAGE, first, end)
        records = [
            Record("out", b"k", b'{"n": 1}', [("h", b"\xff")], 1_700_000_000_000, None, first),
            Record("out", None, None, [], 1_700_000_000_000, 3, None),
        ]
        entry = seal(row, source, records)
        with psycopg.connect(self.database) as connection:
            connection.execute(
                "INSERT INTO processor.outbox VALUES (%s, %s, %s, %s, %s, %s)",
                (row, first, end, len(records), entry.checksum, entry.payload),
            )

    def commit(self, partition: int, k: int, metadata: str) -> None:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        place = TopicPartition(self.topic, partition, k, metadata)
        consumer.commit(offsets=[place], asynchronous=False)
        consumer.close()


@pytest.fixture
def world(
    kafka: Kafka, admin: AdminClient, database: str, topic: Callable[..., str], group: str
) -> World:
    migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]
    name = topic("in", partitions=2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(2 * MESSAGES):
        producer.produce(name, b"x", partition=number % 2)
    producer.flush(30)
    cluster_id = admin.describe_cluster().result(10).cluster_id
    return World(group, name, database, cluster_id, kafka.bootstrap_servers)


@pytest.fixture
def run(tmp_path: Path, kafka: Kafka, database: str) -> CommandLine:
    return command_line(tmp_path, kafka, database)


def test_both_sides_are_shown_together(world: World, run: CommandLine) -> None:
    row = world.row(0, 8, 3, handled=8)
    world.outbox(row, 0, 5, 8)
    world.commit(0, 5, make_metadata(LINEAGE, TOKEN))
    world.report(0, "running")
    found = run("status", "--group", world.group, "--json")
    assert found.code == 0, found.err
    first, second = found.json["partitions"]
    assert (first["state"], first["slot"]) == ("running", f"{world.group}:host:0")
    offsets = ("published_offset", "committed_offset", "next_offset", "log_end", "lag")
    assert [first[name] for name in offsets] == [3, 5, 8, MESSAGES, 5]
    assert (first["outbox_rows"], first["handled"], first["broken"]) == (1, 8, None)
    assert (second["state"], second["log_end"], second["lag"]) == ("new", MESSAGES, None)
    assert found.json["verdict"] == "2 partitions: 1 running, 1 new, lag 5"


def test_a_halted_partition_comes_with_its_remedy(world: World, run: CommandLine) -> None:
    for partition in (0, 1):
        world.row(partition, 8, 8)
    world.report(0, "halted", "input-lost", "the log begins at 9", "processor offsets skip")
    world.report(1, "running")
    found = run("status", "--group", world.group)
    assert found.code == 1
    assert found.out.startswith(f"{world.group}: 1 of 2 partitions are halted")
    assert f"{world.topic}/0 halted: input-lost: the log begins at 9" in found.out
    assert "remedy: processor offsets skip" in found.out


def test_all_halted_has_its_own_exit_code(world: World, run: CommandLine) -> None:
    for partition in (0, 1):
        world.row(partition, 8, 8)
        world.report(partition, "halted", "input-lost", "d", "r")
    assert run("status", "--group", world.group).code == 5


def test_a_resume_is_for_halts_that_end_by_a_word(world: World, run: CommandLine) -> None:
    world.report(0, "halted", "handler-halt", "the switch is off", "processor resume")
    world.report(1, "halted", "input-lost", "the log begins at 9", "processor offsets skip")
    dry = run("resume", "--group", world.group, "--dry-run", "--json")
    assert [each["requested"] for each in dry.json] == [False, False]
    assert world.asked() == []
    done = run("resume", "--group", world.group, "--json")
    assert [each["requested"] for each in done.json] == [True, False]
    assert done.json[1]["note"] == "resolve it first: processor offsets skip"
    [(command, partition, actor, *audited)] = world.asked()
    assert (command, partition) == ("resume", 0)
    assert actor.endswith(f"@{socket.gethostname()}")
    assert audited == [actor, world.cluster_id, {"reason": "handler-halt"}]


def test_what_is_not_halted_is_not_resumed(world: World, run: CommandLine) -> None:
    world.report(0, "running")
    found = run("resume", "--group", world.group, "--partition", f"{world.topic}/0")
    assert (found.code, "is not halted" in found.error) == (2, True)


def test_a_broken_invariant_is_a_bad_verdict(world: World, run: CommandLine) -> None:
    world.row(0, 8, 3)
    world.commit(0, 9, "")
    found = run("status", "--group", world.group, "--json")
    assert found.code == 1
    assert found.json["partitions"][0]["broken"] == "K 9 is beyond H 8"


def test_without_kafka_postgres_is_shown(world: World, run: CommandLine) -> None:
    world.row(0, 8, 3)
    found = run("status", "--group", world.group, "--json", kafka__bootstrap_servers="127.0.0.1:1")
    assert found.code == 0
    assert "does not answer" in found.json["note"]
    (only,) = found.json["partitions"]
    assert (only["next_offset"], only["committed_offset"]) == (8, None)


def test_rows_of_another_cluster_are_not_taken_for_ours(world: World, run: CommandLine) -> None:
    world.cluster_id = "elsewhere"
    world.row(0, 8, 3)
    assert run("status", "--group", world.group, "--json").json["partitions"] == []


def test_offsets_show_names_what_k_carries(world: World, run: CommandLine) -> None:
    for partition in (0, 1):
        world.row(partition, 8, 3)
    world.commit(0, 5, make_metadata(LINEAGE, TOKEN))
    world.commit(1, 5, "someone else's")
    found = run("offsets", "show", "--group", world.group, "--json")
    assert found.code == 0, found.err
    first, second = found.json["partitions"]
    assert (first["mark"], first["metadata"]) == ("known", make_metadata(LINEAGE, TOKEN))
    assert (second["mark"], second["metadata"]) == ("alien", "someone else's")
    assert first["row"]["lineage"] == LINEAGE
    assert TOKEN in run("offsets", "show", "--group", world.group).out


def test_a_transaction_under_way_shows_as_pending(
    world: World, run: CommandLine, kafka: Kafka
) -> None:
    world.row(0, 8, 3)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": world.group})
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"{world.group}:pending"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    # Of a group without members: as any tool from outside could.
    place = TopicPartition(world.topic, 0, 5)
    metadata = consumer.consumer_group_metadata()
    producer.send_offsets_to_transaction([place], metadata, 30)
    found = run("offsets", "show", "--group", world.group, "--json")
    producer.abort_transaction(30)
    consumer.close()
    first = found.json["partitions"][0]
    assert (first["pending"], first["committed_offset"]) == (True, None)


def test_the_invariant_is_seen_to_hold_while_a_processor_runs(
    world: World, run: CommandLine, kafka: Kafka, topic: Callable[..., str]
) -> None:
    """P is read before K and K before H: a sound group never looks broken, however busy it is."""
    job = write_pipeline(run.directory, world.group, world.topic, topic("out"))
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers),
        database=Database(url=world.database),  # type: ignore[arg-type]
        batch_max_messages=50,
    )
    with subprocess.Popen(
        run.command("run", job),
        cwd=run.directory,
        env=run.environment(batch_max_messages="50"),
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            found = settled(settings, world)
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert {each.state for each in found.partitions} == {"running"}
    assert sum(each.handled for each in found.partitions) == 2 * MESSAGES + BACKLOG


def settled(settings: Settings, world: World) -> Status:
    """Produce a backlog and look without a break until it is done."""
    deadline = time.monotonic() + SETTLE_SECONDS
    producer = Producer({"bootstrap.servers": world.servers})
    sent = 0
    while time.monotonic() < deadline:
        for number in range(sent, min(sent + 200, BACKLOG)):
            producer.produce(world.topic, b"x", partition=number % 2)
        sent = min(sent + 200, BACKLOG)
        producer.flush(30)
        found = status(read(settings, world.group))
        assert [each.broken for each in found.partitions if each.broken] == []
        running = [each for each in found.partitions if each.state == "running"]
        if sent == BACKLOG and len(running) == 2 and not any(each.lag for each in running):
            return found
    raise AssertionError(f"not done after {SETTLE_SECONDS} s: {found}")


def test_the_outbox_is_listed_and_decoded(world: World, run: CommandLine) -> None:
    world.outbox(world.row(0, 8, 3), 0, 5, 8)
    listed = run("outbox", "list", "--group", world.group, "--json")
    (entry,) = listed.json
    assert (entry["topic"], entry["first_offset"], entry["next_offset"]) == (world.topic, 5, 8)
    assert (entry["outputs"], entry["bytes"] > 0, entry["age_seconds"] >= 0) == (2, True, True)
    shown = run("outbox", "show", world.topic, "0", "5", "--group", world.group, "--json")
    assert shown.json == [
        {
            "topic": "out",
            "key": "k",
            "value": '{"n": 1}',
            "headers": [["h", "base64:/w=="]],
            "timestamp": 1_700_000_000_000,
            "partition": None,
            "source_offset": 5,
        },
        {
            "topic": "out",
            "key": None,
            "value": None,
            "headers": [],
            "timestamp": 1_700_000_000_000,
            "partition": 3,
            "source_offset": None,
        },
    ]


def test_a_damaged_or_missing_outbox_row_is_told_in_one_line(
    world: World, run: CommandLine
) -> None:
    world.outbox(world.row(0, 8, 3), 0, 5, 8)
    missing = run("outbox", "show", world.topic, "0", "6", "--group", world.group)
    assert (missing.code, "has no row" in missing.error) == (2, True)
    with psycopg.connect(world.database) as connection:
        connection.execute("UPDATE processor.outbox SET checksum = 1")
    damaged = run("outbox", "show", world.topic, "0", "5", "--group", world.group)
    assert (damaged.code, "checksum" in damaged.error) == (2, True)


def test_dead_letters_are_listed_and_shown(world: World, run: CommandLine) -> None:
    headers = b"\x91\x92\xa1h\xc4\x01\xff"  # MessagePack: [["h", b"\xff"]]
    with psycopg.connect(world.database) as connection:
        connection.execute(
            'INSERT INTO processor.dead_letters (group_id, topic, topic_id, partition, "offset",'
            " key, value, headers, error, reason, attempts)"
            " VALUES (%s, %s, 'id', 0, 4, NULL, %s, %s, 'DecodeError', 'not JSON', 1)",
            (world.group, world.topic, b"\xff", headers),
        )
    (listed,) = run("dead-letters", "list", "--group", world.group, "--json").json
    assert (listed["offset"], listed["error"], listed["reason"]) == (4, "DecodeError", "not JSON")
    number = str(listed["id"])
    shown = run("dead-letters", "show", number, "--group", world.group, "--json").json
    assert (shown["key"], shown["value"]) == (None, "base64:/w==")
    assert shown["headers"] == [["h", "base64:/w=="]]
    missing = run("dead-letters", "show", "999999", "--group", world.group)
    assert (missing.code, "no dead letter 999999" in missing.error) == (2, True)
