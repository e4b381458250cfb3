"""A pipeline's own service on real servers, as a stage for tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg
from confluent_kafka import Message, Producer
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import Table

from processor.dsn import psycopg_url
from processor.engine.statements import insert_statement, plain_rows
from processor.operations.broker import Broker, Place
from processor.operations.database import session
from processor.operations.dead_letters import Redrive
from processor.operations.dead_letters.topic import PARTITIONS, require_topic
from processor.operations.scan import Scan
from processor.operations.sender import Sender
from processor.pipeline import Pipeline
from processor.settings import Settings
from processor.testing.driver import Replacement
from processor.testing.ground import places_of
from processor.testing.memory import RESUME
from processor.testing.observed import WAITS
from processor.testing.process import RunProcess
from processor.testing.results import Halted, PipelineTestError
from processor.writes import CopyWrite, check_columns

POLL_SECONDS = 0.05
SEND_SECONDS = 30.0


class Service:
    """Implements :class:`processor.testing.driver.Stage` with ``processor run``.

    The group begins at the end of its input topics; of the output topics it sees what comes after
    it was made.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        broker: Broker,
        partitions: Mapping[str, int],
        process: Callable[[], RunProcess],
        patience_seconds: float,
    ) -> None:
        """:param patience_seconds: how long it may take until nothing is left to be done."""
        self._pipeline = pipeline
        self._settings = settings
        self._broker = broker
        self._group = str(settings.group_id)
        self._patience_seconds = patience_seconds
        self._inputs = places_of(pipeline.routes, partitions)
        self._began = broker.log_ends(places_of(pipeline.outputs, partitions))
        self._resumed_at: dict[Place, datetime] = {}
        self._producer = Producer(
            {
                **settings.kafka.client,
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 0,
            }
        )
        self._connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            psycopg_url(settings.database.url.get_secret_value()),
            autocommit=True,
            row_factory=dict_row,
        )
        self.process = process()
        try:
            self._wait(self._has_started, "takes its partitions")
        except BaseException:
            self.close()
            raise

    # What a test says

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int | None,
    ) -> int:
        told: list[Any] = []
        self._producer.produce(
            topic,
            value,
            key,
            partition,
            on_delivery=lambda error, message: told.append(error or message.offset()),
            timestamp=timestamp or 0,
            headers=list(headers),
        )
        self._producer.flush(SEND_SECONDS)
        if not told or not isinstance(told[0], int):
            why = told[0].str() if told else f"no answer in {SEND_SECONDS:g} s"
            raise PipelineTestError(f"Kafka did not take a message for {topic}/{partition}: {why}")
        return told[0]

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        connection: Any = self._connection
        with connection.transaction():
            for row in rows:
                check_columns(table, tuple(row))
                write = CopyWrite(table, tuple(row), [tuple(row.values())])
                connection.cursor().executemany(
                    insert_statement(table, write.columns), plain_rows(connection, write)
                )

    def crash(self) -> None:
        for row in self._ask("SELECT process_id FROM processor.slots WHERE group_id = %s"):
            with suppress(ProcessLookupError):
                os.kill(row["process_id"], signal.SIGKILL)

    def resume(self, partitions: Collection[tuple[str, int]]) -> None:
        for place in partitions:
            [now] = self._connection.execute("SELECT clock_timestamp() AS at").fetchall()
            self._resumed_at[place] = now["at"]
            self._connection.execute(RESUME, (self._group, *place))

    def replay(self, letters: Sequence[int], replacement: Replacement | None) -> None:
        with session(self._settings) as connection:
            redrive = Redrive(connection, self._group)
            if replacement is not None:
                redrive.edit(letters[0], replacement.value)
            redrive.replay(letters, self._sender(redrive.topic))

    def discard(self, letters: Sequence[int]) -> None:
        with session(self._settings) as connection:
            redrive = Redrive(connection, self._group)
            redrive.discard(letters, self._sender(redrive.topic), None)

    def close(self) -> None:
        self.process.stop()
        self._connection.close()

    # What it can be asked

    def settle(self) -> None:
        self._wait(self._is_at_rest, "comes to rest")

    def records(self, topic: str) -> list[Message]:
        found: dict[int, list[Message]] = {}
        began = {number: at for (name, number), at in self._began.items() if name == topic}
        ends = self._broker.log_ends([(topic, number) for number in began])
        ranges = {number: (at, ends[topic, number]) for number, at in began.items()}

        def take(number: int, messages: list[Message]) -> None:
            found.setdefault(number, []).extend(messages)

        Scan(self._settings, self._group, lambda place: ends[place]).read(topic, ranges, take)
        return [message for number in sorted(found) for message in found[number]]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        names = (table.schema, table.name) if table.schema else (table.name,)
        query = sql.SQL("SELECT * FROM {} ORDER BY ctid").format(sql.Identifier(*names))
        return self._connection.execute(query).fetchall()

    def letters(self) -> list[dict[str, Any]]:
        return self._ask("SELECT * FROM processor.dead_letters WHERE group_id = %s ORDER BY id")

    def standing(self) -> list[Halted]:
        return [
            Halted(
                topic=row["topic"],
                partition=row["partition"],
                offset=row["next_offset"] or 0,
                reason=row["reason"],
                detail=row["detail"] or "",
                remedy=row["remedy"],
                waits=row["reason"] in WAITS,
            )
            for row in self._ask(_STATES)
            if (row["state"] == "halted" or row["reason"] in WAITS) and self._is_news(row)
        ]

    def _sender(self, topic: str) -> Sender:
        """The topic is made when it is first needed."""
        if require_topic(self._settings, topic):
            self._inputs += [(topic, number) for number in range(PARTITIONS)]
        return Sender(self._settings, topic)

    def _is_news(self, row: Mapping[str, Any]) -> bool:
        """Told since it was resumed."""
        resumed_at = self._resumed_at.get((row["topic"], row["partition"]))
        return resumed_at is None or row["since"] > resumed_at

    def _has_started(self) -> bool:
        return len(self._ask(_ROWS)) == len(self._inputs)

    def _is_at_rest(self) -> bool:
        """K = H = the log's end, but for what stands still."""
        ends = self._broker.log_ends(self._inputs)
        committed = self._broker.committed(self._group, self._inputs)
        h = {(row["topic"], row["partition"]): row["next_offset"] for row in self._ask(_ROWS)}
        stands = {(each.topic, each.partition) for each in self.standing()}
        return all(
            place in stands or committed[place].offset == h.get(place) == ends[place]
            for place in self._inputs
        )

    def _ask(self, query: Any) -> list[dict[str, Any]]:
        """Of this group."""
        return self._connection.execute(query, (self._group,)).fetchall()

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        """:raises PipelineTestError: with the end of the log, when the service is gone or late."""
        deadline = time.monotonic() + self._patience_seconds
        while not until():
            code = self.process.exit_code
            if code is not None or time.monotonic() > deadline:
                why = f"within {self._patience_seconds:g} s" if code is None else f"(exit {code})"
                raise PipelineTestError(
                    f"{self._pipeline.reference} is not seen how it {what} {why};"
                    f" the end of its log:\n{self.process.said()}"
                )
            time.sleep(POLL_SECONDS)


_ROWS = """
SELECT topic, partition, next_offset FROM processor.progress
WHERE group_id = %s AND superseded_at IS NULL
"""

_STATES = """
SELECT s.topic, s.partition, state, reason, detail, remedy, since, next_offset
FROM processor.partition_states s LEFT JOIN processor.progress p
    ON p.group_id = s.group_id AND p.topic = s.topic AND p.partition = s.partition
    AND superseded_at IS NULL
WHERE s.group_id = %s ORDER BY s.topic, s.partition
"""
