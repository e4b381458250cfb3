"""A store of plain lists, for the logic around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from processor.transaction import Parameters, Row, Statement
from processor.writes import CopyWrite, UpsertWrite


class ListSession:
    """What handlers write through; ``errors`` are raised one by one, None for none."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.errors: list[Exception | None] = []
        self.failure: Exception | None = None

    def copy(self, write: CopyWrite) -> None:
        self._do(("copy", write.table.name, tuple(write.rows)))

    def upsert(self, write: UpsertWrite) -> None:
        self._do(("upsert", write.table.name, tuple(write.rows)))

    def execute(self, statement: Statement, parameters: Parameters) -> int:
        self._do(("execute", statement, parameters))
        return 1

    def fetch_one(self, statement: Statement, parameters: Parameters) -> Row | None:
        self._do(("fetch", statement, parameters))
        return None

    def fetch_all(self, statement: Statement, parameters: Parameters) -> list[Row]:
        self._do(("fetch", statement, parameters))
        return []

    def ask(self, query: str, parameters: Sequence[Any]) -> list[Row]:
        self._do(("ask", query, parameters))
        return []

    def _do(self, write: Any) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            self.failure = self.failure or error
            raise error
        self.writes.append(write)


class ListStore:
    """Keeps what was written, and takes back what a savepoint's rollback undoes."""

    def __init__(self) -> None:
        self.session = ListSession()
        self.savepoints = 0
        """How many there have been."""
        self._marks: list[int] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        """A list has no round trips."""
        yield

    def settle(self) -> None:
        """A list has no deferred constraints."""

    def savepoint(self) -> None:
        self.savepoints += 1
        self._marks.append(len(self.session.writes))

    def release(self) -> None:
        self._marks.pop()

    def rollback_to_savepoint(self) -> None:
        self.session.failure = None
        del self.session.writes[self._marks.pop() :]

    @property
    def open_savepoints(self) -> int:
        return len(self._marks)
