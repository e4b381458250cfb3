"""One statement while it runs: its parameters, its snapshot, and what it may ask its session."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from processor.testing.postgres.locks import advisory, row_lock
from processor.testing.postgres.tables import CTID, Table, Values
from processor.testing.postgres.transactions import Snapshot, Transaction

if TYPE_CHECKING:
    from processor.testing.postgres.session import Session


@dataclass(slots=True)
class Result:
    """What a statement answers; ``rows`` is None for one that returns none."""

    tag: str
    count: int = -1
    names: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] | None = None

    @property
    def status(self) -> str:
        """As ``UPDATE 3``."""
        return self.tag if self.count < 0 else f"{self.tag} {self.count}"


@dataclass(slots=True)
class Execution:
    """``snapshot`` is None as long as what is committed is what the statement sees."""

    session: Session
    transaction: Transaction
    parameters: Any = ()
    snapshot: Snapshot | None = None
    results: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    """Of the queries named by WITH."""

    def table(self, name: str) -> Table:
        return self.transaction.table(name)

    def rows(self, name: str) -> Collection[Values]:
        return self.transaction.rows(self.transaction.table(name), self.snapshot)

    def catalog(self, name: str) -> list[dict[str, Any]]:
        return self.session.server.catalog(name)

    def locker(self, name: str, row: Values) -> int:
        """``xmax``: the transaction that has locked the row; 0 where none has."""
        holder = self.transaction.locks_of_all.holder(row_lock(self.table(name), row[CTID]))
        return 0 if holder is None else holder.number

    def now(self) -> datetime:
        return self.transaction.now

    def clock_timestamp(self) -> datetime:
        return self.session.server.clock()

    def pg_advisory_xact_lock(self, *numbers: int) -> str:
        return self._advisory(numbers, shares=False)

    def pg_advisory_xact_lock_shared(self, *numbers: int) -> str:
        return self._advisory(numbers, shares=True)

    def _advisory(self, numbers: tuple[int, ...], *, shares: bool) -> str:
        locks = self.transaction.locks_of_all
        locks.in_line(self.transaction, advisory(numbers), shares=shares)
        return ""

    def current_setting(self, name: str) -> str:
        return self.session.settings.shown(name)

    def set_config(self, name: str, value: str, is_local: bool) -> str:
        self.session.settings.set(name, value, is_local=is_local)
        return value

    def pg_backend_pid(self) -> int:
        return self.session.pid

    def pg_terminate_backend(self, pid: int) -> bool:
        return self.session.server.terminate(pid, by=self.session)

    def current_database(self) -> str:
        return self.session.server.name

    def to_regclass(self, name: str) -> str | None:
        return name if self.transaction.find(name) is not None else None
