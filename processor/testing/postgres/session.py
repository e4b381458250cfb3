"""The server's side of a connection: runs requests, waits for locks, ends when it must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from processor.testing.postgres.commands import Commands
from processor.testing.postgres.execution import Execution, Result
from processor.testing.postgres.locks import Blocked, Lock
from processor.testing.postgres.plans import Prepared, Refused
from processor.testing.postgres.settings import Settings
from processor.testing.postgres.syntax import Command
from processor.testing.postgres.transactions import Snapshot, Transaction

if TYPE_CHECKING:
    from processor.testing.postgres.server import Server
    from processor.testing.scheduler import Timer

ENDS = ("ROLLBACK", "COMMIT", "END", "ABORT", "ROLLBACK TO")
"""The only statements that an aborted transaction takes."""


@dataclass(eq=False, slots=True)
class Request:
    """What a client sends at once; answered up to its first error, which ends it."""

    statements: Sequence[tuple[Prepared | Refused, Any]]
    """Each with its parameters."""
    results: list[Result] = field(default_factory=list)
    error: Exception | None = None
    is_done: bool = False
    status: TransactionStatus = TransactionStatus.UNKNOWN
    """The session's, when it answered."""

    def answer(self, status: TransactionStatus, error: Exception | None = None) -> None:
        """UNKNOWN tells that the session has ended."""
        self.status, self.error, self.is_done = status, error or self.error, True


