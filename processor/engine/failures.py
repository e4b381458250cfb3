"""What can go wrong inside the engine, and who answers for it.

A :class:`Doubt` is answered by recovery, whatever caused it; a :class:`Restart` runs the batch's
handlers again. Users never see these.
"""

from __future__ import annotations

from collections.abc import Collection


class Doubt(Exception):
    """What was committed can no longer be known from here: recovery reads it back."""


class OwnerChanged(Doubt):
    """The compare-and-set hit fewer rows than it should: another owner was faster."""


class DatabaseDoubt(Doubt):
    """The connection to Postgres was lost, or a framework statement failed."""


class SessionExpired(DatabaseDoubt):
    """The session was lost in a batch that ran for longer than Postgres lets one stand idle.

    Either the process was stopped, or a handler worked on for too long after a statement.
    """


class PublishDoubt(Doubt):
    """A call of the Kafka transaction failed, timed out or was re-sent in silence."""

    def __init__(
        self,
        reason: str,
        refused: Collection[str] = (),
        fenced: bool = False,
        unanswered: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(reason)
        self.refused = frozenset(refused)
        """Topics that refused a record."""
        self.fenced = fenced
        self.unanswered = unanswered
        """The call has not returned, and may never."""
        self.timed_out = timed_out or unanswered


class ReadFailed(Exception):
    """A reading of Kafka's state failed or was unstable; ask again."""


class Restart(Exception):
    """A deadlock or a serialization failure: run the same batch again."""


class Deadlock(Restart):
    """Two transactions waited for each other, and Postgres has chosen this one to give way."""


class Overtaken(Exception):
    """The batch before did not take effect as it was: what was handled behind it is handled again.

    A handler that asks Postgres meets it.
    """


class StatementRefused(Exception):
    """Postgres refused a statement of a handler for a reason that is not the message's.

    A missing table, a missing permission, a full disk, a time-out: the partition is blocked and
    tried again, because infrastructure must never dead-letter good messages.
    """


class StatementFailed(Exception):
    """Postgres refused a statement of a handler because of the message's data."""


class MemberFenced(Exception):
    """The group took this member for replaced: another process, or an expired session."""
