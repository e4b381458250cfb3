"""Where the campaign plays: Kafka, Postgres, topics, tables, and the service that is killed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Any, LiteralString

import psycopg
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from devstack import Service, Stack
from devstack.waiting import wait_until
from processor.operations import migrations
from processor.settings import Database as DatabaseSettings
from processor.settings import Settings
from tests.faults.poison import pipeline
from tests.faults.poison.plan import PARTITIONS

ROOT = Path(__file__).parents[3]
REFERENCE = "tests.faults.poison.pipeline:pipeline"
OUTPUT_PARTITIONS = 6
WORKERS = 3
CREATE_SECONDS = 30.0
START_SECONDS = 90.0
TOPICS = {
    pipeline.NUMBERS: PARTITIONS,
    pipeline.STEPS: PARTITIONS,
    pipeline.TOLD: OUTPUT_PARTITIONS,
    pipeline.STEPPED: OUTPUT_PARTITIONS,
    pipeline.DEAD: OUTPUT_PARTITIONS,
}


class Stage:
    """Everything that is started here has ended when the ``with`` block is left."""

    def __enter__(self) -> Stage:
        self._open = ExitStack()
        try:
            self._set_up()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def servers(self) -> str:
        return self.stack.kafka.bootstrap_servers

    def workers(self) -> int:
        """How many are alive."""
        return len(self.service.workers())

    def reached(self) -> int:
        """The sum of all H: it grows while anything is handled."""
        [[found]] = self.rows("SELECT sum(next_offset)::bigint FROM processor.progress")
        return int(found or 0)

    def kill_worker(self, rng: Random) -> bool:
        """SIGKILL for one of the workers, if there is one."""
        workers = self.service.workers()
        return bool(workers) and self.service.kill_worker(rng.choice(workers)) is not None

    def command(self, *arguments: str) -> Popen[str]:
        """``processor …`` in a process of its own."""
        return Popen(
            [sys.executable, "-m", "processor", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=PIPE,
            stderr=PIPE,
            text=True,
        )

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, values).fetchall()

    def write(self, *statements: LiteralString) -> None:
        with psycopg.connect(self.url) as connection:
            for each in statements:
                connection.execute(each)

    def states(self, topic: str | None = None) -> Counter[str]:
        """How many letters are in each state; of one topic or of both."""
        found = self.rows(
            "SELECT state, count(*) FROM processor.dead_letters"
            " WHERE %s::text IS NULL OR topic = %s GROUP BY state",
            topic,
            topic,
        )
        return Counter(dict(found))

    def halts(self) -> list[str]:
        """What was logged of partitions that halted."""
        log = self.service.child.log
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return [line for line in lines if " halts: " in line]

    def keep_logs(self, folder: Path) -> None:
        """A copy of what the service and the servers have said."""
        folder.mkdir(parents=True, exist_ok=True)
        servers = [node.log for node in self.stack.kafka.nodes] + [self.stack.postgres.log]
        for log in [self.service.child.log, *servers]:
            if log.exists():
                (folder / log.name).write_bytes(log.read_bytes())

    def wait_running(self) -> None:
        wait_until(self._all_run, START_SECONDS, "all partitions to run")

    def _all_run(self) -> bool:
        query: LiteralString = "SELECT count(*) FROM processor.partition_states WHERE state = %s"
        return bool(self.rows(query, "running")[0][0] == 2 * PARTITIONS)

    def _set_up(self) -> None:
        self.stack = self._open.enter_context(Stack())
        self.folder = self.stack.data_dir / "poison"
        self.folder.mkdir()
        self.mended = self.folder / "mended"
        self.url = self.stack.postgres.create_database("poison")
        migrations.migrate(Settings(database=DatabaseSettings(url=SecretStr(self.url))))
        with psycopg.connect(self.url) as connection:
            connection.execute(pipeline.DEFINITIONS.encode())
        _create(self.servers)
        self.stack.kafka.wait_ready()
        self.environment = self._environment()
        self.service = Service(
            REFERENCE,
            workers=WORKERS,
            log=self.folder / "processor.log",
            environment=self.environment,
            directory=ROOT,
        )
        self._open.callback(self.service.close)

    def _environment(self) -> dict[str, str]:
        config = self.folder / "processor.toml"
        config.touch()
        settings = {
            "config": str(config),
            "kafka__bootstrap_servers": self.servers,
            "database__url": self.url,
            "instance": "poison",
            "batch_max_messages": "1000",
            "topic_check_seconds": "1",
        }
        named = {f"PROCESSOR_{key.upper()}": value for key, value in settings.items()}
        return {
            **self.stack.environment,
            **named,
            "POISON_MENDED": str(self.mended),
            "PYTHONUNBUFFERED": "1",
        }


def mend(stage: Stage, kinds: Sequence[pipeline.Kind]) -> None:
    """The code, the data and the schema, as far as these kinds need it."""
    for kind in kinds:
        pipeline.mark_of(stage.mended, kind).touch()
    if pipeline.Kind.SLOW in kinds:
        stage.write("INSERT INTO switches VALUES ('slow')")
    if pipeline.Kind.CONSTRAINT in kinds:
        stage.write(
            "ALTER TABLE effects DROP CONSTRAINT not_light",
            "ALTER TABLE totals DROP CONSTRAINT none_light",
            "ALTER TABLE stepped DROP CONSTRAINT no_light_step",
        )


def _create(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    small = {"max.message.bytes": str(pipeline.MOST_BYTES)}
    topics = [
        NewTopic(name, count, config=small if name in (pipeline.TOLD, pipeline.STEPPED) else {})
        for name, count in TOPICS.items()
    ]
    for future in admin.create_topics(topics).values():
        future.result(CREATE_SECONDS)
