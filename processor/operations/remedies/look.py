"""Reads what a remedy is planned from: the row under its lock, K after it, the log, the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from processor.engine.batch import Committed, LogRange, Partition
from processor.engine.database import Database
from processor.engine.ledger import Ledger
from processor.engine.locked_rows import LockedRows
from processor.engine.recovery import Reading
from processor.engine.steps import Step, Steps
from processor.errors import ConfigurationError, Refused
from processor.operations.broker import Broker, Topic
from processor.operations.readings import stable
from processor.operations.remedies.values import Facts
from processor.operations.status import SILENT_SECONDS

UNKNOWN = Committed(None, None)
"""K is read once the row is locked: whoever holds the row's token commits nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the partition's last owner has said."""

    state: str | None = None
    reason: str | None = None
    slot: str | None = None
    live: bool = False
    """The slot's worker has given a sign of life lately, and owns the partition."""


class Look:
    """Reads the facts of one group's partitions."""

    def __init__(
        self, broker: Broker, database: Database, ledger: Ledger, group: str, steps: Steps
    ) -> None:
        self._broker = broker
        self._database = database
        self._ledger = ledger
        self._group = group
        self._steps = steps

    @contextmanager
    def facts(self, partition: Partition) -> Iterator[tuple[Facts, LockedRows]]:
        """The row stays locked inside; what is changed there is committed at its end.

        :raises Refused: when a transaction that moves K is under way.
        """
        topic = self.topic(partition)
        log = self._log(partition)
        report = self.report(partition)
        with self._ledger.locked({partition: UNKNOWN}, {partition.topic: topic.topic_id}) as rows:
            known = rows.known[partition]
            with self._steps.step(Step.READ_OFFSETS):
                committed = self._committed(partition)
            yield (
                Facts(
                    Reading(
                        partition=partition,
                        topic_id=topic.topic_id,
                        system_identifier=self._database.system_identifier,
                        row=known.row,
                        older=known.older,
                        superseded=known.superseded,
                        other_cluster=known.other_cluster,
                        outbox=known.outbox,
                        committed=committed,
                        log=log,
                        topic_elsewhere=known.topic_elsewhere,
                    ),
                    topic.partitions,
                    known.elsewhere,
                    report.state,
                    report.reason,
                ),
                rows,
            )

    def topic(self, partition: Partition) -> Topic:
        """:raises ConfigurationError: when there is no such partition."""
        with self._steps.step(Step.READ_TOPICS):
            topic = self._broker.topics([partition.topic])[partition.topic]
        if topic is None:
            raise ConfigurationError(f"Kafka has no topic {partition.topic!r}")
        if partition.number >= topic.partitions:
            raise ConfigurationError(
                f"{partition.topic!r} has partitions 0 to {topic.partitions - 1},"
                f" not {partition.number}"
            )
        return topic

    def report(self, partition: Partition) -> Report:
        with self._database.transaction() as connection:
            found = connection.execute(_REPORT, (self._group, *partition)).fetchone()
        if found is None:
            return Report()
        state, reason, slot, seen = found
        live = state != "unowned" and seen is not None and seen <= SILENT_SECONDS
        return Report(state, reason, slot, live)

    def halted(self) -> list[tuple[Partition, str]]:
        """The group's halted partitions, and why each is."""
        with self._database.transaction() as connection:
            found = connection.execute(_HALTED, (self._group,)).fetchall()
        return [(Partition(topic, number), reason) for topic, number, reason in found]

    def _log(self, partition: Partition) -> LogRange:
        with self._steps.step(Step.READ_LOG):
            place = (partition.topic, partition.number)
            return LogRange(
                self._broker.log_starts([place])[place], self._broker.log_ends([place])[place]
            )

    def _committed(self, partition: Partition) -> Committed:
        place = (partition.topic, partition.number)
        found = stable(self._broker, self._group, [place]).get(place)
        if found is None or found.offset is None:
            if found is not None and found.pending:
                raise Refused(f"{partition}: a transaction is about to move K; try again")
            return Committed(None, None)
        return Committed(found.offset, found.metadata)


_REPORT = """
SELECT state, reason, s.slot, extract(epoch FROM now() - seen_at)::float8
FROM processor.partition_states s LEFT JOIN processor.slots USING (slot)
WHERE s.group_id = %s AND topic = %s AND partition = %s ORDER BY since DESC LIMIT 1
"""

_HALTED = """
SELECT topic, partition, reason FROM processor.partition_states
WHERE group_id = %s AND state = 'halted' ORDER BY topic, partition
"""
