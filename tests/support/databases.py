"""Databases with the framework's schema, and what stands in them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

from devstack import Direction, Postgres, Proxy
from devstack.waiting import wait_until
from processor.engine.batch import Committed, DeadLetter, OutboxEntry, Partition, Record, Source
from processor.engine.database import Database, application_name
from processor.engine.ledger import Ledger
from processor.engine.outbox import seal
from processor.engine.recovery import Row
from processor.engine.store import Advance, Store
from processor.operations import migrations
from processor.settings import Database as DatabaseSettings
from processor.settings import Settings
from tests.support.engine import free_steps

T = TypeVar("T")
_templates: weakref.WeakKeyDictionary[Postgres, str] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)

TOPIC, TOPIC_ID, CLUSTER = "input", "topic-id", "cluster"


def create_migrated(postgres: Postgres) -> str:
    """The URL of a new database with the framework's schema; migrated once, then copied."""
    if postgres not in _templates:
        name = f"template-{os.getpid()}"
        url = postgres.create_database(name)
        migrations.migrate(Settings(database=DatabaseSettings(url=SecretStr(url))))
        _templates[postgres] = name
    name = f"migrated-{os.getpid()}-{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(_templates[postgres])
            )
        )
    return postgres.url_of(name)


def emptied(url: str) -> None:
    """All tables of the framework without rows, and none of a pipeline's."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DO $$ DECLARE t text; BEGIN"
            " FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'public' LOOP EXECUTE 'DROP TABLE ' || t || ' CASCADE'; END LOOP;"
            " FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'processor' AND tablename <> 'alembic_version'"
            " LOOP EXECUTE 'DELETE FROM ' || t; END LOOP; END $$"
        )


class Observed:
    """What stands in a database, asked on a connection of its own."""

    def __init__(self, url: str, connect: Callable[..., Any] = psycopg.connect) -> None:
        self.url = url
        self.connection: psycopg.Connection[dict[str, Any]] = connect(
            url, autocommit=True, row_factory=dict_row
        )

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        return self.connection.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        [row] = self.rows(query, *parameters)
        [value] = row.values()
        return value

    def execute(self, statement: str, *parameters: Any) -> int:
        return self.connection.execute(statement.encode(), parameters).rowcount

    def progress(self, progress_id: int) -> dict[str, Any]:
        [row] = self.rows("SELECT * FROM processor.progress WHERE id = %s", progress_id)
        return row

    def h(self, progress_id: int) -> int:
        return int(self.progress(progress_id)["next_offset"])

    def outbox(self, progress_id: int) -> list[tuple[int, int, int]]:
        found = self.rows(
            "SELECT first_offset, next_offset, output_count FROM processor.outbox"
            " WHERE progress_id = %s ORDER BY first_offset",
            progress_id,
        )
        return [tuple(row.values()) for row in found]

    def dead_letters(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM processor.dead_letters ORDER BY id")

    def audited(self) -> list[str]:
        return [row["action"] for row in self.rows("SELECT * FROM processor.audit ORDER BY id")]

    def terminate(self, application: str = "processor:%") -> int:
        """End the engine's connections, as a restart or an administrator would."""
        return len(
            self.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE %s AND datname = current_database()",
                application,
            )
        )

    def close(self) -> None:
        self.connection.close()


