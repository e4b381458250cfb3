"""Which dead letters are meant: by number, fingerprint, handler, topic, time, state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from processor.errors import ConfigurationError
from processor.operations.units import milliseconds

STATES = ("failed", "parked", "pending", "replayed", "discarded")
WAITING = ("failed", "parked", "pending")


@dataclass(frozen=True, slots=True)
class Selection:
    """Of one group; what is None does not matter."""

    group: str
    ids: Sequence[int] | None = None
    fingerprint: str | None = None
    handler: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: Sequence[str] | None = None

    @property
    def is_everything(self) -> bool:
        """Nothing narrows it but the state."""
        given = (self.ids, self.fingerprint, self.handler, self.topic, self.since, self.until)
        return all(each is None for each in given)

    def values(self) -> dict[str, Any]:
        """The parameters of :data:`OF_THESE`."""
        return {
            "group": self.group,
            "ids": None if self.ids is None else list(self.ids),
            "fingerprint": self.fingerprint,
            "handler": self.handler,
            "topic": self.topic,
            "since": self.since,
            "until": self.until,
            "states": None if self.states is None else list(self.states),
        }


OF_THESE: LiteralString = """
FROM processor.dead_letters l WHERE l.group_id = %(group)s
    AND (%(ids)s::bigint[] IS NULL OR l.id = ANY (%(ids)s::bigint[]))
    AND (%(fingerprint)s::text IS NULL OR l.fingerprint = %(fingerprint)s)
    AND (%(handler)s::text IS NULL OR l.handler = %(handler)s)
    AND (%(topic)s::text IS NULL OR l.topic = %(topic)s)
    AND (%(since)s::timestamptz IS NULL OR l.last_failed_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR l.last_failed_at < %(until)s)
    AND (%(states)s::text[] IS NULL OR l.state = ANY (%(states)s::text[]))
"""
"""The chosen letters, as ``l``."""


def states_of(named: Sequence[str] | None) -> tuple[str, ...] | None:
    """What ``--state`` has named; None for all.

    :raises ConfigurationError: for a state that there is not.
    """
    if named is None:
        return WAITING
    if "all" in named:
        return None
    for each in named:
        if each not in STATES:
            raise ConfigurationError(f"--state {each!r}: give {', '.join(STATES)} or all")
    return tuple(named)


def moment(option: str, text: str | None, now: datetime | None = None) -> datetime | None:
    """A time in ISO 8601, or how long ago, as ``2h``.

    >>> moment("--since", "90m", datetime(2026, 1, 1, 12, tzinfo=UTC)).isoformat()
    '2026-01-01T10:30:00+00:00'

    :raises ConfigurationError: for anything else.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.astimezone()
    except ValueError:
        pass
    try:
        ago = milliseconds(text)
    except ConfigurationError:
        ago = -1
    if ago < 0:
        raise ConfigurationError(f"{option} {text!r}: give a time in ISO 8601, or 2h, 30m, 7d ago")
    return (now or datetime.now(UTC)) - timedelta(milliseconds=ago)
