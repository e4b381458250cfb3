"""Statements that are not about rows: transaction control, settings, definitions."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from psycopg import errors

from processor.testing.postgres.definitions import dropped_table, table_shape
from processor.testing.postgres.execution import Result
from processor.testing.postgres.lexer import UnknownStatement
from processor.testing.postgres.locks import Blocked, key_lock, named, table_lock
from processor.testing.postgres.storing import violation
from processor.testing.postgres.tables import Table

if TYPE_CHECKING:
    from processor.testing.postgres.session import Session
    from processor.testing.postgres.syntax import Command
    from processor.testing.postgres.transactions import Transaction

ISOLATIONS = ("read committed", "repeatable read", "serializable")
_RAISE = re.compile(
    r"\$\$\s*begin\s+raise\s+exception\s+'(.*?)'\s*;\s*end\s*;?\s*\$\$", re.I | re.S
)


@lru_cache(maxsize=1024)
def _isolation(command: Command) -> str | None:
    """That BEGIN names; read once for each text."""
    return next((each for each in ISOLATIONS if command.has(*each.split())), None)


@lru_cache(maxsize=1024)
def _setting(command: Command) -> tuple[str, str, bool]:
    """Name and value of SET, and whether it is local; read once for each text."""
    tokens = [token for token in command.tokens[1:] if not token.is_("=", "to", "session")]
    is_local = tokens[0].is_("local")
    given = tokens[is_local:]
    if len(given) != 2 or given[0].text in ("role", "transaction"):
        raise UnknownStatement(str(command))
    value = given[1].raw if given[1].value is None else given[1].value
    return given[0].text, str(value), is_local


class Commands:
    """Runs them for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, command: Command) -> Result:
        """:raises UnknownStatement: naming it."""
        run = getattr(self, f"_{command.kind}", None)
        if run is None:
            raise UnknownStatement(str(command))
        return Result(run(command))

    def _begin(self, command: Command) -> str:
        session = self._session
        if session.is_explicit:
            return "BEGIN"
        session.begin(is_explicit=True, isolation=_isolation(command))
        return "BEGIN"

    _start = _begin

    def _commit(self, _: Command) -> str:
        return self._session.commit()

    _end = _commit

    def _rollback(self, command: Command) -> str:
        if not command.has("to"):
            self._session.rollback()
            return "ROLLBACK"
        transaction = self._open()
        transaction.rollback_to(command.tokens[-1].text)
        self._session.is_failed = False
        self._session.server.has_released(transaction)
        return "ROLLBACK"

    _abort = _rollback

    def _savepoint(self, command: Command) -> str:
        self._open().save(command.tokens[-1].text)
        return "SAVEPOINT"

    def _release(self, command: Command) -> str:
        self._open().release(command.tokens[-1].text)
        return "RELEASE"

    def _open(self) -> Transaction:
        transaction = self._session.transaction
        if transaction is None or not self._session.is_explicit:
            raise errors.NoActiveSqlTransaction("it can only be used in transaction blocks")
        return transaction

    def _set(self, command: Command) -> str:
        if command.has("constraints", "all"):
            if command.has("immediate") and self._session.transaction is not None:
                self.check_deferred(self._session.transaction)
            return "SET CONSTRAINTS"
        name, value, is_local = _setting(command)
        self._session.settings.set(name, value, is_local=is_local)
        return "SET"

    def check_deferred(self, transaction: Transaction) -> None:
        """:raises psycopg.errors.UniqueViolation: for two rows with one key."""
        for table, unique, place in transaction.deferred:
            row = transaction.newest(table, place)
            key = None if row is None else unique.key_of(row)
            if key is None:
                continue
            transaction.lock(key_lock(table, unique, key))
            number = table.shape.uniques.index(unique)
            committed = table.indexes[number].get(key)
            own = transaction.keys.get((table, number), {}).get(key)
            if own != place or (
                committed is not None
                and committed != place
                and transaction.newest(table, committed) is not None
            ):
                raise violation(table, unique, key)
        transaction.deferred.clear()

    def _create(self, command: Command) -> str:
        if command.has("role"):
            return "CREATE ROLE"
        shape = table_shape(command)
        transaction = self._session.begin(is_explicit=False)
        transaction.lock(named(shape.name))
        if transaction.find(shape.name) is not None:
            raise errors.DuplicateTable(f'relation "{shape.name}" already exists')
        transaction.set_table(shape.name, Table(shape))
        return "CREATE TABLE"

    def _drop(self, command: Command) -> str:
        """``DROP TABLE``: waits for whoever uses it, and who comes later waits for its end."""
        transaction = self._session.begin(is_explicit=False)
        name, may_be_missing = dropped_table(command)
        table = transaction.find(name)
        if table is None:
            if may_be_missing:
                return "DROP TABLE"
            raise errors.UndefinedTable(f'table "{name}" does not exist')
        transaction.lock(table_lock(table))
        for user in self._session.server.users(table):
            if user is not transaction:
                raise Blocked(user)
        transaction.set_table(name, None)
        return "DROP TABLE"

    def _alter(self, command: Command) -> str:
        """``ALTER DATABASE name SET setting = value``, for sessions to come; identities."""
        settings = self._session.server.settings
        words = [token.text for token in command.tokens]
        if command.has("set", "generated", "by", "default"):
            self._session.server.reshape(words[2], words[4])
        elif words[1] == "database" and words[3] == "set":
            settings[words[4]] = words[-1]
        elif words[1] == "database" and words[3] == "reset":
            settings.pop(words[4], None)
        else:
            raise UnknownStatement(str(command))
        return f"ALTER {words[1].upper()}"

    def _do(self, command: Command) -> str:
        """A block that raises an exception, and nothing else."""
        found = _RAISE.search(str(command))
        if found is None:
            raise UnknownStatement(str(command))
        raise errors.RaiseException(found[1])
