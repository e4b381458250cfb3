"""What the readings of one input partition mean. Pure, without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from processor.operations.verify.outputs import Work
from processor.operations.verify.report import EXAMPLES, Kind, PartitionReport
from processor.operations.verify.tally import Batch

NEVER = -1
ALWAYS = 1 << 63


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What limits the judgement of one partition."""

    whole: bool
    """No range was asked for, so the cumulative counters can be compared."""
    start: int | None
    """Where the group began, None where that is not known."""
    input_gone: str | None
    """Why records may have left the input from its middle, as by compaction."""
    horizon: int = NEVER
    """Outputs of batches that begin at or below it may have been trimmed or compacted away."""


def judge(work: Work, seen: Circumstances, dead_letters: Iterable[int]) -> PartitionReport:
    """Compare the two stores; findings and what could not be checked go to the work's book."""
    bound, book = work.bound, work.book
    row = bound.row
    if bound.broken:
        book.find(Kind.OFFSETS, bound.broken)
    if bound.hole:
        book.find(Kind.OUTBOX, bound.hole)
    records = work.present.count(work.begin, work.end)
    letters = _dead_letters(work, dead_letters)
    missing, gaps = _batches(work, seen)
    if work.begin > (seen.start or 0):
        gaps.insert(0, (seen.start or 0, work.begin))
    if seen.whole:
        _records(work, seen, records)
        _outputs(work, seen, missing, gaps)
        if letters != row.dead_lettered and not _excused(work, abs(letters - row.dead_lettered)):
            book.find(
                Kind.COUNT,
                f"the counter dead_lettered is {row.dead_lettered}, dead letters found: {letters}",
            )
    return PartitionReport(
        topic=row.topic,
        partition=row.partition,
        start=work.begin,
        end=work.end,
        next_offset=row.next_offset,
        committed_offset=bound.committed.offset,
        published_offset=row.published_offset,
        records=records,
        handled=row.handled,
        dead_lettered=row.dead_lettered,
        skipped=row.skipped,
        duplicates=row.duplicates,
        outputs=row.outputs,
        outputs_found=work.published + work.open,
        outputs_waiting=bound.waiting,
        outputs_later=work.later,
        dead_letters=letters,
        findings=tuple(book.findings.values()),
        unverifiable=tuple(book.unverifiable),
        recorded=tuple(bound.recorded),
    )


def _dead_letters(work: Work, offsets: Iterable[int]) -> int:
    """Each has its record; how many there are."""
    total, unknown, last = 0, 0, NEVER
    for offset in offsets:
        total += 1
        if offset == last:
            work.book.find(Kind.DEAD_LETTER, f"offset {offset} has two dead letters")
        elif offset < max(work.log_start, work.begin) or not work.sources_known:
            unknown += 1
        elif offset not in work.present:
            work.book.find(Kind.DEAD_LETTER, f"a dead letter of offset {offset}: no record there")
        last = offset
    work.book.leave_out("dead letters whose input records the log no longer has", unknown)
    return total


def _batches(work: Work, seen: Circumstances) -> tuple[int, list[tuple[int, int]]]:
    """What is missing of batches that are known; and where whole batches could have been."""
    missing = trimmed = 0
    gaps: list[tuple[int, int]] = []
    reached = work.begin
    for batch in work.tally.batches():
        if batch.first < reached:
            work.book.find(
                Kind.OVERLAP, f"batch [{batch.first}, {batch.next}) begins before {reached}"
            )
        elif batch.first > reached:
            _gap(work, reached, batch.first, gaps)
        reached = max(reached, batch.next)
        if not _any_source(work, batch):
            work.book.find(
                Kind.WITHOUT_SOURCE,
                f"batch [{batch.first}, {batch.next}) has outputs, and the input no record there",
                batch.found,
            )
        lost = batch.count - batch.found
        if lost and batch.next <= work.bound.published:
            missing += lost
            if batch.first <= seen.horizon:
                trimmed += lost
            else:
                _tell_missing(work, batch, lost)
    _gap(work, reached, min(work.bound.published, work.end), gaps)
    work.book.leave_out("outputs whose output topic was trimmed or compacted", trimmed)
    return missing, gaps


