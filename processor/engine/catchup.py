"""What recovery sends to Kafka: offsets that lag behind H, and outputs that did not arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from processor.engine.batch import Committed, OutboxEntry
from processor.engine.clock import Clock
from processor.engine.cluster import Cluster
from processor.engine.failures import PublishDoubt
from processor.engine.ledger import Ledger
from processor.engine.observer import Observer
from processor.engine.partitions import Owned, Partitions, State
from processor.engine.publisher import Publisher
from processor.engine.recovery import CommitOffset, Intent, Row, make_metadata

READ_BACK_ATTEMPTS = 5
READ_BACK_SECONDS = 0.01
REPUBLISH_CHUNK_BYTES = 16_000_000
OUTPUT_REFUSED = "output-refused"
OUTPUT_REFUSED_REMEDY = (
    "create the topic, raise its max.message.bytes or grant Write; it goes on by itself"
)


@dataclass(frozen=True, slots=True)
class Lagging:
    """A partition whose K is to be set, under the token that its row has been given."""

    owned: Owned
    row: Row
    decision: CommitOffset


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A partition whose outbox holds what is to be sent again."""

    owned: Owned
    row: Row
    entries: Sequence[OutboxEntry]


class Catchup:
    """Brings Kafka up to what Postgres has committed."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        publisher: Publisher,
        partitions: Partitions,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._publisher = publisher
        self._partitions = partitions
        self._observer = observer
        self._clock = clock.now
        self._sleep = clock.sleep

    def commit_offsets(self, lagging: Sequence[Lagging], snapshot: object) -> None:
        """Rows 7, 9, 12: one Kafka transaction without outputs, then K is read back.

        :param snapshot: the group metadata of the assignment that recovery works under.
        :raises Doubt: when it is not certain that the offsets stand.
        """
        if not lagging:
            return
        offsets = [
            (
                each.owned.partition,
                each.decision.offset,
                make_metadata(each.row.lineage, each.row.token),
            )
            for each in lagging
        ]
        self._publisher.send([], offsets, snapshot)
        self._publisher.commit()
        for each in lagging:
            if each.decision.intent is not None:
                self._clear_intent(each, each.decision.intent)
        for each in lagging:
            each.owned.due = self._clock()

    def _clear_intent(self, each: Lagging, intent: Intent) -> None:
        """Only a K that was read back does away with its intent; else the next pass does it."""
        partition, row, decision = each.owned.partition, each.row, each.decision
        wanted = Committed(decision.offset, make_metadata(row.lineage, row.token))
        for _ in range(READ_BACK_ATTEMPTS):
            if self._cluster.committed([partition])[partition] == wanted:
                self._ledger.clear_intent(row, intent, decision.offset, row.token)
                each.owned.truncated = False  # said of the H before the intent
                return
            # For a moment after its end a transaction still counts as pending.
            self._sleep(READ_BACK_SECONDS)

    def republish(self, unpublished: Sequence[Unpublished], snapshot: object) -> None:
        """Row 17, one partition per transaction: one that is refused holds up no other.

        :raises Doubt: when it is not certain that the outputs stand.
        """
        for each in unpublished:
            try:
                self._send_again(each, snapshot)
            except PublishDoubt as doubt:
                if not doubt.refused and not self._missing_topics(each.entries):
                    if doubt.timed_out or doubt.fenced:
                        # The transaction may have been too short, and the broker has ended it.
                        self._publisher.lengthen()
                    raise
                self._refused(each.owned, doubt)
                self._publisher.prepare()
            else:
                each.owned.refused = False
                each.owned.due = self._clock()
                self._observer.noted(
                    "republished",
                    partition=str(each.owned.partition),
                    first=each.entries[0].first,
                    next=each.entries[-1].next,
                    outputs=sum(len(entry.records) for entry in each.entries),
                )

    def _send_again(self, each: Unpublished, snapshot: object) -> None:
        metadata = make_metadata(each.row.lineage, each.row.token)
        for chunk in chunks(each.entries, REPUBLISH_CHUNK_BYTES):
            self._publisher.send(
                chunk, [(each.owned.partition, chunk[-1].next, metadata)], snapshot
            )
            self._publisher.commit()

    def _missing_topics(self, entries: Sequence[OutboxEntry]) -> list[str]:
        """Output topics that do not exist: producing to one only times out."""
        names = {record.topic for entry in entries for record in entry.records}
        facts = self._cluster.topics(names)
        return [name for name, fact in facts.items() if "UNKNOWN_TOPIC" in str(fact)]

    def _refused(self, each: Owned, doubt: PublishDoubt) -> None:
        """Set the partition aside; its outputs are kept and tried again."""
        each.refused = True
        each.doubts += 1
        each.due = self._clock() + min(30.0, 0.5 * 2.0 ** min(each.doubts, 6))
        self._partitions.move(
            each, State.WAITING, OUTPUT_REFUSED, str(doubt), OUTPUT_REFUSED_REMEDY
        )


def chunks(entries: Sequence[OutboxEntry], limit_bytes: int) -> list[list[OutboxEntry]]:
    """Consecutive entries, each chunk within the limit or of one entry."""
    found: list[list[OutboxEntry]] = []
    size = 0
    for entry in entries:
        size += len(entry.payload)
        if not found or size > limit_bytes:
            found.append([])
            size = len(entry.payload)
        found[-1].append(entry)
    return found
