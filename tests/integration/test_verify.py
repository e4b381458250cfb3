"""`processor verify` on the real parts: a sound group is sound, and each damage is named."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import CommandLine, Finished, command_line
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import TopicPartition

from devstack import Kafka
from devstack.waiting import wait_until
from processor.engine.batch import Record, Source
from processor.engine.outbox import PROVENANCE_HEADER, provenance, read_provenance, seal
from processor.errors import Exit
from processor.operations import migrations
from processor.settings import Database, Settings
from tests.support.brokers import read_to_end, wait_settled

SETTLE_SECONDS = 60.0
MESSAGES = 300
BAD, SILENT = b"bad", b"silent"

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
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers})
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

    def outputs(self) -> list[Message]:
        wait_settled(self.admin, self.output)
        return read_to_end(self.kafka.bootstrap_servers, self.output)

    def put(self, topic: str, messages: Sequence[Message], source: bytes | None = None) -> None:
        """Copies of outputs, as another producer would make them."""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers})
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
    return {
        item["what"]: item["count"]
        for partition in found.json["partitions"]
        for item in partition["unverifiable"]
    }


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
        world.handle()
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

    def test_an_output_that_is_missing(self, world: World, topic: Callable[..., str]) -> None:
        world.handle(*values(MESSAGES))
        fresh = topic("out", partitions=2)
        outputs = world.outputs()
        gone = outputs.pop(len(outputs) // 2)
        world.put(fresh, outputs)
        found = world.verify(job=world.job_with(fresh))
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-missing": 1}
        told = read_provenance(dict(gone.headers() or [])[PROVENANCE_HEADER])
        assert (
            f"output {told.ordinal + 1} of {told.count} of batch [{told.first}, {told.next})"
            in examples(found)
        )
        assert "do not agree in 1 of 2 partitions: 1 outputs missing" in found.json["verdict"]

    def test_all_outputs_of_a_batch_are_missing(
        self, world: World, topic: Callable[..., str]
    ) -> None:
        """No output tells of it any more: the counter does, and where it must have been."""
        world.produce(*values(40))
        with world.service(batch_max_messages="4"):
            world.wait_handled(40)
        outputs = world.outputs()
        told = [read_provenance(dict(m.headers() or [])[PROVENANCE_HEADER]) for m in outputs]
        gone = sorted({(t.partition, t.first, t.next) for t in told})[1]
        fresh = topic("out", partitions=2)
        kept = [
            message
            for message, t in zip(outputs, told, strict=True)
            if (t.partition, t.first, t.next) != gone
        ]
        world.put(fresh, kept)
        found = world.verify(job=world.job_with(fresh))
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-missing": len(outputs) - len(kept)}
        assert f"must be of input [{gone[1]}, {gone[2]})" in examples(found)

    def test_an_output_that_is_there_twice(self, world: World) -> None:
        world.handle(*values(MESSAGES))
        twice = world.outputs()[5]
        world.put(world.output, [twice])
        found = world.verify()
        assert found.code == Exit.VERDICT
        assert kinds(found) == {"output-duplicated": 1}
        assert f"{world.output}/{twice.partition()} at " in examples(found)

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            ("source", "is of offset"),
            ("beyond", "beyond H"),
            ("lineage", "is of the foreign lineage"),
            ("partition", "which has no row"),
        ],
    )
    def test_an_output_without_a_source(self, world: World, damage: str, words: str) -> None:
        world.transaction(b"1", b"2", commit=True)  # offset 2 is a control record
        world.transaction(b"3", commit=True)
        with world.service():
            world.wait_handled(3)
        message = world.outputs()[0]
        fields = dict(message.headers() or [])[PROVENANCE_HEADER].decode().split(";")
        if damage == "source":
            fields[2:6], fields[7] = ["2", "3", "0", "1"], "2"
        elif damage == "beyond":
            fields[2:6] = ["1000", "1001", "0", "1"]
        elif damage == "lineage":
            fields[6] = "0123456789abcdef"
        else:
            fields[1] = "77"
        world.put(world.output, [message], ";".join(fields).encode())
        found = world.verify()
        assert found.code == Exit.VERDICT
        assert "output-without-source" in kinds(found)
        assert words in examples(found)

    @pytest.mark.parametrize("counter", ["handled", "outputs", "dead_lettered", "skipped"])
    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_counter_that_was_changed(self, world: World, counter: str, by: int) -> None:
        world.handle(*values(30), BAD, BAD)
        world.sql(
            f"UPDATE processor.progress SET {counter} = {counter} + %s"
            " WHERE group_id = %s AND partition = 0",
            by,
            world.group,
        )
        found = world.verify()
        assert found.code == Exit.VERDICT
        assert set(kinds(found)) <= {"count-mismatch", "output-missing"}
        assert counter in examples(found)

    def test_outputs_out_of_order(self, world: World, topic: Callable[..., str]) -> None:
        world.produce(*values(40))
        with world.service(batch_max_messages="4"):
            world.wait_handled(40)
        outputs = world.outputs()
        fresh = topic("out", partitions=2)
        world.put(fresh, [outputs[-1], *outputs[:-1]])
        found = world.verify(job=world.job_with(fresh))
        assert found.code == Exit.VERDICT
        assert set(kinds(found)) == {"order-broken"}

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

    def test_a_dead_letter_without_a_record(self, world: World) -> None:
        world.handle(*values(10), BAD, BAD)
        world.sql('UPDATE processor.dead_letters SET "offset" = 77 WHERE partition = 0')
        found = world.verify("--from", "0")
        assert found.code == Exit.OK  # beyond H: not of the range
        assert kinds(world.verify()) == {"count-mismatch": 1}

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

    def test_kafka_is_away(self, world: World) -> None:
        found = world.run("verify", world.job, kafka__bootstrap_servers="127.0.0.1:1")
        assert found.code == Exit.UNREACHABLE
        assert "does not answer" in found.error
