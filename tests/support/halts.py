"""One service whose partitions are brought, each by itself, into a row of the recovery table.

The states are made while the service is away, as the group's offsets can only be changed then: by
Kafka's own tool, by admin requests, by a plain consumer's commit where metadata is to be kept, and
in the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql

from devstack import Kafka, Postgres, Service
from devstack.errors import StackError
from devstack.kafka.tools import CONSUMER_GROUPS, run_tool
from devstack.waiting import wait_until
from processor.engine.batch import Record, Source
from processor.engine.outbox import seal
from processor.engine.recovery import make_metadata
from tests.support.commands import Commands, Finished
from tests.support.running import WAIT_SECONDS, Scene, numbered

PARTITIONS = 64
REFERENCE = "tests.support.pipelines:acts"
NUMBERS = [1, 2, 3]
H = len(NUMBERS)
SETTLE_SECONDS = 90.0

KEEP_OUTBOX = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON processor.outbox FOR EACH ROW EXECUTE FUNCTION keep();
"""
"""Nothing is pruned, so that P can be put back to where it stood a second before."""
PRUNE_AGAIN = "DROP TRIGGER keep ON processor.outbox; DROP FUNCTION keep"


class Halted(Scene):
    """The scene; partitions are handed out one by one, each to be tampered with by one test."""

    def __init__(
        self,
        kafka: Kafka,
        postgres: Postgres,
        admin: AdminClient,
        folder: Path,
        partitions: int = PARTITIONS,
    ) -> None:
        super().__init__(kafka, postgres, admin, folder, partitions=partitions)
        self._next = 0
        self.names: dict[str, int] = {}
        self.commands = Commands(folder, self.environment())
        self._service: Service | None = None

    def of(self, name: str) -> int:
        """The partition of that name; a new one the first time."""
        if name not in self.names:
            self.names[name] = self._next
            self._next += 1
        return self.names[name]

    def place(self, partition: int) -> str:
        return f"{self.acts}/{partition}"

    # The service

    def run(self, **settings: str) -> Service:
        self._service = self.service(**settings)
        return self._service

    def stop(self) -> None:
        if self._service is not None:
            self._service.drain()
            self._service = None

    def close(self) -> None:
        if self._service is not None:
            self._service.close()
        self.commands.close()
        super().close()

    def produce_all(self, topics: list[tuple[str, int]]) -> None:
        """The same few messages to each partition."""
        for topic, number in topics:
            for n in NUMBERS:
                value = json.dumps({"type": "act", "n": n}).encode()
                self.producer.produce(topic, value, b"key", partition=number)
        assert self.producer.flush(WAIT_SECONDS) == 0

    def wait_everywhere(self, partitions: int, offset: int) -> None:
        """H and P, of so many partitions of all topics."""

        def there() -> bool:
            found = self.observed.value(
                "SELECT count(*) FROM processor.progress WHERE superseded_at IS NULL"
                " AND next_offset >= %s AND published_offset >= %s AND verified_offset >= %s",
                offset,
                offset,
                offset,
            )
            return int(found) >= partitions

        wait_until(there, SETTLE_SECONDS, f"H, P and V of {partitions} partitions at {offset}")

    def audited(self, partition: int, topic: str | None = None) -> list[tuple[str, str]]:
        """What was done to a partition, and by whom."""
        found = self.observed.rows(
            "SELECT action, actor FROM processor.audit WHERE topic = %s AND partition = %s"
            " ORDER BY id",
            topic or self.acts,
            partition,
        )
        return [(row["action"], row["actor"]) for row in found]

    # Commands

    def command(self, *arguments: str, partition: int | None = None, **settings: str) -> Finished:
        """``processor …`` for the pipeline and, if named, one of its partitions."""
        where = ("--partition", self.place(partition)) if partition is not None else ()
        return self.commands(*arguments, *where, **settings)

    def cloned(self) -> str:
        """The URL of a copy of the database, which nobody may be connected to."""
        assert self._observed is not None
        self._observed.close()
        name = psycopg.conninfo.conninfo_to_dict(self.url)["dbname"]
        copy = f"{name}-clone"
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(copy), sql.Identifier(str(name))
                )
            )
        return self.postgres.url_of(copy)

    # Tampering, while no service runs

    def sql(self, partition: int, changes: str, *parameters: Any, topic: str | None = None) -> None:
        """``UPDATE progress SET …`` of one row."""
        hit = self.observed.execute(
            f"UPDATE processor.progress SET {changes} WHERE topic = %s AND partition = %s"
            " AND superseded_at IS NULL",
            *parameters,
            topic or self.acts,
            partition,
        )
        assert hit == 1

    def outbox_of(self, partition: int, statement: str) -> None:
        row = self.row(partition)
        assert row is not None
        assert self.observed.execute(f"{statement} WHERE progress_id = %s", row["id"]) > 0

    def forget_row(self, partition: int) -> None:
        self.observed.execute(
            "DELETE FROM processor.progress WHERE topic = %s AND partition = %s",
            self.acts,
            partition,
        )

    def metadata(self, partition: int, lineage: str | None = None, token: str | None = None) -> str:
        """Our form; of the row unless other names are given."""
        row = self.row(partition)
        assert row is not None
        return make_metadata(lineage or row["lineage"], token or row["token"])

    def commit(self, offsets: dict[int, tuple[int, str]]) -> None:
        """K with metadata, as no tool sets it."""
        self._commit([TopicPartition(self.acts, n, k, m) for n, (k, m) in offsets.items()])

    def _commit(self, places: list[TopicPartition]) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "group.id": self.group}
        )
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def reset(self, offsets: dict[int, int]) -> None:
        """With Kafka's own tool, which leaves no metadata."""
        wanted = self.folder / "offsets.csv"
        wanted.write_text("".join(f"{self.acts},{n},{k}\n" for n, k in offsets.items()))
        told = ""

        def done() -> bool:
            nonlocal told
            try:
                told = run_tool(
                    CONSUMER_GROUPS,
                    *("--bootstrap-server", self.kafka.bootstrap_servers, "--group", self.group),
                    *("--reset-offsets", "--from-file", str(wanted), "--execute"),
                )
            except StackError as error:
                if "inactive" in str(error):
                    return False  # it counts as active for a moment after its last member has left
                raise
            return True

        wait_until(done, WAIT_SECONDS, "the group to be empty")
        assert told.count(self.acts) == len(offsets), told

    def expire(self, partitions: Collection[int]) -> None:
        """K of these is gone, as after ``offsets.retention.minutes``.

        The client has no request for it, so the group is deleted and all other offsets are
        committed again, as they were.
        """
        request = [ConsumerGroupTopicPartitions(self.group)]
        answer = self.admin.list_consumer_group_offsets(request)[self.group].result(WAIT_SECONDS)
        self._patiently(lambda: self.admin.delete_consumer_groups([self.group])[self.group])
        kept = [
            each
            for each in answer.topic_partitions
            if each.topic != self.acts or each.partition not in partitions
        ]
        self._commit(kept)

    def _patiently(self, ask: Callable[[], Any]) -> None:
        """A group counts as active for a moment after its last member has left."""

        def done() -> bool:
            try:
                ask().result(WAIT_SECONDS)
            except KafkaException as error:
                if error.args[0].code() in _ACTIVE:
                    return False
                raise
            return True

        wait_until(done, WAIT_SECONDS, "the group to be empty")

    def trim(self, partition: int, offset: int) -> None:
        """As retention does: the log begins at ``offset``."""
        [future] = self.admin.delete_records(
            [TopicPartition(self.acts, partition, offset)]
        ).values()
        future.result(WAIT_SECONDS)

    def trim_outputs(self) -> None:
        """Retention takes all that is in the output topic by now."""
        places = [TopicPartition(self.output, number, OFFSET_END) for number in range(2)]
        for future in self.admin.delete_records(places).values():
            future.result(WAIT_SECONDS)

    def aborted(self, partition: int) -> None:
        """Messages that nobody will see, and a control record."""
        producer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap_servers,
                "transactional.id": f"{self.group}-{partition}",
            }
        )
        producer.init_transactions(WAIT_SECONDS)
        producer.begin_transaction()
        producer.produce(self.acts, b"aborted", partition=partition)
        producer.flush(WAIT_SECONDS)
        producer.abort_transaction(WAIT_SECONDS)

    def recreate(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(WAIT_SECONDS)

        def created() -> bool:
            try:
                self.admin.create_topics([NewTopic(topic, 1)])[topic].result(WAIT_SECONDS)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return False
                raise
            return True

        wait_until(created, WAIT_SECONDS, "the topic to be gone")
        self.kafka.wait_ready()

    def at_work(self, partition: int, n: int) -> None:
        """The next message, handled by a worker that died before it published anything."""
        offset = self.produce(partition, *numbered(n)) - 1
        row = self.row(partition)
        assert row is not None
        assert row["next_offset"] == offset
        source = Source(row["topic_id"], partition, row["lineage"], offset, offset + 1)
        value = json.dumps({"n": n, "more": None}).encode()
        now = int(time.time() * 1_000)
        entry = seal(row["id"], source, [Record(self.output, b"key", value, (), now, None, offset)])
        self.observed.execute(
            "INSERT INTO effects VALUES (%s, %s, %s, %s)", self.acts, partition, offset, n
        )
        self.observed.execute(
            "INSERT INTO processor.outbox VALUES (%s, %s, %s, 1, %s, %s)",
            row["id"],
            offset,
            offset + 1,
            entry.checksum,
            entry.payload,
        )
        self.sql(
            partition,
            "next_offset = next_offset + 1, handled = handled + 1, outputs = outputs + 1",
        )

    def roll_back(self, partition: int, offset: int, *, known: bool) -> None:
        """The database as a backup holds it, taken when H and P were there.

        :param known: no recovery has renewed the token since.
        """
        self.sql(
            partition,
            "next_offset = %s, published_offset = %s, verified_offset = %s, handled = %s,"
            " outputs = %s",
            *[offset] * 5,
        )
        if not known:
            self.sql(partition, "tokens_in_k = ARRAY['of-the-backup'], token = 'of-the-backup'")
        self.forget_effects(partition, offset)

    def forget_effects(self, partition: int, offset: int) -> None:
        self.observed.execute(
            'DELETE FROM effects WHERE topic = %s AND partition = %s AND "offset" >= %s',
            self.acts,
            partition,
            offset,
        )


_ACTIVE = (
    KafkaError.NON_EMPTY_GROUP,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
)
