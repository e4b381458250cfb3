"""`processor verify` on the real parts: a sound group is sound, and each damage is named."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import CommandLine, Finished, command_line
from confluent_kafka import Message, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from confluent_kafka.cimpl import TopicPartition

from devstack import Kafka, Postgres, Stack
from devstack.waiting import wait_until
from processor.engine.batch import Record, Source
from processor.engine.outbox import (
    PROVENANCE_HEADER,
    Provenance,
    provenance,
    read_provenance,
    seal,
)
from processor.errors import Exit
from processor.operations import migrations
from processor.settings import Database, Settings
from tests.support.brokers import read_to_end, wait_settled

ROOT = Path(__file__).parents[2]
SETTLE_SECONDS = 60.0
MESSAGES = 300
BAD, SILENT = b"bad", b"silent"

_numbers = itertools.count(1)

PIPELINE = """
from processor import Output, Pipeline, Reject

pipeline = Pipeline("{group}", outputs={outputs})

@pipeline.handler("{input}")
def handle(value: bytes):
    if value == b"bad":
        raise Reject("it is bad")
    if value == b"silent":
        return
    yield Output("{output}", key=value, value=value)
    yield Output("{output}", key=value + b"+", value=value)
"""


@dataclass
class World:
    """An input of two partitions, an output of two, a group and a database of its own."""

    run: CommandLine
    kafka: Kafka
    admin: AdminClient
    database: str
    group: str
    input: str
    output: str

    @property
    def job(self) -> str:
        return self.job_with(self.output)

    def job_with(self, *outputs: str) -> str:
        text = PIPELINE.format(
            group=self.group, input=self.input, output=outputs[0], outputs=list(outputs)
        )
        (self.run.directory / "job.py").write_text(text)
        return "job:pipeline"

    def verify(self, *arguments: str, job: str | None = None, **settings: str) -> Finished:
        return self.run("verify", job or self.job, *arguments, "--json", **settings)

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def produce(self, *values: bytes, partition: int | None = None) -> None:
        producer = Producer(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "enable.idempotence": True}
        )
        for number, value in enumerate(values):
            at = number % 2 if partition is None else partition
            producer.produce(self.input, value, partition=at)
            producer.poll(0)
        assert producer.flush(30) == 0

    def transaction(self, *values: bytes, commit: bool) -> None:
        """Leaves a control record in the log of partition 0, and aborted data or not."""
        name = f"{self.input}-{time.monotonic_ns()}"
        producer = Producer(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "transactional.id": name}
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            producer.produce(self.input, value, partition=0)
        producer.flush(30)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)
        # Else what comes next may be appended before the control record.
        wait_settled(self.admin, self.input)

    def outputs(self) -> list[Message]:
        wait_settled(self.admin, self.output)
        return read_to_end(self.kafka.bootstrap_servers, self.output)

    def put(self, topic: str, messages: Sequence[Message], source: bytes | None = None) -> None:
        """Copies of outputs, as another producer would make them."""
        producer = Producer(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "enable.idempotence": True}
        )
        for message in messages:
            headers = [(PROVENANCE_HEADER, source)] if source else message.headers()
            producer.produce(
                topic,
                message.value(),
                message.key(),
                partition=message.partition(),
                headers=headers,
            )
        assert producer.flush(30) == 0

    @contextlib.contextmanager
    def service(self, **settings: str) -> Iterator[None]:
        with (self.run.directory / "service.log").open("ab") as log:
            process = subprocess.Popen(
                self.run.command("run", self.job),
                cwd=self.run.directory,
                env=self.run.environment(**settings),
                stdout=log,
                stderr=log,
            )
            try:
                yield
                process.terminate()
                assert process.wait(40) == 0
            finally:
                process.kill()
                process.wait()

    def wait_handled(self, records: int) -> None:
        """Until so many are counted, and P has reached H."""

        def done() -> bool:
            found = self.sql(
                "SELECT coalesce(sum(handled + dead_lettered + skipped), 0),"
                " bool_and(published_offset = next_offset AND intent IS NULL)"
                " FROM processor.progress WHERE group_id = %s",
                self.group,
            )
            return found[0][0] >= records and bool(found[0][1])

        wait_until(done, SETTLE_SECONDS, f"{records} records to be handled")

    def handle(self, *values: bytes) -> None:
        """Produce, let a service handle all, and stop it."""
        self.produce(*values)
        with self.service():
            self.wait_handled(len(values))


@pytest.fixture
def world(
    kafka: Kafka,
    admin: AdminClient,
    database: str,
    topic: Callable[..., str],
    group: str,
    tmp_path: Path,
) -> World:
    migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]
    run = command_line(tmp_path, kafka, database)
    return World(
        run, kafka, admin, database, group, topic("in", partitions=2), topic("out", partitions=2)
    )


@pytest.fixture(scope="module")
def settled(
    kafka: Kafka, postgres: Postgres, admin: AdminClient, tmp_path_factory: pytest.TempPathFactory
) -> World:
    """A group that has handled all there is, in many batches, and is stopped."""
    name = f"settled-{os.getpid()}"
    database = postgres.create_database(name)
    migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]
    run = command_line(tmp_path_factory.mktemp("verify"), kafka, database)
    world = World(run, kafka, admin, database, name, f"{name}-in", f"{name}-out")
    create(world, world.input, world.output)
    world.transaction(b"1", b"2", commit=True)  # offset 2 of partition 0 is a control record
    world.transaction(b"3", commit=True)
    world.produce(*values(MESSAGES), BAD, BAD)
    with world.service(batch_max_messages="20"):
        world.wait_handled(MESSAGES + 5)
    return world


def create(world: World, *topics: str) -> None:
    for future in world.admin.create_topics([NewTopic(name, 2) for name in topics]).values():
        future.result(30)
    world.kafka.wait_ready()


Copied = Callable[[Callable[[list[Message]], list[Message]]], tuple[str, list[Message]]]


@pytest.fixture
def copied(settled: World) -> Copied:
    """Copies the outputs, changed, to a fresh topic; its pipeline, and the outputs as they were."""

    def copy(change: Callable[[list[Message]], list[Message]]) -> tuple[str, list[Message]]:
        fresh = f"{settled.output}-{next(_numbers)}"
        create(settled, fresh)
        settled.put(fresh, change(settled.outputs()))
        return settled.job_with(fresh), settled.outputs()

    return copy


def source_of(message: Message) -> Provenance:
    return read_provenance(dict(message.headers() or [])[PROVENANCE_HEADER])


def values(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def kinds(found: Finished) -> dict[str, int]:
    """How many of each kind of mismatch, over all partitions."""
    told: dict[str, int] = {}
    for partition in found.json["partitions"]:
        for finding in partition["findings"]:
            told[finding["kind"]] = told.get(finding["kind"], 0) + finding["count"]
    return told


def examples(found: Finished) -> str:
    return "\n".join(
        example
        for partition in found.json["partitions"]
        for finding in partition["findings"]
        for example in finding["examples"]
    )


def left_out(found: Finished) -> dict[str, int]:
    told: dict[str, int] = {}
    for partition in found.json["partitions"]:
        for item in partition["unverifiable"]:
            told[item["what"]] = told.get(item["what"], 0) + item["count"]
    return told


class TestSound:
    """What is right is called right."""

    def test_while_it_runs_and_after(self, world: World) -> None:
        """Verified again and again while batches are under way: never a false alarm."""
        sent = [BAD if n % 50 == 7 else SILENT if n % 3 == 0 else b"%d" % n for n in range(4_000)]
        letters = sent.count(BAD)
        outputs = 2 * (len(sent) - letters - sent.count(SILENT))
        with world.service(batch_max_messages="20"):
            runs = 0
            for at in range(0, len(sent), 400):
                world.produce(*sent[at : at + 400])
                found = world.verify()
                assert (found.code, kinds(found)) == (0, {}), found.out
                runs += 1
            assert runs == 10
            world.wait_handled(len(sent))
            busy = world.verify()
        after = world.verify()
        for found in (busy, after):
            assert (found.code, kinds(found), left_out(found)) == (0, {}, {}), found.out
            assert sum(each["records"] for each in found.json["partitions"]) == len(sent)
            assert sum(each["outputs_found"] for each in found.json["partitions"]) == outputs
            assert sum(each["dead_letters"] for each in found.json["partitions"]) == letters
        assert after.json["verdict"].startswith("both stores agree: 4,000 input records")

    def test_control_records_and_aborted_data_are_no_records(self, world: World) -> None:
        world.transaction(b"1", b"2", commit=True)
        world.transaction(b"3", commit=False)
        world.transaction(b"4", commit=True)
        with world.service():
            world.wait_handled(3)
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        first = found.json["partitions"][0]
        assert (first["records"], first["handled"], first["outputs_found"]) == (3, 3, 6)

    def test_an_open_transaction_on_the_output_is_waited_for(self, world: World) -> None:
        """Outputs below K lie behind it, and are seen once it ends."""
        world.handle(*values(20))
        other = Producer(
            {
                "bootstrap.servers": world.kafka.bootstrap_servers,
                "transactional.id": f"{world.group}-other",
                "transaction.timeout.ms": 3_000,
            }
        )
        other.init_transactions(30)
        other.begin_transaction()
        for partition in (0, 1):
            other.produce(world.output, b"x", partition=partition)
        assert other.flush(30) == 0
        world.produce(*values(20))
        with world.service():
            world.wait_handled(40)
            found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert sum(each["outputs_found"] for each in found.json["partitions"]) == 80

    def test_a_range_and_one_partition(self, world: World) -> None:
        world.handle(*values(MESSAGES))
        found = world.verify(
            "--topic", world.input, "--partition", "1", "--from", "10", "--to", "90"
        )
        assert (found.code, kinds(found)) == (0, {}), found.out
        [only] = found.json["partitions"]
        assert (only["partition"], only["start"], only["end"], only["records"]) == (1, 10, 90, 80)
        assert found.json["others"]["not_selected"] == MESSAGES

    def test_other_groups_and_other_producers_are_no_mismatch(self, world: World) -> None:
        world.handle(*values(20))
        producer = Producer({"bootstrap.servers": world.kafka.bootstrap_servers})
        producer.produce(world.output, b"somebody else's")
        assert producer.flush(30) == 0
        own, world.group = world.group, f"{world.group}-second"
        with world.service():
            world.wait_handled(20)
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert found.json["others"]["of_other_groups"] == 40
        assert found.json["others"]["without_provenance"] == 1
        world.group = own
        assert world.verify().code == 0

    def test_nothing_yet(self, world: World) -> None:
        found = world.verify()
        assert (found.code, found.json["verdict"]) == (0, "nothing is known of this group")

    def test_people_read_the_verdict_in_the_last_line(self, world: World) -> None:
        world.handle(*values(20))
        found = world.run("verify", world.job)
        assert found.code == 0
        assert found.out.splitlines()[-1] == (
            f"{world.group}: both stores agree: 20 input records, 0 dead letters, 40 outputs,"
            " 0 missing, 0 duplicated"
        )


class TestDamage:
    """What was broken on purpose is found and named."""

    def test_nothing_is_broken_yet(self, settled: World, copied: Copied) -> None:
        job, outputs = copied(lambda outputs: outputs)
        for found in (settled.verify(), settled.verify(job=job)):
            assert (found.code, kinds(found), left_out(found)) == (0, {}, {}), found.out
        assert len(outputs) == 2 * (MESSAGES + 3)

    def test_an_output_that_is_missing(self, settled: World, copied: Copied) -> None:
        job, outputs = copied(lambda outputs: outputs[:100] + outputs[101:])
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-missing": 1}
        told = source_of(outputs[100])
        assert (
            f"output {told.ordinal + 1} of {told.count} of batch [{told.first}, {told.next})"
            in examples(found)
        )
        assert "do not agree in 1 of 2 partitions: 1 outputs missing" in found.json["verdict"]

    def test_all_outputs_of_a_batch_are_missing(self, settled: World, copied: Copied) -> None:
        """No output tells of it any more: the counter does, and where it must have been."""
        batch = source_of(settled.outputs()[100])
        extent = (batch.partition, batch.first, batch.next)

        def without(outputs: list[Message]) -> list[Message]:
            sources = map(source_of, outputs)
            return [
                message
                for message, told in zip(outputs, sources, strict=True)
                if (told.partition, told.first, told.next) != extent
            ]

        job, _ = copied(without)
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-missing": batch.count}
        assert f"must be of input [{batch.first}, {batch.next})" in examples(found)

    def test_an_output_that_is_there_twice(self, settled: World, copied: Copied) -> None:
        """Wherever the second one is: in the same partition or in another one."""
        job, outputs = copied(lambda outputs: [*outputs, outputs[5], outputs[-1]])
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-duplicated": 2}
        told = source_of(outputs[5])
        assert f"of batch [{told.first}, {told.next}) once more" in examples(found)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({2: "2", 3: "3", 4: "0", 5: "1", 7: "2"}, "is of offset 2, where there is no record"),
            ({2: "10000", 3: "10001", 7: "10000"}, "beyond H"),
            ({6: "0123456789abcdef"}, "is of the foreign lineage 0123456789abcdef"),
            ({1: "77"}, "is of partition 77, which has no row"),
            ({4: "7", 5: "7"}, "claims output 7 of 7"),
            ({2: "x"}, "has an unreadable provenance"),
        ],
        ids=["source", "beyond", "lineage", "partition", "ordinal", "unreadable"],
    )
    def test_an_output_without_a_source(
        self, settled: World, copied: Copied, changed: dict[int, str], words: str
    ) -> None:
        def forged(outputs: list[Message]) -> list[Message]:
            template = next(each for each in outputs if source_of(each).partition == 0)
            fields = dict(template.headers() or [])[PROVENANCE_HEADER].decode().split(";")
            for at, value in changed.items():
                fields[at] = value
            template.set_headers([(PROVENANCE_HEADER, ";".join(fields).encode())])
            return [*settled.outputs(), template]

        job, _ = copied(forged)
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert kinds(found)["output-without-source"] >= 1
        assert words in examples(found)

    @pytest.mark.parametrize("counter", ["handled", "outputs", "dead_lettered", "skipped"])
    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_counter_that_was_changed(self, settled: World, counter: str, by: int) -> None:
        change = f"UPDATE processor.progress SET {counter} = {counter} + %s WHERE partition = 1"
        settled.sql(change, by)
        found = settled.verify()
        settled.sql(change, -by)
        assert found.code == Exit.VERDICT
        assert set(kinds(found)) == {"count-mismatch"}
        assert counter in examples(found)
        assert settled.verify().code == 0

    def test_outputs_out_of_order(self, settled: World, copied: Copied) -> None:
        job, _ = copied(lambda outputs: [outputs[-1], *outputs[:-1]])
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert set(kinds(found)) == {"order-broken"}

    def test_a_batch_that_was_handled_again_from_its_middle(
        self, settled: World, copied: Copied
    ) -> None:
        def forged(outputs: list[Message]) -> list[Message]:
            template = next(each for each in outputs if source_of(each).count > 4)
            fields = dict(template.headers() or [])[PROVENANCE_HEADER].decode().split(";")
            fields[2:6] = [str(int(fields[2]) + 1), fields[3], "0", "1"]
            fields[7] = fields[2]
            template.set_headers([(PROVENANCE_HEADER, ";".join(fields).encode())])
            return [*settled.outputs(), template]

        job, _ = copied(forged)
        found = settled.verify(job=job)
        assert found.code == Exit.VERDICT
        assert kinds(found)["batches-overlap"] == 1

    def test_a_dead_letter_of_no_record(self, settled: World) -> None:
        move = 'UPDATE processor.dead_letters SET "offset" = %s WHERE "offset" = %s AND partition=0'
        [(offset,)] = settled.sql('SELECT "offset" FROM processor.dead_letters WHERE partition = 0')
        settled.sql(move, 2, offset)
        found = settled.verify()
        settled.sql(move, offset, 2)
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"dead-letter-without-source": 1}

    def test_a_hole_in_the_outbox(self, world: World) -> None:
        """Two records are committed and not published; the outbox row of one of them is gone."""
        world.handle(*values(20))
        world.produce(b"a", b"b", partition=0)
        [(row, topic_id, lineage, h)] = world.sql(
            "UPDATE processor.progress SET next_offset = next_offset + 2, handled = handled + 2,"
            " outputs = outputs + 2 WHERE group_id = %s AND partition = 0"
            " RETURNING id, topic_id, lineage, next_offset - 2",
            world.group,
        )
        entries = [
            seal(
                row,
                Source(topic_id, 0, lineage, at, at + 1),
                [Record(world.output, b"k", b"v", [], int(time.time() * 1_000), 0, at)],
            )
            for at in (h, h + 1)
        ]
        for entry in entries:
            world.sql(
                "INSERT INTO processor.outbox VALUES (%s, %s, %s, 1, %s, %s)",
                row,
                entry.first,
                entry.next,
                entry.checksum,
                entry.payload,
            )
        whole = world.verify()
        assert (whole.code, kinds(whole)) == (0, {}), whole.out
        assert whole.json["partitions"][0]["outputs_waiting"] == 2
        world.sql("DELETE FROM processor.outbox WHERE first_offset = %s", h)
        found = world.verify()
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"outbox-damaged": 1}
        assert f"the outbox has no row that begins at {h}" in examples(found)
        world.sql("UPDATE processor.outbox SET checksum = 1")
        world.sql(
            "INSERT INTO processor.outbox VALUES (%s, %s, %s, 1, %s, %s)",
            row,
            h,
            h + 1,
            entries[0].checksum,
            entries[0].payload,
        )
        assert "checksum" in examples(world.verify())
        # What waits may be visible already: the same outputs, published.
        world.sql("DELETE FROM processor.outbox WHERE first_offset = %s", h + 1)
        world.sql(
            "INSERT INTO processor.outbox VALUES (%s, %s, %s, 1, %s, %s)",
            row,
            h + 1,
            h + 2,
            entries[1].checksum,
            entries[1].payload,
        )
        template = world.outputs()[0]
        for entry in entries:
            [(_, header)] = provenance(entry)
            world.put(world.output, [template], header)
        shown = world.verify()
        assert kinds(shown) == {}, shown.out

    def test_k_beyond_h(self, world: World) -> None:
        world.handle(*values(20))
        world.sql(
            "UPDATE processor.progress SET next_offset = 5, published_offset = 5, handled = 5,"
            " outputs = 10 WHERE partition = 0"
        )
        found = world.verify()
        assert found.code == Exit.VERDICT
        assert "K 10 is beyond H 5" in examples(found)


class TestNotVerifiable:
    """What can no longer be known is told, and never called lost."""

    def delete_below(self, world: World, topic: str, partition: int, offset: int) -> None:
        futures = world.admin.delete_records([TopicPartition(topic, partition, offset)])
        for future in futures.values():
            future.result(30)

    def test_input_that_retention_has_removed(self, world: World) -> None:
        world.handle(*values(40))
        self.delete_below(world, world.input, 0, 7)
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert left_out(found) == {"counted records that retention has removed from the input": 7}
        assert "7 not verifiable" in found.json["verdict"]

    def test_outputs_that_retention_has_removed(self, world: World) -> None:
        world.handle(*values(40))
        self.delete_below(world, world.output, 0, 3)
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert sum(left_out(found).values()) == 3

    def test_compacted_outputs(self, world: World, topic: Callable[..., str]) -> None:
        world.handle(*values(40))
        outputs = world.outputs()
        compacted = topic("out", partitions=2, config={"cleanup.policy": "compact"})
        world.put(compacted, outputs[4:])
        found = world.verify(job=world.job_with(compacted))
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert sum(left_out(found).values()) == 4

    def test_an_unknown_start(self, world: World) -> None:
        """No table keeps where a group that started at the latest offset began."""
        world.produce(*values(10))
        with world.service(start_from="latest"):
            wait_until(
                lambda: bool(world.sql("SELECT 1 FROM processor.progress")), 30, "the first rows"
            )
            world.produce(*values(20))
            world.wait_handled(20)
        found = world.verify(start_from="latest")
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert sum(left_out(found).values()) == 10

    def test_a_recorded_gap_is_told_as_such(self, world: World) -> None:
        world.handle(*values(40))
        world.sql("UPDATE processor.progress SET handled = handled - 2 WHERE partition = 0")
        world.sql(
            "INSERT INTO processor.audit (group_id, topic, partition, action, actor, detail)"
            " VALUES (%s, %s, 0, 'skip', 'somebody', '{\"from\": 4, \"to\": 6}')",
            world.group,
            world.input,
        )
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert left_out(found) == {"records that a recorded remedy has left out": 2}
        assert found.json["partitions"][0]["recorded"][0]["action"] == "skip"

    def test_an_input_that_is_compacted(self, world: World) -> None:
        world.handle(*values(40))
        entry = ConfigEntry(
            "cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource("topic", world.input, incremental_configs=[entry])
        for future in world.admin.incremental_alter_configs([resource]).values():
            future.result(30)
        found = world.verify()
        assert (found.code, kinds(found)) == (0, {}), found.out
        assert sum(left_out(found).values()) == 40


class TestBadInput:
    """One line that names the thing and the cure."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--topic", "nope"), "--topic 'nope' is no input of this pipeline; its inputs: in-"),
            (("--partition", "9"), "has partitions 0 to 1"),
            (("--from", "5", "--to", "5"), "--to is the first offset left out"),
            (("--from", "500"), "choose --from and --to between 0 and 10"),
        ],
    )
    def test_what_is_not_there(self, world: World, arguments: tuple[str, ...], words: str) -> None:
        world.sql(
            "INSERT INTO processor.progress (cluster_id, group_id, topic, topic_id, partition,"
            " next_offset, published_offset, lineage, token, tokens_in_k, system_identifier,"
            " initial_partitions) VALUES (%s, %s, %s, 'id', 0, 10, 10, 'l', 't', ARRAY['t'], 1, 2)",
            world.admin.describe_cluster().result(10).cluster_id,
            world.group,
            world.input,
        )
        found = world.run("verify", world.job, *arguments)
        assert found.code == Exit.USAGE
        assert found.error.startswith("error: ")
        assert words in found.error

    def test_a_missing_output_topic(self, world: World) -> None:
        found = world.run("verify", world.job_with("no-such-topic"))
        assert found.code == Exit.USAGE
        assert "Kafka has no topic 'no-such-topic'; run: processor topics create" in found.error

    def test_the_first_group_of_a_cluster(self, tmp_path: Path, database: str) -> None:
        """Its coordinator is only made when somebody asks."""
        migrations.migrate(Settings(database=Database(url=database)))  # type: ignore[arg-type]
        with Stack() as fresh:
            admin = AdminClient({"bootstrap.servers": fresh.kafka.bootstrap_servers})
            run = command_line(tmp_path, fresh.kafka, database)
            world = World(run, fresh.kafka, admin, database, "first", "in", "out")
            create(world, "in", "out")
            script = "from processor.cli import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", script, "verify", world.job],
                cwd=tmp_path,
                env={**run.environment(), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "first: nothing is known of this group"

    def test_kafka_is_away(self, world: World) -> None:
        found = world.run("verify", world.job, kafka__bootstrap_servers="127.0.0.1:1")
        assert found.code == Exit.UNREACHABLE
        assert "does not answer" in found.error
