"""``processor status``: the state of each partition, and a verdict. Readings in, answers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from processor.errors import Exit
from processor.operations.broker import Offset, Place
from processor.operations.readings import Progress, Readings, Report

SILENT_SECONDS = 30.0
"""A worker that was not seen for longer has left its partitions to nobody."""

NEW, UNOWNED, HALTED = "new", "unowned", "halted"
"""States beside those that workers report: nobody has touched the partition, nobody owns it."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Offsets are None where they are not known or there is none."""

    topic: str
    partition: int
    state: str
    reason: str | None
    detail: str | None
    remedy: str | None
    since: datetime | None
    slot: str | None
    next_offset: int | None
    committed_offset: int | None
    published_offset: int | None
    log_end: int | None
    lag: int | None
    """Messages whose outputs cannot be seen yet, counted in offsets."""
    outbox_rows: int
    outbox_bytes: int
    handled: int
    outputs: int
    dead_lettered: int
    skipped: int
    duplicates: int
    """Of those that were skipped."""
    broken: str | None
    """How P ≤ K ≤ H is violated, if it is."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters that wait, for whatever it is."""

    failed: int = 0
    parked: int = 0
    """Behind one of their key that has failed."""
    pending: int = 0
    """To be handled again."""

    def __str__(self) -> str:
        told = {"failed": self.failed, "parked": self.parked, "pending": self.pending}
        return ", ".join(f"{count:,} {state}" for state, count in told.items() if count)


@dataclass(frozen=True, slots=True)
class Status:
    group: str
    verdict: str
    exit_code: Exit
    note: str | None
    letters: Letters
    partitions: tuple[PartitionStatus, ...]


def status(readings: Readings) -> Status:
    """Judge the readings of one group."""
    partitions = tuple(_partition(readings, place) for place in readings.places)
    verdict, code = judge(partitions)
    note = (
        readings.trouble and f"without Kafka: K, log ends and lag are unknown ({readings.trouble})"
    )
    return Status(readings.group, verdict, code, note, Letters(**readings.letters), partitions)


def judge(partitions: Sequence[PartitionStatus]) -> tuple[str, Exit]:
    """One line, and the exit code that goes with it."""
    total = len(partitions)
    halted = sum(each.state == HALTED for each in partitions)
    broken = sum(each.broken is not None for each in partitions)
    if total == 0:
        return "nothing is known of this group", Exit.OK
    if halted == total:
        return f"all {total} partitions are halted", Exit.ALL_HALTED
    if halted:
        return f"{halted} of {total} partitions are halted", Exit.VERDICT
    if broken:
        return f"{broken} of {total} partitions violate P ≤ K ≤ H and will halt", Exit.VERDICT
    nobody = all(each.state in (NEW, UNOWNED) for each in partitions)
    running = "no worker is running; " if nobody else ""
    return f"{running}{total} partitions: {', '.join(_counted(partitions))}", Exit.OK


def _counted(partitions: Sequence[PartitionStatus]) -> Iterator[str]:
    states = [each.state for each in partitions]
    yield from (f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lags = [each.lag for each in partitions if each.lag is not None]
    if lags:
        yield f"lag {sum(lags):,}"


def _partition(readings: Readings, place: Place) -> PartitionStatus:
    row, report = readings.progress.get(place), readings.reports.get(place)
    committed = readings.committed.get(place, Offset(None))
    outbox = None if row is None else readings.outbox.get(row.id)
    state, reason = _state(row, report)
    log_end = readings.log_ends.get(place)
    return PartitionStatus(
        *place,
        state=state,
        reason=reason,
        detail=report.detail if report else None,
        remedy=report.remedy if report else None,
        since=report.since if report else None,
        slot=report.slot if report else None,
        next_offset=row.next_offset if row else None,
        committed_offset=committed.offset,
        published_offset=row.published_offset if row else None,
        log_end=log_end,
        lag=_lag(log_end, committed, row),
        outbox_rows=outbox.rows if outbox else 0,
        outbox_bytes=outbox.bytes if outbox else 0,
        handled=row.handled if row else 0,
        outputs=row.outputs if row else 0,
        dead_lettered=row.dead_lettered if row else 0,
        skipped=row.skipped if row else 0,
        duplicates=row.duplicates if row else 0,
        broken=broken(row, readings.floors.get(place), committed),
    )


def _lag(log_end: int | None, committed: Offset, row: Progress | None) -> int | None:
    done = committed.offset
    if done is None and row is not None:
        done = row.next_offset
    return None if log_end is None or done is None else max(0, log_end - done)


def _state(row: Progress | None, report: Report | None) -> tuple[str, str | None]:
    """A report is believed as long as who made it lives; a halt stands until it is resolved."""
    if report is None:
        return (NEW if row is None else UNOWNED), None
    if report.state in (HALTED, UNOWNED):
        return report.state, report.reason
    seen = report.slot_seen_seconds
    if seen is None or seen > SILENT_SECONDS:
        ago = "ever" if seen is None else f"for {seen:.0f} s"
        return UNOWNED, f"no sign of {report.slot} {ago}"
    return report.state, report.reason


def broken(row: Progress | None, floor: tuple[int, int] | None, committed: Offset) -> str | None:
    """How P ≤ K ≤ H is violated; it holds while K exists and no intent is set."""
    k = committed.offset
    if row is None or k is None or row.intent is not None:
        return None
    if k > row.next_offset:
        return f"K {k} is beyond H {row.next_offset}"
    if floor is not None and floor[0] == row.id and k < floor[1]:
        return f"K {k} is below P {floor[1]}"
    return None
