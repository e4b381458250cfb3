"""The recovery table: what a partition's readings mean. Pure, without I/O.

H is ``Row.next_offset``, K and M are ``Committed``, P is ``Row.published_offset``, V is
``Row.verified_offset``; S and E are ``LogRange``. docs/architecture.md prints the table; the
numbers in the comments are its rows. The first match wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from processor.engine.batch import Committed, LogRange, Partition, Tried
from processor.engine.halts import Halt

METADATA_PREFIX = "processor"


@dataclass(frozen=True, slots=True)
class Intent:
    """A K that is to be committed, and the K and M that it replaces."""

    offset: int
    replaces_offset: int | None
    replaces_metadata: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """A partition's row of ``progress``."""

    id: int
    topic_id: str
    next_offset: int
    published_offset: int
    verified_offset: int | None
    lineage: str
    token: str
    tokens_in_k: tuple[str, ...]
    system_identifier: int
    intent: Intent | None
    leader_epoch: int | None
    initial_partitions: int
    untouched: bool
    """No message of it was ever handled, skipped or dead-lettered."""
    token_ends: Mapping[str, int] = field(default_factory=dict)
    """The H at which each earlier token was replaced, where that was written down."""
    tried: Tried | None = None
    """The message that was last to be tried again; below H it is done."""
    retry_seconds: float = 0.0
    """Until then."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An outbox row without its payload."""

    first: int
    next: int
    output_count: int
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is known of a partition at one moment; ``trouble`` names a reading that failed."""

    partition: Partition
    topic_id: str | None
    system_identifier: int
    row: Row | None
    older: Row | None
    """A row under another topic id that no other has superseded."""
    superseded: bool
    """The topic id just read is one that a newer row has superseded: stale metadata, or the row is
    of another cluster, and this is the one before it.
    """
    other_cluster: bool
    outbox: tuple[Manifest, ...]
    """Of ``row``, or else of ``older``, in order."""
    committed: Committed
    log: LogRange | None
    truncated: bool = False
    """The broker said that the leader epoch of H does not fit its log."""
    trouble: str | None = None
    topic_elsewhere: bool = False
    """All rows of the topic are of another cluster: it does not start here."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Row 0: ask again."""

    why: str


@dataclass(frozen=True, slots=True)
class HaltAt:
    reason: Halt
    detail: str


@dataclass(frozen=True, slots=True)
class Start:
    """Row 4: insert the row at the configured position."""


@dataclass(frozen=True, slots=True)
class Supersede:
    """Row 5: a new row at the log start of the recreated topic."""

    old: Row


@dataclass(frozen=True, slots=True)
class CommitOffset:
    """Rows 7, 9, 12: renew the token, commit this K with it, read it back."""

    offset: int
    intent: Intent | None


@dataclass(frozen=True, slots=True)
class Republish:
    """Row 17: renew the token and send the outbox of [K, H) again."""

    start: int


@dataclass(frozen=True, slots=True)
class MoveStart:
    """Row 20: nothing was handled yet and the log begins later by now."""

    to: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Rows 18 and 22: renew the token, raise P to K = H, seek to H."""

    offset: int


Decision = Wait | HaltAt | Start | Supersede | CommitOffset | Republish | MoveStart | Resume


def make_metadata(lineage: str, token: str) -> str:
    """M as we write it."""
    return f"{METADATA_PREFIX}:{lineage}:{token}"


def read_metadata(metadata: str | None) -> tuple[str, str] | None:
    """Lineage and token of an M of ours; None for anybody else's."""
    parts = (metadata or "").split(":")
    if len(parts) == 3 and parts[0] == METADATA_PREFIX and all(parts):
        return parts[1], parts[2]
    return None


class Mark(StrEnum):
    """What M says of K."""

    KNOWN = "known"
    STALE = "stale"
    FOREIGN = "foreign"
    ALIEN = "alien"


def mark(row: Row, metadata: str | None) -> Mark:
    ours = read_metadata(metadata)
    if ours is None:
        return Mark.ALIEN
    lineage, token = ours
    if lineage != row.lineage:
        return Mark.FOREIGN
    return Mark.KNOWN if token in row.tokens_in_k else Mark.STALE


def reach(row: Row, metadata: str | None) -> int:
    """The highest K that this row's history can have committed with M's token.

    H of the current token. Of an earlier one the H at which it was replaced: nobody moved H under
    it any more, so a K beyond that is of a history that the database has lost since.
    """
    ours = read_metadata(metadata)
    return row.next_offset if ours is None else row.token_ends.get(ours[1], row.next_offset)


def tiles(outbox: Sequence[Manifest], start: int, end: int) -> str | None:
    """None when the rows from ``start`` on cover [start, end) without gap or overlap."""
    at = start
    for manifest in outbox:
        if manifest.next <= start:
            continue
        if manifest.damage is not None:
            return manifest.damage
        if manifest.first != at:
            return f"the outbox has no row that begins at {at}"
        at = manifest.next
    return None if at == end else f"the outbox ends at {at} instead of {end}"


