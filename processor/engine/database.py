"""The connection to Postgres: begin, commit, and what an error of it means.

The connection is in autocommit mode and transactions are begun and ended by explicit statements,
so that what goes in one packet with BEGIN and with COMMIT is written here and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.pq import PipelineStatus

from processor.dsn import psycopg_url
from processor.engine.failures import (
    DatabaseDoubt,
    Deadlock,
    Restart,
    StatementFailed,
    StatementRefused,
)
from processor.engine.steps import Step, Steps
from processor.settings import Database as DatabaseSettings

STRONGER_THAN_ON = ("remote_apply",)
KEEPALIVES_IDLE_SECONDS = 5
KEEPALIVES_INTERVAL_SECONDS = 2
KEEPALIVES = 3
"""Either side gives a connection up that was silent for 5 + 2 * 3 s and whose other end is gone."""

DEADLOCK = "40P01"
RESTARTS = ("40001", DEADLOCK)
"""A serialization failure and a deadlock."""

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]


def application_name(group_id: str, slot: str) -> str:
    """``processor:<digest of the group>:<slot>``; Postgres keeps 63 bytes of it."""
    return f"{application_prefix(group_id)}{slot}"[:63]


def application_prefix(group_id: str) -> str:
    digest = hashlib.sha256(group_id.encode()).hexdigest()[:10]
    return f"processor:{digest}:"


_FIRST = """
SELECT current_setting('synchronous_commit'), system_identifier,
    set_config('tcp_keepalives_idle', %s, false),
    set_config('tcp_keepalives_interval', %s, false),
    set_config('tcp_keepalives_count', %s, false)
FROM pg_control_system()
"""


class Database:
    """One connection, made again when it is lost."""

    def __init__(
        self,
        settings: DatabaseSettings,
        name: str,
        isolation: str,
        steps: Steps,
        connect: Callable[..., Any] = psycopg.connect,
    ) -> None:
        """:param connect: as ``psycopg.connect``; the simulation brings its own."""
        self._connect_to = connect
        self._settings = settings
        self._name = name
        self._steps = steps
        self._isolation = isolation
        self._limits = ""
        self._commit = ""
        self._connection: Connection | None = None
        self._warnings: list[str] = []
        self._pipeline_broke = False
        self.system_identifier = 0

    def connection(self) -> Connection:
        """The open connection; connects when there is none.

        :raises psycopg.OperationalError: when Postgres is away.
        """
        if self._connection is None or self._connection.closed:
            with self._steps.step(Step.CONNECT, 3 * self._settings.connect_timeout_seconds):
                self._connection = self._connect()
        return self._connection

    @contextmanager
    def pipeline(self, connection: Connection) -> Iterator[None]:
        """What is executed inside is sent at once and answered together.

        After a failure :meth:`rollback` closes the connection: psycopg would go on to use prepared
        statements whose preparation the server has skipped.
        """
        try:
            with connection.pipeline():
                yield
        except BaseException:
            self._pipeline_broke = True
            raise

    def close(self) -> None:
        self._pipeline_broke = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def begin(self, isolation: str | None = None) -> Connection:
        """Begin a transaction that commits durably and holds no lock for ever.

        A client that is stopped between statements holds its row locks until the idle time-out;
        one that is stopped inside COPY is freed by no time-out, so COPY data is complete before.
        """
        connection = self.connection()
        begin = f"BEGIN ISOLATION LEVEL {isolation or self._isolation} READ WRITE"
        if connection.pgconn.pipeline_status == PipelineStatus.OFF:
            self._run_or_close(connection, f"{begin}; {self._limits}")
        else:
            self._run_or_close(connection, begin)
            self._run_or_close(connection, self._limits, prepare=True)
        return connection

    def commit(self) -> None:
        """Commit, and be sure of it.

        The statement time-out is lifted in the same packet: a time-out while COMMIT waits for a
        synchronous standby would leave the commit standing and say otherwise. Durability is asked
        for there once more, and the warning when it was not had, whatever a handler has set.

        :raises DatabaseDoubt: when it is not certain that the transaction is durable.
        """
        connection = self._open()
        self._warnings.clear()
        with self._steps.step(Step.COMMIT), doubtful("commit"):
            cursor = self._run_or_close(connection, self._commit)
            while cursor.nextset():
                pass
        if cursor.statusmessage != "COMMIT":
            raise DatabaseDoubt(f"COMMIT was answered by {cursor.statusmessage}")
        if self._warnings:
            raise DatabaseDoubt(self._warnings[0])

    def rollback(self) -> None:
        """End the open transaction without effect; never raises."""
        connection = self._connection
        if self._pipeline_broke:
            self.close()
            return
        if connection is None or connection.closed:
            return
        try:
            with self._steps.step(Step.ROLLBACK):
                connection.execute("ROLLBACK", prepare=False)
        except psycopg.Error:
            self.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A framework transaction: committed at the end, rolled back by any exception.

        :raises DatabaseDoubt: for every error of Postgres.
        """
        with doubtful("begin"):
            connection = self.begin("READ COMMITTED")
        try:
            with doubtful("statement"):
                yield connection
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def _run_or_close(
        self, connection: Connection, statement: str, *, prepare: bool = False
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """A half-done BEGIN or COMMIT would leave a session that nobody ends."""
        try:
            return connection.execute(text(statement), prepare=prepare)
        except BaseException:
            self.close()
            raise

    def _open(self) -> Connection:
        if self._connection is None:
            raise DatabaseDoubt("the connection is gone")
        return self._connection

    def _connect(self) -> Connection:
        connection: Connection = self._connect_to(
            psycopg_url(self._settings.url.get_secret_value()),
            autocommit=True,
            application_name=self._name,
            connect_timeout=int(self._settings.connect_timeout_seconds),
            target_session_attrs="read-write",
            keepalives_idle=KEEPALIVES_IDLE_SECONDS,
            keepalives_interval=KEEPALIVES_INTERVAL_SECONDS,
            keepalives_count=KEEPALIVES,
            tcp_user_timeout=15_000,
        )
        connection.add_notice_handler(self._noticed)
        # The server asks as well: a session in COPY whose client is gone without a word holds its
        # locks, and no time-out of Postgres ends it.
        row = connection.execute(
            _FIRST,
            [str(n) for n in (KEEPALIVES_IDLE_SECONDS, KEEPALIVES_INTERVAL_SECONDS, KEEPALIVES)],
            prepare=False,
        ).fetchone()
        assert row is not None
        durability = row[0] if row[0] in STRONGER_THAN_ON else "on"
        self._limits = self._limited(durability)
        self._commit = (
            f"SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = {durability};"
            " SET LOCAL client_min_messages = warning; COMMIT"
        )
        self.system_identifier = row[1]
        return connection

    def _limited(self, durability: str) -> str:
        """The statement that follows BEGIN; one, because each costs its share of a small batch."""
        values = {
            "synchronous_commit": durability,
            "statement_timeout": int(self._settings.statement_timeout_seconds * 1000),
            "idle_in_transaction_session_timeout": int(
                self._settings.idle_in_transaction_timeout_seconds * 1000
            ),
        }
        set_locally = (f"set_config('{name}', '{value}', true)" for name, value in values.items())
        return f"SELECT {', '.join(set_locally)}"

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """A COMMIT whose wait for the synchronous standby was cut short says so in a warning."""
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "warning")