class PostgresWorld:
    """Stores and ledgers of one group, over one database.

    :param proxied_url: where the connections made with ``proxied`` go.
    :param connect: as ``psycopg.connect``.
    """

    def __init__(
        self,
        url: str,
        group: str,
        proxied_url: str | None = None,
        connect: Callable[..., Any] = psycopg.connect,
    ) -> None:
        self.url = url
        self.group = group
        self.proxied_url = proxied_url or url
        self._connect = connect
        self.observed = Observed(url, connect)
        self._open: list[Database] = []
        self._helpers: dict[str, Ledger] = {}
        self._connections: list[psycopg.Connection[tuple[Any, ...]]] = []
        self._pool = ThreadPoolExecutor(8)

    def database(
        self, slot: str = "a", isolation: str = "READ COMMITTED", *, proxied: bool = False
    ) -> Database:
        url = self.proxied_url if proxied else self.url
        settings = DatabaseSettings(url=SecretStr(url))
        name = application_name(self.group, f"{self.group}:{slot}:0")
        database = Database(settings, name, isolation, free_steps(), self._connect)
        self._open.append(database)
        return database

    def store(self, slot: str = "a", **options: Any) -> Store:
        return Store(self.database(slot, **options), self.group, free_steps())

    def ledger(self, slot: str = "a", **options: Any) -> Ledger:
        return Ledger(self.database(slot, **options), CLUSTER, self.group, free_steps())

    def _helper(self, slot: str) -> Ledger:
        if slot not in self._helpers:
            self._helpers[slot] = self.ledger(slot)
        return self._helpers[slot]

    def started(self, partitions: int = 1, at: int = 0, topic: str = TOPIC) -> list[Row]:
        """Rows of a topic whose start was committed in Kafka: no intent is left."""
        ledger = self._helper("starter")
        named = [Partition(topic, number) for number in range(partitions)]
        nothing = Committed(None, None)
        with ledger.locked(dict.fromkeys(named, nothing), {topic: TOPIC_ID}) as rows:
            positions = dict.fromkeys(range(partitions), at)
            rows.start(topic, TOPIC_ID, positions, partitions, "first start", nothing)
        for row in self.rows_of(named):
            assert row.intent is not None
            ledger.clear_intent(row, row.intent, at, row.token)
        return self.rows_of(named)

    def rows_of(self, partitions: Sequence[Partition], k: int | None = None) -> list[Row]:
        """The rows as recovery reads them."""
        known = self.locked(partitions, k)
        rows = [each.row for each in known.values()]
        assert all(row is not None for row in rows)
        return [row for row in rows if row is not None]

    def locked(
        self, partitions: Sequence[Partition], k: int | None = None, topic_id: str = TOPIC_ID
    ) -> dict[Partition, Any]:
        """All that recovery reads of them."""
        committed = Committed(k, None)
        topic_ids = {partition.topic: topic_id for partition in partitions}
        with self._helper("reader").locked(dict.fromkeys(partitions, committed), topic_ids) as rows:
            return rows.known

    def renew(self, row: Row, number: int = 0, topic: str = TOPIC) -> str:
        """Another owner takes the partition over."""
        partition = Partition(topic, number)
        with self._helper("other").locked(
            {partition: Committed(None, None)}, {topic: TOPIC_ID}
        ) as rows:
            return rows.renew(row, None)

    def connection(self, name: str = "test") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the test's own."""
        connection = self._connect(self.url, autocommit=True, application_name=name)
        self._connections.append(connection)
        return connection

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Run it beside the test."""
        return self._pool.submit(call)

    def wait_for_waiters(self, count: int = 1) -> None:
        """Until so many statements wait for locks."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        wait_until(lambda: self.observed.value(waiting) >= count, 20, "a statement that waits")

    def together(self, *calls: Callable[[], T]) -> list[T]:
        """Run them at the same time, each in a thread; what they return."""
        return [future.result(60) for future in [self.begin(call) for call in calls]]

    def barrier(self, parties: int) -> Callable[[], object]:
        """Who calls it waits until all of them have; as often as they like."""
        barrier = threading.Barrier(parties)
        return lambda: barrier.wait(20)

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, 20, what)

    @contextmanager
    def stopped_holder(self, application: str) -> Iterator[Callable[[], None]]:
        """A process that holds the lock of every row and stands still; what kills it."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, self.url, application], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            os.kill(process.pid, signal.SIGSTOP)
            yield process.kill
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        for database in self._open:
            database.close()
        for connection in self._connections:
            connection.close()
        self.observed.close()
        self._pool.shutdown()


class ProxiedWorld(PostgresWorld):
    """One real database, with a proxy before it."""

    def __init__(self, url: str, group: str, proxy: Proxy, port: int) -> None:
        super().__init__(url, group, url.replace(f":{port}/", f":{proxy.port}/"))
        self._proxy = proxy

    @contextmanager
    def losing_commits(self, *, reached: bool) -> Iterator[None]:
        """The connection breaks at COMMIT: after the server has got it, or before."""
        proxy = self._proxy

        def cut_at_commit(direction: Direction, data: bytes) -> bytes | None:
            if direction is Direction.TO_SERVER and b"COMMIT" in data:
                proxy.on_data = lose_answers
                if not reached:
                    threading.Thread(target=proxy.sever).start()
                    return None
            return data

        def lose_answers(direction: Direction, data: bytes) -> bytes | None:
            if direction is Direction.TO_CLIENT:
                threading.Thread(target=proxy.sever).start()
                return None
            return data

        proxy.on_data = cut_at_commit
        try:
            yield
        finally:
            proxy.on_data = None


HOLDER = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], application_name=sys.argv[2])
connection.execute("SELECT 1 FROM processor.progress FOR UPDATE")
print("locked", flush=True)
time.sleep(600)
"""


def entry_of(row: Row, first: int, end: int, outputs: Sequence[bytes] = ()) -> OutboxEntry:
    source = Source(row.topic_id, 0, row.lineage, first, end)
    records = [Record("out", None, value, (), 5, None, first) for value in outputs]
    return seal(row.id, source, records)


def step(row: Row, first: int, end: int, outputs: Sequence[bytes] = (), **changes: Any) -> Advance:
    """H from ``first`` to ``end``, as the row's owner would do it."""
    fields: dict[str, Any] = {
        "progress_id": row.id,
        "lineage": row.lineage,
        "token": row.token,
        "first": first,
        "next": end,
        "entry": entry_of(row, first, end, outputs),
        "handled": end - first,
    }
    return Advance(**(fields | changes))


def letter(number: int = 0, offset: int = 0, **changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "partition": Partition(TOPIC, number),
        "offset": offset,
        "key": b"k",
        "value": b"v",
        "headers": [("h", b"\xff")],
        "timestamp": 5,
        "handler": "handler",
        "error": "ValueError",
        "reason": "bad",
        "trace": "trace",
        "attempts": 3,
    }
    return DeadLetter(**(fields | changes))