def silent(row: Row, outbox: Sequence[Manifest]) -> bool:
    """Whether [P, H) is known to have caused no output."""
    if tiles(outbox, row.published_offset, row.next_offset) is not None:
        return False
    return not any(m.output_count for m in outbox if m.next > row.published_offset)


def decide(reading: Reading) -> Decision:
    """The one answer to "what now?" for a partition."""
    if reading.trouble is not None:
        return Wait(reading.trouble)  # 0
    if reading.superseded and not reading.other_cluster:
        return Wait(f"topic id {reading.topic_id} was superseded; the metadata is stale")  # 0
    if reading.row is None:
        return _without_row(reading)
    return _with_row(reading, reading.row)


def _without_row(reading: Reading) -> Decision:
    committed = reading.committed
    if reading.other_cluster:
        return HaltAt(Halt.CLUSTER_CHANGED, "this group's rows are of another cluster")  # 1
    if reading.older is not None:
        older = reading.older
        if silent(older, reading.outbox) and older.verified_offset == older.next_offset:
            return Supersede(older)  # 5
        return HaltAt(
            Halt.TOPIC_RECREATED,
            f"topic id was {older.topic_id} and is {reading.topic_id}; "
            f"handled up to {older.next_offset}, verified up to {older.verified_offset}",
        )  # 6
    if committed.offset is None and reading.topic_elsewhere:
        return HaltAt(Halt.CLUSTER_CHANGED, "this topic's rows are of another cluster")  # 1
    if committed.offset is None:
        return Start()  # 4
    if read_metadata(committed.metadata) is not None:
        return HaltAt(
            Halt.DATABASE_HISTORY_LOST,
            f"Kafka holds our offset {committed.offset}, the database knows nothing of it",
        )  # 2
    return HaltAt(
        Halt.FOREIGN_OFFSETS, f"somebody else committed offset {committed.offset} for this group"
    )  # 3


def _with_row(reading: Reading, row: Row) -> Decision:
    committed = reading.committed
    if row.intent is not None:
        return _with_intent(row, row.intent, committed)
    if committed.offset is None:
        if silent(row, reading.outbox):
            return CommitOffset(row.next_offset, None)  # 9
        return HaltAt(
            Halt.UNKNOWN_PUBLICATION,
            f"Kafka has no offset; outputs of [{row.published_offset}, {row.next_offset}) "
            "may or may not have been published",
        )  # 10
    return _with_offset(reading, row, committed.offset)


def _with_intent(row: Row, intent: Intent, committed: Committed) -> Decision:
    replaces = committed.offset == intent.replaces_offset and (committed.metadata or "") == (
        intent.replaces_metadata or ""
    )
    done = committed.offset == intent.offset and mark(row, committed.metadata) is Mark.KNOWN
    if replaces or done:
        return CommitOffset(intent.offset, intent)  # 7
    return HaltAt(
        Halt.FOREIGN_OFFSETS,
        f"offset {committed.offset} is neither {intent.replaces_offset}, which was to be replaced "
        f"({intent.why}), nor {intent.offset}",
    )  # 8


def _with_offset(reading: Reading, row: Row, k: int) -> Decision:
    h, p = row.next_offset, row.published_offset
    found = mark(row, reading.committed.metadata)
    if found is Mark.FOREIGN or row.system_identifier != reading.system_identifier:
        what = "offset" if found is Mark.FOREIGN else "database server"
        return HaltAt(Halt.FOREIGN_LINEAGE, f"the {what} is of another lineage")  # 11
    if found is Mark.ALIEN and k == p == h:
        return CommitOffset(h, None)  # 12
    if k < p:
        return HaltAt(Halt.OFFSETS_REWOUND, f"offset {k} was {p} or more before")  # 13
    if found is Mark.ALIEN:
        return HaltAt(Halt.FOREIGN_OFFSETS, f"somebody else committed offset {k}")  # 14
    reached = reach(row, reading.committed.metadata)
    if found is Mark.STALE or k > reached:
        return HaltAt(
            Halt.DATABASE_HISTORY_LOST, f"Kafka is at {k}, the database is back at {reached}"
        )  # 15
    if k < h:
        damage = tiles(reading.outbox, k, h)
        if damage is not None:
            return HaltAt(Halt.OUTBOX_DAMAGED, damage)  # 16
        return Republish(k)  # 17
    return _with_log(reading, row)


def _with_log(reading: Reading, row: Row) -> Decision:
    h, log = row.next_offset, reading.log
    if log is None:
        return Wait("the log's range could not be read")  # 0
    if log.high_watermark < h or reading.truncated:
        return HaltAt(
            Halt.LOG_TRUNCATED, f"handled up to {h}, the log ends at {log.high_watermark}"
        )  # 19
    if log.start > h:
        if row.untouched:
            return MoveStart(log.start)  # 20
        return HaltAt(
            Halt.INPUT_LOST, f"[{h}, {log.start}) was deleted before it was handled"
        )  # 21
    return Resume(h)  # 18, 22