@contextmanager
def doubtful(what: str) -> Iterator[None]:
    """Every error of Postgres inside is a doubt: recovery finds out what stands."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseDoubt(f"{what}: {told(error)}") from error


@contextmanager
def restartable() -> Iterator[None]:
    """:raises Restart: where Postgres asks for the transaction to be run again."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate in RESTARTS:
            raise Restart(told(error)) from error
        raise


@contextmanager
def of_handler(connection: Connection) -> Iterator[None]:
    """Sort the errors of a handler's statements by who is to blame."""
    try:
        yield
    except psycopg.Error as error:
        raise classified(error, connection) from error


def classified(error: psycopg.Error, connection: Connection) -> Exception:
    """Whose fault an error of a handler's statement is.

    Only data errors (class 22), integrity errors (class 23) and errors raised by the user's own
    functions (P0001) are the message's; anything else would dead-letter good messages.
    """
    state = error.sqlstate
    if connection.closed or connection.broken:
        return DatabaseDoubt(told(error))
    if state is None:
        # Found by the client: a value that cannot be adapted is the message's.
        data = isinstance(error, (psycopg.DataError, psycopg.ProgrammingError))
        return StatementFailed(told(error)) if data else DatabaseDoubt(told(error))
    if state == DEADLOCK:
        return Deadlock(told(error))
    if state in RESTARTS:
        return Restart(told(error))
    if state[:2] in ("22", "23") or state == "P0001":
        return StatementFailed(told(error))
    return StatementRefused(told(error))


def told(error: psycopg.Error) -> str:
    """An error in one line, with its SQLSTATE."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return f"{first} ({error.sqlstate})" if error.sqlstate else first


def text(statement: str) -> LiteralString:
    """A statement that the engine made itself, never from a message."""
    return statement
