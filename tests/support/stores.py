"""A store of plain lists, for the logic around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from processor.engine.failures import StatementFailed
from processor.transaction import Parameters, Row, Statement
from processor.writes import CopyWrite, UpsertWrite


class ListSession:
    """What handlers write through; ``errors`` are raised one by one, None for none."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.errors: list[Exception | None] = []
        self.failure: Exception | None = None
        self.refused_upsert: UpsertWrite | None = None

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
        self.session.failure = self.session.refused_upsert = None
        del self.session.writes[self._marks.pop() :]

    @property
    def open_savepoints(self) -> int:
        return len(self._marks)


class KeyedSession(ListSession):
    """Answers what is asked of business keys, from a set of them."""

    def __init__(self, period: int | None) -> None:
        super().__init__()
        self._period = period
        self.refused: set[Any] = set()
        """First columns of rows that Postgres refuses."""
        self.refusal = StatementFailed("refused")
        self.keys: set[str] = set()
        self.committed: set[str] = set()
        self.asked = 0
        self.on_ask: Callable[[], None] = lambda: None

    def copy(self, write: CopyWrite) -> None:
        if any(row[0] in self.refused for row in write.rows):
            self.failure = self.failure or self.refusal
            raise self.refusal
        super().copy(write)

    def ask(self, query: str, parameters: Sequence[Any]) -> list[Row]:
        self.asked += 1
        self.on_ask()
        if "dedup_periods" in query:
            return [] if self._period is None else [(self._period, False)]
        if "INSERT" in query:
            new = _members(parameters[0]) - self.keys
            self.keys |= new
            return [(",".join(new) or None,)]
        if "DELETE" in query:
            given = _members(parameters[0])
            assert given <= self.keys - self.committed, "what others have taken stays"
            self.keys -= given
        return []


class KeyedStore(ListStore):
    """A store of lists whose keys outlive their batches."""

    session: KeyedSession

    def __init__(self, period: int | None = 1) -> None:
        super().__init__()
        self.session = KeyedSession(period)

    def refuse(self, first: Any) -> None:
        self.session.refused.add(first)

    def commit(self) -> None:
        self.session.committed = set(self.session.keys)

    @property
    def keys(self) -> set[str]:
        return self.session.keys

    @property
    def refusal(self) -> Exception:
        return self.session.refusal

    @property
    def rows(self) -> list[Row]:
        """Inserted, in order."""
        copies = [write for write in self.session.writes if write[0] == "copy"]
        return [row for write in copies for row in write[2]]


def _members(array: str) -> set[str]:
    return set(array.strip("{}").split(","))