class Session:
    """One backend process. Nothing in it pauses: a statement that has to wait is run again from
    its beginning, with the locks that it has got and the snapshot that it began with.
    """

    def __init__(self, server: Server, pid: int, application_name: str) -> None:
        self.server = server
        self.pid = pid
        self.application_name = application_name
        self.settings = Settings(server.settings)
        self.transaction: Transaction | None = None
        self.is_explicit = False
        """Begun by BEGIN, not by a statement alone."""
        self.is_failed = False
        self.fatal: Exception | None = None
        """Why it has ended."""
        self.notices: list[str] = []
        self.blocked_by: Transaction | None = None
        self.is_copying = False
        """Inside COPY no time-out ends it."""
        self._request: Request | None = None
        self._snapshot: Snapshot | None = None
        self._is_orphan = False
        self._line: tuple[Lock, float] | None = None
        """The lock that it waits for in line, and since when."""
        self._timers: list[Timer] = []
        self._idle_since = 0.0
        self._idle_timer: Timer | None = None
        self._commands = Commands(self)

    @property
    def status(self) -> TransactionStatus:
        if self.fatal is not None:
            return TransactionStatus.UNKNOWN
        if self.is_failed:
            return TransactionStatus.INERROR
        return TransactionStatus.INTRANS if self.is_explicit else TransactionStatus.IDLE

    def receive(self, request: Request) -> None:
        """Begin to run it; it is done at once unless a lock is in the way."""
        if self.fatal is not None:
            request.answer(TransactionStatus.UNKNOWN, self.fatal)
            return
        assert self._request is None, "a client sends nothing before it has its answer"
        self.is_copying = False
        self._request = request
        self._go_on()

    def begin_copy(self) -> None:
        """Wait for COPY's data."""
        self.is_copying = True

    def take_notices(self) -> list[str]:
        taken, self.notices = self.notices, []
        return taken

    def wake(self) -> None:
        """Who was in the way is gone."""
        self._stop_waiting()
        self._go_on()

    def _go_on(self) -> None:
        request = self._request
        assert request is not None
        try:
            while len(request.results) < len(request.statements):
                request.results.append(self._run(*request.statements[len(request.results)]))
                self._snapshot = self._line = None
            if not self.is_explicit:
                self._end_implicit()
        except Blocked as blocked:
            self._wait_for(blocked)
            return
        except Exception as error:
            self._fail(request, error)
        self._answered(request)

    def _fail(self, request: Request, error: Exception) -> None:
        if not isinstance(error, psycopg.Error):
            self.server.failures.append(error)
        request.error = error
        self._snapshot = self._line = None
        if self.fatal is not None:
            return
        if self.is_explicit:
            assert self.transaction is not None
            self.is_failed = True
            self.transaction.abort()
            self.server.has_released(self.transaction)
        else:
            self.rollback()

    def _answered(self, request: Request) -> None:
        request.answer(self.status)
        self._request = None
        if self._is_orphan:
            self.end(errors.ConnectionFailure("the client is gone"))
        elif self.transaction is not None:
            self._idle()

    def _run(self, statement: Prepared | Refused, parameters: Any) -> Result:
        if self.is_failed and statement.kind not in ENDS:
            raise errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )
        if isinstance(statement.statement, Command):
            return self._commands.run(statement.statement)
        transaction = self.transaction or self.begin(is_explicit=False)
        plan = statement.plan(transaction.shapes(self.server.shapes))
        if transaction.is_snapshot and transaction.snapshot is None:
            transaction.snapshot = self.server.committed_rows()
        seen = transaction.snapshot or self._snapshot
        done, locks = len(transaction.undo), len(transaction.deferred)
        try:
            return plan.run(Execution(self, transaction, parameters, seen))
        except Blocked:
            transaction.undo_to(done)
            del transaction.deferred[locks:]
            self._snapshot = seen or self.server.committed_rows()
            raise

    def begin(self, *, is_explicit: bool, isolation: str | None = None) -> Transaction:
        if self.transaction is not None:
            self.is_explicit |= is_explicit
            return self.transaction
        if isolation is not None:
            self.settings.set("transaction_isolation", isolation, is_local=True)
        self.is_explicit = is_explicit
        self.transaction = self.server.new_transaction(
            is_snapshot=self.settings.get("transaction_isolation") != "read committed"
        )
        return self.transaction

    def commit(self) -> str:
        """Of what is open; the status that answers it.

        :raises psycopg.Error: of a deferred constraint; nothing is open then.
        """
        transaction = self.transaction
        if transaction is None or self.is_failed:
            self.rollback()
            return "ROLLBACK" if transaction is not None else "COMMIT"
        try:
            self._commands.check_deferred(transaction)
        except psycopg.Error:
            self.rollback()
            raise
        transaction.commit()
        self.server.take_tables(transaction.tables)
        warning = self.server.standby()
        if warning is not None:
            self.notices.append(warning)
        self._ended()
        return "COMMIT"

    def rollback(self) -> None:
        if self.transaction is not None:
            self.transaction.end()
        self._ended()

    def _ended(self) -> None:
        transaction, self.transaction = self.transaction, None
        self.is_explicit = self.is_failed = False
        self.settings.end_transaction()
        if transaction is not None:
            self.server.has_released(transaction)

    def _end_implicit(self) -> None:
        if self.transaction is not None:
            self.commit()

    def _wait_for(self, blocked: Blocked) -> None:
        """The time-outs begin anew at each lock, but for the statement's own."""
        self.blocked_by = blocked.holder
        self.server.waiting.append(self)
        limits: list[tuple[str, psycopg.Error]] = [
            ("lock_timeout", errors.LockNotAvailable("canceling statement due to lock timeout")),
            ("statement_timeout", errors.QueryCanceled(
                "canceling statement due to statement timeout"
            )),
        ]  # fmt: skip
        later = self.server.time.later
        waited = self._waited_for(blocked.line)
        for name, error in limits:
            seconds = self.settings.seconds(name)
            if seconds:
                left = max(seconds - waited, 0.0)
                self._timers.append(later(left, partial(self._give_up, error)))
        seconds = self.settings.seconds("deadlock_timeout")
        self._timers.append(later(seconds, self._look_for_deadlock))

    def _waited_for(self, line: Lock | None) -> float:
        """How long it has been in this line."""
        now = self.server.time.now()
        if line is None:
            self._line = None
        elif self._line is None or self._line[0] != line:
            self._line = line, now
        return 0.0 if self._line is None else now - self._line[1]

    def _look_for_deadlock(self) -> None:
        if self.server.is_deadlocked(self):
            self._give_up(errors.DeadlockDetected("deadlock detected"))

    def _give_up(self, error: psycopg.Error) -> None:
        request = self._request
        assert request is not None
        self._stop_waiting()
        self._fail(request, error)
        self._answered(request)

    def _stop_waiting(self) -> None:
        self.blocked_by = None
        if self in self.server.waiting:
            self.server.waiting.remove(self)
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _idle(self) -> None:
        time = self.server.time
        self._idle_since = time.now()
        seconds = self.settings.seconds("idle_in_transaction_session_timeout")
        if self._idle_timer is None and seconds:
            self._idle_timer = time.later(seconds, self._look_at_idle)

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        if self.transaction is None or self._request is not None or self.is_copying:
            return
        limit = self.settings.seconds("idle_in_transaction_session_timeout")
        left = self._idle_since + limit - self.server.time.now()
        if left > 1e-6:
            self._idle_timer = self.server.time.later(left, self._look_at_idle)
        else:
            self.end(
                errors.IdleInTransactionSessionTimeout(
                    "terminating connection due to idle-in-transaction timeout"
                )
            )

    def lose_client(self) -> None:
        """The client is gone without a word: only keepalives tell, where they were asked for."""
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        idle, interval, count = (int(self.settings.get(name) or 0) for name in names)
        if idle:
            self.server.time.later(idle + interval * count, self.hang_up)

    def hang_up(self) -> None:
        """The client is gone; a statement that waits for a lock is carried out all the same."""
        if self._request is not None:
            self._is_orphan = True
        else:
            self.end(errors.ConnectionFailure("the client is gone"))

    def end(self, why: Exception) -> None:
        """Its transaction is rolled back; the client finds out when it next asks."""
        if self.fatal is not None:
            return
        self.fatal = why
        self._stop_waiting()
        self.server.sessions.pop(self.pid, None)
        self.rollback()
        request, self._request = self._request, None
        if request is not None:
            request.answer(TransactionStatus.UNKNOWN, why)
