"""The database server of the simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy
from psycopg import OperationalError, errors

from processor.schema import REVISIONS, metadata
from processor.testing.network import Network
from processor.testing.postgres.connection import Connection
from processor.testing.postgres.locks import Locks
from processor.testing.postgres.session import Session
from processor.testing.postgres.tables import CTID, Table, Values, shape_of
from processor.testing.postgres.transactions import Snapshot, Transaction
from processor.testing.scheduler import Time

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The date at the virtual time 0."""
SIGNAL_SECONDS = 0.0001
"""Until a backend that is sent away is gone."""
VERSIONS = sqlalchemy.Table(
    "alembic_version",
    sqlalchemy.MetaData(schema="processor"),
    sqlalchemy.Column("version_num", sqlalchemy.String(32), primary_key=True),
)
VERSION = {"version_num": REVISIONS[-1], CTID: 1}


@dataclass(frozen=True, slots=True)
class State:
    """What was committed, to go back to."""

    tables: tuple[Table, ...]
    system_identifier: int


class Server:
    """Committed tables and the sessions that work on them.

    It has the framework's schema, migrated; pipelines' tables are added by :meth:`create_table`.
    ``failures`` are errors of the fake itself, such as an :class:`UnknownStatement`: a simulation
    has to find it empty, since the engine may take one for a handler's error.
    """

    def __init__(self, time: Time, network: Network, name: str = "postgres") -> None:
        self.time = time
        self.network = network
        self.name = name
        self.system_identifier = time.random.getrandbits(62) + 1
        self.tables: dict[str, Table] = {}
        self.shapes: dict[str, Any] = {}
        self.settings: dict[str, str] = {}
        """Of the database, for new sessions."""
        self.sessions: dict[int, Session] = {}
        self.waiting: list[Session] = []
        """For locks, in the order in which they came."""
        self.is_up = True
        self.standby: Callable[[], str | None] = lambda: None
        """At each commit: the warning that the wait for the standby was cut short, if it was."""
        self.noticed_share = 0.5
        """Of the broken connections that the server sees at once; others end by its time-outs."""
        self.failures: list[Exception] = []
        self._locks = Locks()
        self._transactions = self._pids = 0
        for table in metadata.sorted_tables:
            self.create_table(table)
        self.add(Table(shape_of(VERSIONS), {1: VERSION}, 0, 1))

    def create_table(self, table: sqlalchemy.Table) -> None:
        self.add(Table(shape_of(table)))

    def add(self, table: Table) -> None:
        self.tables[table.shape.name] = table
        self.shapes[table.shape.name] = table.shape
        table.neighbours = self.tables

    def take_tables(self, tables: Mapping[str, Table | None]) -> None:
        """Of a transaction that commits: created ones, and dropped ones (None)."""
        for name, table in tables.items():
            if table is not None:
                self.add(table)
            elif self.tables.pop(name, None) is not None:
                del self.shapes[name]

    def users(self, table: Table) -> list[Transaction]:
        """The open transactions that have used it."""
        open_ones = [each.transaction for each in self.sessions.values()]
        return [each for each in open_ones if each is not None and table in each.used]

    def reshape(self, table: str, column: str) -> None:
        """An identity column takes values from INSERT from now on."""
        old = self.tables[table]
        columns = tuple(
            replace(each, is_always=False) if each.name == column else each
            for each in old.shape.columns
        )
        self.add(replace(old, shape=replace(old.shape, columns=columns)))

    def connect(self, conninfo: str = "", **options: Any) -> Connection:  # noqa: ARG002
        """As ``psycopg.connect``, from the running process.

        :raises psycopg.OperationalError: when it is down or cannot be reached.
        """
        return Connection(self, **options)

    def admit(self, application_name: str) -> Session:
        """A new session; what the server does when a connection arrives.

        :raises psycopg.OperationalError: when it is down.
        """
        if not self.is_up:
            raise OperationalError("connection failed: Connection refused")
        self._pids += 1
        session = self.sessions[self._pids] = Session(self, self._pids, application_name)
        return session

    def committed(self, table: str) -> list[dict[str, Any]]:
        """The committed rows, as copies in the order of their insertion.

        The framework's tables go by their bare names: ``progress``, ``outbox``.
        """
        names = self._table(table).shape.names
        return [{name: row[name] for name in names} for row in self.rows(table)]

    def rows(self, table: str) -> list[Values]:
        """As :meth:`committed`, without the cost of copies: the rows themselves."""
        rows = self._table(table).rows
        return [rows[place] for place in sorted(rows)]

    def _table(self, name: str) -> Table:
        return self.tables.get(name) or self.tables[f"processor.{name}"]

    def committed_rows(self) -> Snapshot:
        """As a statement's snapshot: the rows themselves are never changed."""
        return {table: dict(table.rows) for table in self.tables.values()}

    def kill(self, why: str = "server closed the connection unexpectedly") -> None:
        """Every session ends, nobody can connect; what is committed stays."""
        self.is_up = False
        for session in list(self.sessions.values()):
            session.end(OperationalError(why))

    def restart(self) -> None:
        """Up again, killed first if it was not."""
        self.kill()
        self.is_up = True

    def snapshot(self) -> State:
        """What is committed now."""
        return State(tuple(t.copy() for t in self.tables.values()), self.system_identifier)

    def restore(
        self, state: State, system_identifier: int | None = None, keeps_idle: bool = False
    ) -> None:
        """Go back to a state; the sessions end first. The server stays up if it was.

        :param system_identifier: of the restored server: another one after a dump and restore.
        :param keeps_idle: sessions without a transaction go on, as behind a connection pooler.
        """
        if keeps_idle:
            for session in [each for each in self.sessions.values() if each.transaction]:
                session.end(OperationalError("server closed the connection unexpectedly"))
        else:
            was_up = self.is_up
            self.kill()
            self.is_up = was_up
        self.tables.clear()
        self.shapes.clear()
        for table in state.tables:
            self.add(table.copy())
        self.system_identifier = system_identifier or state.system_identifier

    def clone(self, name: str) -> Server:
        """Another server with all that is committed here, the system identifier included."""
        clone = Server(self.time, self.network, name)
        clone.restore(self.snapshot())
        return clone

    def terminate(self, pid: int, by: Session | None = None) -> bool:
        """``pg_terminate_backend``.

        :raises psycopg.errors.AdminShutdown: in the session that ends itself.
        """
        session = self.sessions.get(pid)
        if session is None:
            return False
        error = errors.AdminShutdown("terminating connection due to administrator command")
        if session is by:
            session.end(error)
            raise error
        self.time.later(SIGNAL_SECONDS, lambda: session.end(error))
        return True

    def new_transaction(self, *, is_snapshot: bool) -> Transaction:
        self._transactions += 1
        return Transaction(self._transactions, self.clock(), self._locks, self.tables, is_snapshot)

    def clock(self) -> datetime:
        return EPOCH + timedelta(seconds=self.time.now())

    def has_released(self, transaction: Transaction) -> None:
        """It gave locks back: whoever waits for it goes on, in the order in which they came."""
        if self.waiting and any(session.blocked_by is transaction for session in self.waiting):
            self.time.later(0.0, lambda: self._wake(transaction))

    def _wake(self, transaction: Transaction) -> None:
        for session in list(self.waiting):
            if session.blocked_by is transaction:
                session.wake()

    def is_deadlocked(self, session: Session) -> bool:
        """Whether it waits, by way of others, for itself."""
        by_transaction = {each.transaction: each for each in self.sessions.values()}
        asked = session
        for _ in self.sessions:
            if asked.blocked_by is None:
                return False
            found = by_transaction.get(asked.blocked_by)
            if found is None:
                return False
            if found is session:
                return True
            asked = found
        return False

    def catalog(self, name: str) -> list[dict[str, Any]]:
        """The rows of a view or function of Postgres' own."""
        if name == "pg_control_system":
            return [{"system_identifier": self.system_identifier}]
        sessions = self.sessions.values()
        if name == "pg_locks":
            return [
                {
                    "locktype": "transactionid",
                    "granted": True,
                    "transactionid": session.transaction.number,
                    "pid": session.pid,
                }
                for session in sessions
                if session.transaction is not None
            ]
        return [
            {
                "pid": session.pid,
                "application_name": session.application_name,
                "datname": self.name,
                "state": session.status.name,
            }
            for session in sessions
        ]
