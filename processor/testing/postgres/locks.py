"""Locks of rows, keys, tables and numbers: who holds them, and who waits in line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from processor.testing.postgres.tables import Table, Unique

if TYPE_CHECKING:
    from processor.testing.postgres.transactions import Transaction

Key = tuple[Any, ...]
Lock = tuple[Any, ...]
"""``(table, place)``, a row's; ``(table, unique, key)``, that of a key which is being inserted;
``(table,)``, of a table that is being dropped; :func:`named` and :func:`advisory`.
"""


def row_lock(table: Table, place: int) -> Lock:
    return (table, place)


def key_lock(table: Table, unique: Unique, key: Key) -> Lock:
    return (table, unique, key)


def table_lock(table: Table) -> Lock:
    return (table,)


def named(table: str) -> Lock:
    """Of the name of a table that is being created."""
    return ("table", table)


def advisory(numbers: tuple[int, ...]) -> Lock:
    return ("advisory", *numbers)


class Blocked(Exception):
    """Another open transaction is in the way; the statement is run again when that one ends.

    ``line`` is the lock that it waits for in a line of its own: the wait is one and the same,
    however many transactions are in the way one after the other.
    """

    def __init__(self, holder: Transaction, line: Lock | None = None) -> None:
        super().__init__()
        self.holder = holder
        self.line = line


class Locks:
    """Who holds what, until the end of its transaction: one alone, or several that share it."""

    def __init__(self) -> None:
        self._holders: dict[Lock, Transaction] = {}
        self._sharers: dict[Lock, dict[Transaction, None]] = {}
        self._lines: dict[Lock, dict[Transaction, bool]] = {}
        """Who waits for an advisory lock, the first first, and whether it is to share it."""

    def acquire(self, transaction: Transaction, lock: Lock) -> None:
        """:raises Blocked: when another transaction has it."""
        if self._sharers:
            self._refuse_sharers(transaction, lock)
        holder = self._holders.setdefault(lock, transaction)
        if holder is not transaction:
            raise Blocked(holder)
        transaction.locks[lock] = None

    def share(self, transaction: Transaction, lock: Lock) -> None:
        """:raises Blocked: when another transaction has it for itself."""
        holder = self._holders.get(lock)
        if holder is None:
            self._sharers.setdefault(lock, {})[transaction] = None
            transaction.shared[lock] = None
        elif holder is not transaction:
            raise Blocked(holder)

    def in_line(self, transaction: Transaction, lock: Lock, *, shares: bool) -> None:
        """Acquire or share it in the order of coming; who has it already goes before the others.

        :raises Blocked: by who has it, or by who came before and does not get along with it.
        """
        line = self._lines.setdefault(lock, {})
        has_it = transaction in self._sharers.get(lock, ()) or lock in transaction.locks
        try:
            for other, other_shares in line.items() if not has_it else ():
                if other is transaction:
                    break
                if not (shares and other_shares):
                    raise Blocked(other)
            (self.share if shares else self.acquire)(transaction, lock)
        except Blocked as blocked:
            line.setdefault(transaction, shares)
            raise Blocked(blocked.holder, lock) from None
        line.pop(transaction, None)
        if not line:
            del self._lines[lock]

    def _refuse_sharers(self, transaction: Transaction, lock: Lock) -> None:
        for sharer in self._sharers.get(lock, ()):
            if sharer is not transaction:
                raise Blocked(sharer)

    def holder(self, lock: Lock) -> Transaction | None:
        """Who has it for itself."""
        return self._holders.get(lock)

    def release(self, locks: Iterable[Lock]) -> None:
        for lock in locks:
            del self._holders[lock]

    def release_shared(self, transaction: Transaction, locks: Iterable[Lock]) -> None:
        for lock in locks:
            sharers = self._sharers[lock]
            del sharers[transaction]
            if not sharers:
                del self._sharers[lock]

    def leave(self, transaction: Transaction) -> None:
        """It waits for nothing any more."""
        for lock, line in list(self._lines.items()):
            line.pop(transaction, None)
            if not line:
                del self._lines[lock]
