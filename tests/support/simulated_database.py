"""Stores and ledgers over a simulated database, for the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg

from processor.testing.network import Fate, Network, Request
from processor.testing.postgres.server import Server
from processor.testing.scheduler import Process, Scheduler
from tests.support.databases import PostgresWorld

T = TypeVar("T")
URL = "postgresql://simulated/contract"


class SimulatedWorld(PostgresWorld):
    """The test itself acts from outside of all processes; what it begins are tasks."""

    def __init__(self, group: str, seed: int = 1) -> None:
        self.time = Scheduler(seed)
        self.network = Network(self.time)
        self.server = Server(self.time, self.network)
        self.server.noticed_share = 1.0
        super().__init__(URL, group, connect=self.server.connect)

    def begin(self, call: Callable[[], T]) -> Any:
        return self.time.spawn(Process("beside"), call)

    def wait_for_waiters(self, count: int = 1) -> None:
        self.wait_until(lambda: len(self.server.waiting) >= count, "statement that waits")

    def barrier(self, parties: int) -> Callable[[], object]:
        came = 0

        def arrive() -> None:
            nonlocal came
            came += 1
            last = -(-came // parties) * parties
            assert self.time.wait(lambda: came >= last, 20), "the others do not come"

        return arrive

    def now(self) -> float:
        return self.time.now()

    def pause(self, seconds: float) -> None:
        self.time.pause(seconds)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(2_000):
            if condition():
                return
            self.time.pause(0.01)
        raise AssertionError(f"no {what}")

    @contextmanager
    def stopped_holder(self, application: str) -> Iterator[Callable[[], None]]:
        process = Process("holder")
        hold = partial(self._hold, application)
        self.time.spawn(process, hold).result(20)
        process.stopped_until = float("inf")
        yield process.kill
        process.kill()

    def _hold(self, application: str) -> None:
        connection: Any = self.server.connect(application_name=application)
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM processor.progress FOR UPDATE")

    @contextmanager
    def losing_commits(self, *, reached: bool) -> Iterator[None]:
        """The connection breaks at COMMIT: after the server has got it, or before."""

        def fate(request: Request) -> Fate:
            if request.name != "COMMIT":
                return Fate.ARRIVES
            return Fate.REPLY_LOST if reached else Fate.LOST

        before, self.network.fates = self.network.fates, fate
        try:
            yield
        finally:
            self.network.fates = before

    def close(self) -> None:
        with suppress(psycopg.Error):
            super().close()
        assert self.server.failures == []
