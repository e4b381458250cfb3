"""The client's side of a connection, with as much of psycopg's interface as the engine uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from processor.testing.network import LATENCY_SECONDS, RequestLost, RequestTimedOut
from processor.testing.postgres.cursor import Cursor
from processor.testing.postgres.session import Request, Session

if TYPE_CHECKING:
    from processor.testing.postgres.server import Server

REPLY_SECONDS = 2.0
"""Until a client whose network has broken down learns of it. The server may take longer, so that
a request that is late can be served after its client has given up.
"""


class Connection:
    """Implements the part of ``psycopg.Connection`` that the engine uses."""

    connection = None
    """As an adaptation context it is none of psycopg's own."""
    adapters = psycopg.adapters

    def __init__(
        self,
        server: Server,
        *,
        application_name: str = "",
        row_factory: Any = tuple_row,
        connect_timeout: float = REPLY_SECONDS,
        **_: Any,
    ) -> None:
        self._server = server
        self._network = server.network
        self._time = server.time
        self.row_factory = row_factory
        self.closed = True
        self.broken = False
        self._status = TransactionStatus.UNKNOWN
        self._handlers: list[Callable[[Any], None]] = []
        self._queue: list[Cursor] | None = None
        self._process = self._time.process
        admitted: list[Session] = []
        try:
            self._call(
                "CONNECT", lambda: admitted.append(server.admit(application_name)), connect_timeout
            )
        except psycopg.OperationalError:
            for session in admitted:
                session.hang_up()
            raise
        [self._session] = admitted
        self.closed = False
        self._status = TransactionStatus.IDLE
        self._process.on_death.append(self._hang_up)

    @property
    def info(self) -> Any:
        return SimpleNamespace(
            transaction_status=TransactionStatus.UNKNOWN if self.closed else self._status,
            backend_pid=self._session.pid,
        )

    @property
    def is_pipelined(self) -> bool:
        return self._queue is not None

    @property
    def pgconn(self) -> Any:
        status = PipelineStatus.ON if self.is_pipelined else PipelineStatus.OFF
        return SimpleNamespace(pipeline_status=status)

    def add_notice_handler(self, handler: Callable[[Any], None]) -> None:
        self._handlers.append(handler)

    def cursor(self, *, row_factory: Any = None) -> Cursor:
        return Cursor(self, row_factory or self.row_factory)

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None) -> Cursor:
        return self.cursor().execute(query, params, prepare=prepare)

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        """What is executed inside is sent at its end, or when a result is asked for."""
        if self._queue is not None:
            yield
            self.sync()
            return
        self._queue = []
        try:
            yield
            self.sync()
        except Exception:
            with suppress(psycopg.Error):
                self.sync()
            raise
        finally:
            self._queue = None

    def sync(self) -> None:
        """Send what is queued.

        :raises psycopg.Error: the first; what was queued after it has not been executed.
        """
        queue, self._queue = self._queue, []
        if not queue:
            self._check_open()
            return
        self.send(queue, "PIPELINE")

    def submit(self, cursor: Cursor, name: str) -> None:
        """Send a cursor's statements, or queue them in a pipeline."""
        if self._queue is None:
            self.send([cursor], name)
        else:
            self._check_open()
            self._queue.append(cursor)

    def send(self, cursors: Sequence[Cursor], name: str) -> None:
        """:raises psycopg.Error: of the statements, or because the connection is lost."""
        self._check_open()
        request = Request([each for cursor in cursors for each in cursor.statements])
        self._call(name, lambda: self._session.receive(request), REPLY_SECONDS)
        if not request.is_done:
            self._wait_for(request, name)
        self._answered(request, cursors)

    def _wait_for(self, request: Request, name: str) -> None:
        """It waits for a lock; the answer may find no way back."""
        found = self._time.wait(lambda: request.is_done)
        assert found, f"{name} waits for a lock that nobody will give back"
        if self._is_cut():
            raise self._lost(name)

    def _answered(self, request: Request, cursors: Sequence[Cursor]) -> None:
        at = 0
        for cursor in cursors:
            following = at + len(cursor.statements)
            cursor.answered(request.results[at:following])
            at = following
        self._status = request.status
        for text in self._session.take_notices():
            diagnostic = SimpleNamespace(severity_nonlocalized="WARNING", message_primary=text)
            for handler in self._handlers:
                handler(diagnostic)
        if request.status is TransactionStatus.UNKNOWN:
            self._break()
        if request.error is not None:
            raise request.error

    def begin_copy(self) -> None:
        """From now on the server waits for data, and no time-out of it ends that."""
        self._check_open()
        self._call("COPY", self._session.begin_copy, REPLY_SECONDS)

    def close(self) -> None:
        if not self.closed:
            self._break()
            self.broken = False
            self._hang_up()

    def _check_open(self) -> None:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")

    def _call(self, name: str, serve: Callable[[], None], timeout: float) -> None:
        try:
            self._network.call(self._server.name, name, serve, timeout)
        except (RequestLost, RequestTimedOut):
            raise self._lost(name) from None

    def _lost(self, name: str) -> psycopg.OperationalError:
        if not self.closed:
            self._break()
            if self._time.random.random() < self._server.noticed_share:
                self._hang_up()
            else:
                self._session.lose_client()
        return psycopg.OperationalError(f"{name}: server closed the connection unexpectedly")

    def _break(self) -> None:
        self.closed = self.broken = True
        self._queue = None if self._queue is None else []
        with suppress(ValueError):
            self._process.on_death.remove(self._hang_up)

    def _is_cut(self) -> bool:
        return (self._process.name, self._server.name) in self._network.cut

    def _hang_up(self) -> None:
        """The kernel tells the server, if it can."""
        if not self._is_cut():
            seconds = self._time.random.uniform(*LATENCY_SECONDS)
            self._time.later(seconds, self._session.hang_up)
        else:
            self._session.lose_client()
