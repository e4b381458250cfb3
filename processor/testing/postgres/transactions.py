"""Transactions: what they have changed and not committed, and the locks that they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import errors

from processor.testing.postgres.locks import Blocked, Key, Lock, Locks, row_lock, table_lock
from processor.testing.postgres.tables import CTID, Shape, Table, Unique, Values

Snapshot = dict[Table, dict[int, Values]]
_NOTHING: Any = object()


@dataclass(slots=True)
class _Savepoint:
    name: str
    changes: int
    locks: int
    shared: int
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
    tables_of_all: Mapping[str, Table]
    is_snapshot: bool = False
    snapshot: Snapshot | None = None
    changes: dict[Table, dict[int, Values | None]] = field(default_factory=dict)
    keys: dict[tuple[Table, int], dict[Key, int | None]] = field(default_factory=dict)
    """Where this transaction's keys are, by table and number of the constraint."""
    locks: dict[Lock, None] = field(default_factory=dict)
    shared: dict[Lock, None] = field(default_factory=dict)
    tables: dict[str, Table | None] = field(default_factory=dict)
    """Those that it has created; None for one that it has dropped."""
    used: set[Table] = field(default_factory=set)
    """Nobody drops them before its end."""
    deferred: list[tuple[Table, Unique, int]] = field(default_factory=list)
    """Rows whose deferred constraint is still to be checked."""
    undo: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)
    savepoints: list[_Savepoint] = field(default_factory=list)

    def lock(self, lock: Lock) -> None:
        """:raises Blocked: see there."""
        self.locks_of_all.acquire(self, lock)

    def table(self, name: str) -> Table:
        """To be used, which keeps it from being dropped.

        :raises Blocked: while another transaction drops it.
        """
        table = self.find(name)
        assert table is not None, "the statement's plan has looked it up"
        if table not in self.used:
            self.wait_for(table_lock(table))
            self.used.add(table)
        return table

    def find(self, name: str) -> Table | None:
        """Its own, or the one that is committed."""
        if name in self.tables:
            return self.tables[name]
        return self.tables_of_all.get(name)

    def shapes(self, of_all: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Of the tables that it finds."""
        if not self.tables:
            return of_all
        found = dict(of_all)
        for name, table in self.tables.items():
            found.pop(name, None)
            if table is not None:
                found[name] = table.shape
        return found

    def set_table(self, name: str, table: Table | None) -> None:
        """Create it, or drop it (None); everybody's when it commits."""
        self._set(self.tables, name, table)

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

    def locked(self, table: Table, seen: Values, *, shares: bool = False) -> Values | None:
        """Lock a row and return its newest version; None when it is gone.

        :raises Blocked: see there.
        :raises psycopg.errors.SerializationFailure: when it is not the version that is seen.
        """
        place = seen[CTID]
        if shares:
            self.locks_of_all.share(self, row_lock(table, place))
        else:
            self.lock(row_lock(table, place))
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
        holder = self.locks_of_all.holder(row_lock(table, place))
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
            _Savepoint(name, len(self.undo), len(self.locks), len(self.shared), len(self.deferred))
        )

    def release(self, name: str) -> None:
        del self.savepoints[self._savepoint(name) :]

    def rollback_to(self, name: str) -> None:
        """Takes back changes and gives back locks; the savepoint stays."""
        del self.savepoints[self._savepoint(name) + 1 :]
        self.abort()

    def abort(self) -> None:
        """An error: what came after the last savepoint is taken back at once, locks and all."""
        point = self.savepoints[-1] if self.savepoints else _Savepoint("", 0, 0, 0, 0)
        self.undo_to(point.changes)
        del self.deferred[point.deferred :]
        later = list(self.locks)[point.locks :]
        self.locks_of_all.release(later)
        for lock in later:
            del self.locks[lock]
        later = list(self.shared)[point.shared :]
        self.locks_of_all.release_shared(self, later)
        for lock in later:
            del self.shared[lock]
        self.locks_of_all.leave(self)

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
        self.locks_of_all.release_shared(self, self.shared)
        self.locks_of_all.leave(self)
        self.locks.clear()
        self.shared.clear()
