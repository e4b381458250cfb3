"""The settings of a session, as ``current_setting`` tells them."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULTS = {
    "synchronous_commit": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_isolation": "read committed",
    "deadlock_timeout": "1000",
}
IN_MILLISECONDS = frozenset(name for name in DEFAULTS if name.endswith("_timeout"))


class Settings:
    """Of the database, of the session, and of the open transaction, which counts most."""

    def __init__(self, of_database: Mapping[str, str]) -> None:
        self._of_session = DEFAULTS | dict(of_database)
        self._local: dict[str, str] = {}

    def set(self, name: str, value: str, *, is_local: bool) -> None:
        (self._local if is_local else self._of_session)[name] = value

    def end_transaction(self) -> None:
        self._local.clear()

    def get(self, name: str) -> str:
        return self._local.get(name) or self._of_session.get(name, "")

    def seconds(self, name: str) -> float:
        """A time-out; 0 is none."""
        return int(self.get(name)) / 1_000

    def shown(self, name: str) -> str:
        """As Postgres writes it: ``30s``."""
        value = self.get(name)
        if name in IN_MILLISECONDS and value != "0":
            return f"{int(value) // 1_000}s" if int(value) % 1_000 == 0 else f"{value}ms"
        return value
