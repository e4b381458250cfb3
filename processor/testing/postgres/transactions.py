"""Transactions: what they have changed and not committed, and the locks that they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import errors

from processor.testing.postgres.tables import CTID, Table, Unique, Values

Key = tuple[Any, ...]
Lock = tuple[Table, int] | tuple[Table, Unique, Key]
"""A row's, or that of a key which is being inserted."""
Snapshot = dict[Table, dict[int, Values]]
_NOTHING: Any = object()


class Blocked(Exception):
    """A lock is held by another open transaction; the statement is run again when that one ends."""

    def __init__(self, holder: Transaction) -> None:
        super().__init__()
        self.holder = holder


class Locks:
    """Who holds what, until the end of its transaction."""

    def __init__(self) -> None:
        self._holders: dict[Lock, Transaction] = {}

    def acquire(self, transaction: Transaction, lock: Lock) -> None:
        """:raises Blocked: when another transaction has it."""
        holder = self._holders.setdefault(lock, transaction)
        if holder is not transaction:
            raise Blocked(holder)
        transaction.locks[lock] = None

    def holder(self, lock: Lock) -> Transaction | None:
        return self._holders.get(lock)

    def release(self, locks: Iterable[Lock]) -> None:
        for lock in locks:
            del self._holders[lock]


@dataclass(slots=True)
class _Savepoint:
    name: str
    changes: int
    locks: int
    deferred: int


@dataclass(eq=False, slots=True)
class Transaction:
    """Its changes lie over the committed rows, for itself alone.

    ``now`` is when it began. Under ``is_snapshot`` (REPEATABLE READ, SERIALIZABLE) all its
    statements see what was committed when the first of them began.
    """

    number: int
    now: datetime
    locks_of_all: Locks
    is_snapshot: bool = False
    snapshot: Snapshot | None = None
    changes: dict[Table, dict[int, Values | None]] = field(default_factory=dict)
    keys: dict[tuple[Table, int], dict[Key, int | None]] = field(default_factory=dict)
    """Where this transaction's keys are, by table and number of the constraint."""
    locks: dict[Lock, None] = field(default_factory=dict)
    deferred: list[tuple[Table, Unique, int]] = field(default_factory=list)
    """Rows whose deferred constraint is still to be checked."""
    undo: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)
    savepoints: list[_Savepoint] = field(default_factory=list)

    def lock(self, lock: Lock) -> None:
        """:raises Blocked: see there."""
        self.locks_of_all.acquire(self, lock)

    def wait_for(self, lock: Lock) -> None:
        """:raises Blocked: while another transaction has it; this one does not take it."""
        holder = self.locks_of_all.holder(lock)
        if holder is not None and holder is not self:
            raise Blocked(holder)

    def rows(self, table: Table, snapshot: Snapshot | None) -> Collection[Values]:
        """What a statement sees: the committed rows, or those of its snapshot, and its own."""
        seen = table.rows if snapshot is None else snapshot.get(table, {})
        changed = self.changes.get(table)
        if not changed:
            return seen.values()
        rows = [changed.get(place, row) for place, row in seen.items()]
        rows += [row for place, row in changed.items() if place not in seen]
        return [row for row in rows if row is not None]

    def newest(self, table: Table, place: int) -> Values | None:
        """The version that an UPDATE changes: its own, or the last one committed."""
        changed = self.changes.get(table)
        if changed and place in changed:
            return changed[place]
        return table.rows.get(place)

    def locked(self, table: Table, seen: Values) -> Values | None:
        """Lock a row and return its newest version; None when it is gone.

        :raises Blocked: see there.
        :raises psycopg.errors.SerializationFailure: when it is not the version that is seen.
        """
        place = seen[CTID]
        self.lock((table, place))
        newest = self.newest(table, place)
        if self.is_snapshot and newest is not seen:
            raise errors.SerializationFailure("could not serialize access due to concurrent update")
        return newest

    def place_of(self, table: Table, number: int, key: Key) -> int | None:
        """Where a key is for a unique constraint: committed, or its own.

        :raises Blocked: by a transaction that has changed the row, even if not its key.
        """
        own = self.keys.get((table, number))
        if own and key in own:
            return own[key]
        place = table.indexes[number].get(key)
        if place is None:
            return None
        holder = self.locks_of_all.holder((table, place))
        if holder is not None and holder is not self and place in holder.changes.get(table, ()):
            raise Blocked(holder)
        return place

    def put(self, table: Table, place: int, row: Values | None, old: Values | None) -> None:
        """A new version of a row whose lock it holds, in place of the old one; None deletes it."""
        for number, unique in enumerate(table.shape.uniques):
            before = None if old is None else unique.key_of(old)
            after = None if row is None else unique.key_of(row)
            if before == after:
                continue
            keys = self.keys.setdefault((table, number), {})
            if before is not None:
                self._set(keys, before, None)
            if after is not None:
                self._set(keys, after, place)
        self._set(self.changes.setdefault(table, {}), place, row)

    def replace(self, table: Table, row: Values) -> None:
        """A new version of a row whose lock it holds, with the same keys."""
        self._set(self.changes.setdefault(table, {}), row[CTID], row)

    def _set(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        self.undo.append((mapping, key, mapping.get(key, _NOTHING)))
        mapping[key] = value

    def undo_to(self, length: int) -> None:
        """Take back the later changes; the locks stay."""
        while len(self.undo) > length:
            mapping, key, before = self.undo.pop()
            if before is _NOTHING:
                del mapping[key]
            else:
                mapping[key] = before

    def save(self, name: str) -> None:
        self.savepoints.append(
            _Savepoint(name, len(self.undo), len(self.locks), len(self.deferred))
        )

    def release(self, name: str) -> None:
        del self.savepoints[self._savepoint(name) :]

    def rollback_to(self, name: str) -> None:
        """Takes back changes and gives back locks; the savepoint stays."""
        del self.savepoints[self._savepoint(name) + 1 :]
        self.abort()

    def abort(self) -> None:
        """An error: what came after the last savepoint is taken back at once, locks and all."""
        point = self.savepoints[-1] if self.savepoints else _Savepoint("", 0, 0, 0)
        self.undo_to(point.changes)
        del self.deferred[point.deferred :]
        later = list(self.locks)[point.locks :]
        self.locks_of_all.release(later)
        for lock in later:
            del self.locks[lock]

    def _savepoint(self, name: str) -> int:
        for at in reversed(range(len(self.savepoints))):
            if self.savepoints[at].name == name:
                return at
        raise errors.InvalidSavepointSpecification(f'savepoint "{name}" does not exist')

    def commit(self) -> None:
        """Its changes are everybody's."""
        for table, changed in self.changes.items():
            for place, row in changed.items():
                table.put(place, row)
        for (table, number), keys in self.keys.items():
            for key, at in keys.items():
                table.index(number, key, at)
        self.end()

    def end(self) -> None:
        self.locks_of_all.release(self.locks)
        self.locks.clear()