def _any_source(work: Work, batch: Batch) -> bool:
    if not work.sources_known or batch.next > work.end or batch.first < work.log_start:
        return True
    return work.present.count(batch.first, batch.next) > 0


def _tell_missing(work: Work, batch: Batch, lost: int) -> None:
    ordinals = list(islice(work.tally.missing(batch), EXAMPLES))
    for ordinal in ordinals:
        work.book.find(
            Kind.MISSING,
            f"output {ordinal + 1} of {batch.count} of batch [{batch.first}, {batch.next})",
        )
    if lost > len(ordinals):
        work.book.find(
            Kind.MISSING,
            f"{lost - len(ordinals)} more of batch [{batch.first}, {batch.next})",
            lost - len(ordinals),
        )


def _gap(work: Work, first: int, end: int, gaps: list[tuple[int, int]]) -> None:
    """A range without any output; only where there are records can one have been."""
    if first >= end or len(gaps) > EXAMPLES:
        return
    if not work.sources_known or work.present.count(first, end):
        gaps.append((first, end))


def _records(work: Work, seen: Circumstances, records: int) -> None:
    """handled + dead_lettered + skipped against the records of [start, H)."""
    row, book = work.bound.row, work.book
    counted = row.handled + row.dead_lettered + row.skipped
    left_out = sum(work.present.count(first, end) for first, end in work.bound.gaps)
    surplus = records - counted
    told = (
        f"handled {row.handled} + dead_lettered {row.dead_lettered} + skipped {row.skipped}"
        f" = {counted}, and the input has {records} records in [{work.begin}, {work.end})"
    )
    if seen.input_gone:
        book.leave_out(
            f"counted records of a log that cannot be compared: {seen.input_gone}", counted
        )
    elif surplus > 0 and seen.start is None:
        book.leave_out(
            "records that may be older than the group's start, which is unknown", surplus
        )
    elif surplus < 0 and -surplus <= _trimmed(work, seen):
        book.leave_out("counted records that retention has removed from the input", -surplus)
    elif 0 < surplus <= left_out:
        book.leave_out("records that a recorded remedy has left out", surplus)
    elif surplus and not _excused(work, abs(surplus)):
        book.find(Kind.COUNT, told)


def _trimmed(work: Work, seen: Circumstances) -> int:
    """How many offsets below the log's start the group may have handled."""
    return max(0, work.log_start - (seen.start or 0))


def _outputs(work: Work, seen: Circumstances, missing: int, gaps: list[tuple[int, int]]) -> None:
    """The counter ``outputs`` against what was found, what waits, and what is known to miss."""
    bound, book = work.bound, work.book
    counter = bound.row.outputs
    if bound.hole:
        book.leave_out("counter of outputs, because the outbox has a hole", 1)
        return
    accounted = work.earlier + work.published + missing + bound.waiting
    short = counter - accounted
    told = (
        f"the counter outputs is {counter}; found {work.earlier + work.published},"
        f" missing by their batches {missing}, waiting in the outbox {bound.waiting}"
    )
    if short > 0 and seen.horizon > NEVER:
        book.leave_out(
            "outputs of whole batches: the output topic was trimmed or compacted, so whether they"
            " were there is not known",
            short,
        )
    elif short and _excused(work, abs(short)):
        pass
    elif short > 0 and gaps:
        places = ", ".join(f"[{first}, {end})" for first, end in gaps[:EXAMPLES])
        more = " and others" if len(gaps) > EXAMPLES else ""
        book.find(
            Kind.MISSING,
            f"{told}: {short} more must be of input {places}{more}, or the counter is wrong",
            short,
        )
    elif short:
        book.find(Kind.COUNT, told)


def _excused(work: Work, count: int) -> bool:
    """Whether a recorded remedy may be why counts differ; then it is not verifiable."""
    if not work.bound.remedied:
        return False
    names = ", ".join(work.bound.remedied)
    work.book.leave_out(f"differences of counts after a recorded remedy ({names})", count)
    return True
