"""``processor offsets show``: the raw view of each partition's offsets and fences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from processor.engine.recovery import Mark, read_metadata
from processor.operations.broker import Offset, Place
from processor.operations.readings import Progress, Readings


@dataclass(frozen=True, slots=True)
class Offsets:
    """One partition, both sides."""

    topic: str
    partition: int
    row: Progress | None
    committed_offset: int | None
    metadata: str | None
    """M, as committed with K."""
    mark: Mark | None
    """What M says of K; None where there is no K or no row."""
    pending: bool
    """A transaction was about to change K for as long as we asked."""
    log_end: int | None

    @property
    def intent(self) -> dict[str, Any] | None:
        return self.row.intent if self.row else None


def offsets(readings: Readings) -> list[Offsets]:
    """Each partition that anybody knows of."""
    return [_offsets(readings, place) for place in readings.places]


def mark(row: Progress | None, committed: Offset) -> Mark | None:
    """What the metadata of K says, by the row's lineage and tokens, and where they ended."""
    if row is None or committed.offset is None:
        return None
    ours = read_metadata(committed.metadata)
    if ours is None:
        return Mark.ALIEN
    lineage, token = ours
    if lineage != row.lineage:
        return Mark.FOREIGN
    within = committed.offset <= row.token_ends.get(token, committed.offset)
    return Mark.KNOWN if token in row.tokens_in_k and within else Mark.STALE


def _offsets(readings: Readings, place: Place) -> Offsets:
    row = readings.progress.get(place)
    committed = readings.committed.get(place, Offset(None))
    return Offsets(
        *place,
        row=row,
        committed_offset=committed.offset,
        metadata=None if committed.offset is None else committed.metadata,
        mark=mark(row, committed),
        pending=committed.pending,
        log_end=readings.log_ends.get(place),
    )
