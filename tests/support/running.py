"""The real service over the real servers, and what can be seen of it in both stores."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from devstack import Kafka, Postgres, Service
from devstack.errors import StackError
from devstack.waiting import wait_until, wait_while_moving
from processor.engine.batch import Committed
from processor.engine.outbox import PROVENANCE_HEADER, Provenance, read_provenance
from tests.support.brokers import read_to_end, wait_settled
from tests.support.databases import Observed, create_migrated
from tests.support.pipelines import DEFINITIONS, Act

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 30.0
LOG_LINES = 80

_numbers = itertools.count(1)


class Levels(NamedTuple):
    """Of one partition; None for what there is not, or what cannot be read."""

    end: int | None
    k: int | None
    h: int | None
    p: int | None
    waiting: int
    """Rows in the outbox."""


class Scene:
    """Topics, a database and a group of their own, with or without a service running."""

    def __init__(
        self,
        kafka: Kafka,
        postgres: Postgres,
        admin: AdminClient,
        folder: Path,
        *,
        partitions: int = 1,
        output_config: Mapping[str, str] | None = None,
    ) -> None:
        number = f"s{os.getpid()}-{next(_numbers)}"
        self.kafka, self.postgres, self.admin, self.folder = kafka, postgres, admin, folder
        self.group = f"engine-{number}"
        names = ("acts", "raw", "batches", "output", "keyed", "dead")
        self.acts, self.raw, self.batches, self.output, self.keyed, self.dead = (
            f"{name}-{number}" for name in names
        )
        self.url = create_migrated(postgres)
        self._observed: Observed | None = None
        self.observed.execute(DEFINITIONS)
        self.create({self.acts: partitions, self.raw: 1, self.batches: 1})
        self.create({self.output: 2}, output_config)
        # They never join. They, and not an admin client, are asked: that one hears nothing more of
        # a group after its coordinator was away.
        self._reader, self._ends = (
            Consumer(
                {
                    "bootstrap.servers": kafka.bootstrap_servers,
                    "group.id": self.group,
                    "isolation.level": isolation,
                    "log_level": 0,
                }
            )
            for isolation in ("read_committed", "read_uncommitted")
        )
        # Idempotent, or its own retries put messages in another order.
        self.producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "linger.ms": 0,
                "enable.idempotence": True,
            }
        )
        self._logs = itertools.count()
        self._produced: dict[tuple[str, int], int] = {}
        """Where the log of a partition must end at least."""

    @property
    def observed(self) -> Observed:
        """Connected again when Postgres was away."""
        if self._observed is not None:
            try:
                self._observed.rows("SELECT 1")
            except psycopg.OperationalError:
                self._observed = None
        if self._observed is None:
            self._observed = Observed(self.url)
        return self._observed

    def create(self, topics: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
        wanted = [
            NewTopic(name, count, config=dict(config or {})) for name, count in topics.items()
        ]
        for future in self.admin.create_topics(wanted).values():
            future.result(WAIT_SECONDS)
        self.kafka.wait_ready()

    def environment(self, **settings: str) -> dict[str, str]:
        given = {
            "kafka__bootstrap_servers": self.kafka.bootstrap_servers,
            "database__url": self.url,
            "group_id": self.group,
            "instance": "test",
            "halt_recheck_seconds": "0.5",
            **settings,
        }
        names = {f"PROCESSOR_{name.upper()}": value for name, value in given.items()}
        topics = ",".join((self.acts, self.raw, self.batches, self.output, self.keyed, self.dead))
        return {**names, "ENGINE_TEST_TOPICS": topics, "PYTHONUNBUFFERED": "1"}

    def service(
        self,
        *,
        workers: int = 1,
        program: str = "processor",
        reference: str = "tests.support.pipelines:acts",
        **settings: str,
    ) -> Service:
        """``processor run``, in the repository's folder."""
        return Service(
            reference,
            workers=workers,
            log=self.folder / f"{self.group}-{next(self._logs)}.log",
            environment=self.environment(**settings),
            directory=ROOT,
            program=program,
        )

    # Into the input

    def produce(
        self,
        partition: int,
        *acts: Act | bytes | None,
        topic: str | None = None,
        key: bytes | None = b"key",
    ) -> int:
        """The offset after the last one."""
        reached: list[int | None] = []

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            reached.append(message.offset())

        for each in acts:
            value = msgspec.json.encode(each) if isinstance(each, Act) else each
            self.producer.produce(
                topic or self.acts, value, key, partition=partition, on_delivery=delivered
            )
        assert self.producer.flush(WAIT_SECONDS) == 0
        # What the broker took for a repetition comes back without its offset.
        known = [offset for offset in reached if offset is not None]
        end = max(known) + 1 if len(known) == len(reached) else self.end(partition, topic)
        assert end is not None, "the log's end can be read"
        self._produced[topic or self.acts, partition] = end
        return end

    # Out of both stores

    def row(self, partition: int, topic: str | None = None) -> dict[str, Any] | None:
        found = self.observed.rows(
            "SELECT * FROM processor.progress WHERE group_id = %s AND topic = %s"
            " AND partition = %s AND superseded_at IS NULL ORDER BY id DESC LIMIT 1",
            self.group,
            topic or self.acts,
            partition,
        )
        return found[0] if found else None

    def h(self, partition: int, topic: str | None = None) -> int:
        row = self.row(partition, topic)
        return -1 if row is None else int(row["next_offset"])

    def k(self, partition: int, topic: str | None = None) -> Committed | None:
        """K and M, read stable; None while they cannot be read."""
        where = TopicPartition(topic or self.acts, partition)
        try:
            [found] = self._reader.committed([where], 2.0)
        except KafkaException:
            return None
        if found.error is not None:
            return None
        return Committed(None if found.offset < 0 else found.offset, found.metadata)

    def end(self, partition: int, topic: str | None = None) -> int | None:
        """Of the log, open transactions included; None while it cannot be read."""
        where = TopicPartition(topic or self.acts, partition)
        try:
            # Asked first, or the client does not know a partition that was added.
            self._ends.list_topics(where.topic, 2.0)
            found = self._ends.get_watermark_offsets(where, 2.0)
        except KafkaException:
            return None
        return found[1] if found else None

    def state(self, partition: int, topic: str | None = None) -> dict[str, Any]:
        found = self.observed.rows(
            "SELECT * FROM processor.partition_states WHERE group_id = %s AND topic = %s"
            " AND partition = %s",
            self.group,
            topic or self.acts,
            partition,
        )
        return found[0] if found else {"state": None, "reason": None}

    def wait_h(self, partition: int, offset: int, topic: str | None = None) -> None:
        self._wait(
            lambda: self.h(partition, topic) >= offset,
            f"H of {partition} at {offset}",
            partition,
            topic,
        )

    def wait_state(
        self, partition: int, state: str, reason: str | None = None, topic: str | None = None
    ) -> dict[str, Any]:
        def reached() -> bool:
            found = self.state(partition, topic)
            return found["state"] == state and reason in (None, found["reason"])

        self._wait(reached, f"{state} {reason or ''} of partition {partition}", partition, topic)
        return self.state(partition, topic)

    def levels(self, partition: int, topic: str | None = None) -> Levels:
        """Where both stores are, as far as that can be read."""
        end, row, k = (read(partition, topic) for read in (self.end, self.row, self.k))
        return Levels(
            end=end,
            k=None if k is None else k.offset,
            h=None if row is None else row["next_offset"],
            p=None if row is None else row["published_offset"],
            waiting=0 if row is None else len(self.observed.outbox(row["id"])),
        )

    def at_rest(self, partition: int, topic: str | None = None) -> bool:
        """P = K = H = end, and nothing left in the outbox."""
        return self._are_rest(self.levels(partition, topic), partition, topic)

    def _are_rest(self, at: Levels, partition: int, topic: str | None) -> bool:
        produced = self._produced.get((topic or self.acts, partition), 0)
        if at.end is None or at.end < produced:
            return False
        return at.p == at.k == at.h == at.end and not at.waiting

    def wait_rest(self, partition: int, topic: str | None = None) -> None:
        """However long it takes, as long as something moves."""
        with self._telling(partition, topic):
            wait_while_moving(
                lambda: self.levels(partition, topic),
                lambda at: self._are_rest(at, partition, topic),
                WAIT_SECONDS,
                f"{partition} to rest",
            )

    def _wait(
        self, condition: Callable[[], bool], what: str, partition: int, topic: str | None
    ) -> None:
        with self._telling(partition, topic):
            wait_until(condition, WAIT_SECONDS, what)

    @contextmanager
    def _telling(self, partition: int, topic: str | None) -> Iterator[None]:
        """What fails says what could be seen then, or nobody can tell why."""
        try:
            yield
        except StackError as error:
            error.add_note(self.seen(partition, topic))
            raise

    def seen(self, partition: int, topic: str | None = None) -> str:
        """Everything that tells how a partition is doing, and the end of the newest log."""
        row = self.row(partition, topic)
        waiting = self.observed.outbox(row["id"]) if row else []
        logs = sorted(
            self.folder.glob(f"{self.group}-*.log"), key=lambda path: path.stat().st_mtime
        )
        lines = logs[-1].read_text(errors="replace").splitlines()[-LOG_LINES:] if logs else []
        return "\n".join(
            (
                f"end {self.end(partition, topic)}, K {self.k(partition, topic)}, row {row}",
                f"{len(waiting)} in the outbox, state {self.state(partition, topic)}",
                *lines,
            )
        )

    def effects(self, partition: int, topic: str | None = None) -> list[int]:
        """The numbers in Postgres, in the order of their messages; one for each effect."""
        found = self.observed.rows(
            'SELECT n FROM effects WHERE topic = %s AND partition = %s ORDER BY "offset"',
            topic or self.acts,
            partition,
        )
        return [row["n"] for row in found]

    def outputs(self, partition: int, topic: str | None = None) -> list[tuple[Provenance, Message]]:
        """The outputs of one input partition, in the order in which they can be read."""
        name = topic or self.acts
        wait_settled(self.admin, self.output)
        [topic_id] = {
            row["topic_id"]
            for row in self.observed.rows(
                "SELECT topic_id FROM processor.progress WHERE topic = %s"
                " AND superseded_at IS NULL",
                name,
            )
        }
        found = []
        for message in read_to_end(self.kafka.bootstrap_servers, self.output):
            told = read_provenance(dict(message.headers() or [])[PROVENANCE_HEADER])
            if (told.topic_id, told.partition) == (topic_id, partition):
                found.append((told, message))
        return found

    def all_outputs(self) -> list[str]:
        """Of whatever source, for the message of a test that misses some."""
        found = read_to_end(self.kafka.bootstrap_servers, self.output)
        return [str(dict(message.headers() or [])[PROVENANCE_HEADER]) for message in found]

    def told(self, partition: int, topic: str | None = None) -> list[int]:
        """The numbers in Kafka, in the order in which they can be read."""
        outputs = self.outputs(partition, topic)
        return [json.loads(message.value())["n"] for _, message in outputs]

    def dead_letters(self, partition: int, topic: str | None = None) -> list[dict[str, Any]]:
        return self.observed.rows(
            "SELECT * FROM processor.dead_letters WHERE group_id = %s AND topic = %s"
            ' AND partition = %s ORDER BY "offset"',
            self.group,
            topic or self.acts,
            partition,
        )

    def resume(self, partition: int) -> None:
        self.observed.execute(
            "INSERT INTO processor.control (group_id, topic, partition, command, requested_by)"
            " VALUES (%s, %s, %s, 'resume', 'test')",
            self.group,
            self.acts,
            partition,
        )

    def close(self) -> None:
        self._reader.close()
        self._ends.close()
        if self._observed is not None:
            self._observed.close()


def numbered(*numbers: int, do: str = "write") -> list[Act]:
    return [Act(n, do) for n in numbers]
