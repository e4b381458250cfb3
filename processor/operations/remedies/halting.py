"""Has a partition's live owner halt it, and waits until it has."""

from __future__ import annotations

import time

from processor.engine.batch import Partition
from processor.engine.database import Database
from processor.engine.locked_rows import write_audit
from processor.errors import Refused
from processor.operations.control import ask
from processor.operations.remedies.look import Look

ACKNOWLEDGE_SECONDS = 15.0
POLL_SECONDS = 0.05


class Halting:
    """Between its batches the owner stops the partition: nothing of it is open then."""

    def __init__(
        self, look: Look, database: Database, cluster_id: str, group: str, actor: str
    ) -> None:
        self._look = look
        self._database = database
        self._cluster_id = cluster_id
        self._group = group
        self._actor = actor

    def ensure(self, partition: Partition) -> bool:
        """True when a halt was asked for, and has been acknowledged and reported.

        :raises Refused: when the owner lives and does not answer; it is not to halt any more then.
        """
        report = self._look.report(partition)
        if not report.live or report.state == "halted":
            return False
        with self._database.transaction() as connection:
            request = ask(connection, self._group, partition, "halt", self._actor)
            write_audit(
                connection, self._cluster_id, self._group, partition, "halt", {}, self._actor
            )
        if not self._acknowledged(request):
            raise Refused(
                f"{partition}: its owner {report.slot} was asked to halt it and did not answer"
                f" within {ACKNOWLEDGE_SECONDS:g} s; try again, or stop the service"
            )
        if not self._reported(partition):
            self.release(partition)
            raise Refused(
                f"{partition}: its owner {report.slot} took the halt and did not report it within"
                f" {ACKNOWLEDGE_SECONDS:g} s, so it was told to go on; look at processor status,"
                " and try again, or stop the service"
            )
        return True

    def release(self, partition: Partition) -> None:
        """Let go on what :meth:`ensure` has halted."""
        with self._database.transaction() as connection:
            ask(connection, self._group, partition, "resume", self._actor)

    def _acknowledged(self, request: int) -> bool:
        deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
        while time.monotonic() < deadline:
            with self._database.transaction() as connection:
                [done] = connection.execute(_ACKNOWLEDGED, (request,)).fetchall()
            if done[0]:
                return True
            time.sleep(POLL_SECONDS)
        with self._database.transaction() as connection:
            withdrawn = connection.execute(_WITHDRAW, (request,))
        return withdrawn.rowcount == 0

    def _reported(self, partition: Partition) -> bool:
        """The owner reports the halt a moment after it has acknowledged it."""
        deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
        while time.monotonic() < deadline:
            if self._look.report(partition).state == "halted":
                return True
            time.sleep(POLL_SECONDS)
        return False


_ACKNOWLEDGED = "SELECT acknowledged FROM processor.control WHERE id = %s"

_WITHDRAW = """
UPDATE processor.control SET acknowledged = true WHERE id = %s AND NOT acknowledged
"""
