"""Whose row of an upsert it was that Postgres refused, of which it says nothing itself.

The rows are put to Postgres once more, half of them at a time, each half in a savepoint that is
rolled back: two round trips of little work each, where to part the messages would flush all they
have written. What is found is a guess, for a message may be refused only together with others; it
is tried by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from processor.engine.failures import Deadlock, StatementFailed
from processor.engine.store import Store
from processor.writes import UpsertWrite

Calls = Iterable[tuple[Any, ...]]
"""What a message has asked to write, as :class:`processor.writes.Journal` keeps it."""


def culprit(store: Store, write: UpsertWrite, messages: Sequence[Calls]) -> int | None:
    """Which of the messages alone has written the row that is refused; None where none has.

    :param messages: the calls of each.
    :raises Doubt: when the connection is lost.
    """
    rows = write.rows
    while len(rows) > 1:
        middle = len(rows) // 2
        try:
            rows = rows[:middle] if _is_refused(store, write, rows[:middle]) else rows[middle:]
        except Deadlock:
            return None
    identity = rows[0][: len(write.key)]
    found = [at for at, calls in enumerate(messages) if _writes(calls, write, identity)]
    return found[0] if len(found) == 1 else None


def _is_refused(store: Store, write: UpsertWrite, rows: list[tuple[Any, ...]]) -> bool:
    try:
        with store.together():
            store.savepoint()
            store.session.upsert(replace(write, rows=rows))
    except StatementFailed:
        return True
    finally:
        store.rollback_to_savepoint()
    return False


def _writes(calls: Calls, write: UpsertWrite, identity: tuple[Any, ...]) -> bool:
    for table, row, *rest in calls:
        if (
            rest
            and table is write.table
            and rest[0] == write.key
            and all(row[name] == value for name, value in zip(write.key, identity, strict=True))
        ):
            return True
    return False
