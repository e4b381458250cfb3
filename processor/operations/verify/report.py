"""What a verification found, as plain values, and the sentence it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from processor.errors import Exit

EXAMPLES = 5
"""So many of each kind are told one by one; all are counted."""


class Kind(StrEnum):
    """A way in which the two stores do not agree."""

    MISSING = "output-missing"
    DUPLICATED = "output-duplicated"
    WITHOUT_SOURCE = "output-without-source"
    COUNT = "count-mismatch"
    ORDER = "order-broken"
    OVERLAP = "batches-overlap"
    OUTBOX = "outbox-damaged"
    OFFSETS = "offsets-broken"
    INPUT = "input-log-short"
    DEAD_LETTER = "dead-letter-without-source"


_WORDS = {
    Kind.MISSING: "outputs missing",
    Kind.DUPLICATED: "outputs duplicated",
    Kind.WITHOUT_SOURCE: "outputs without a source",
    Kind.COUNT: "counts that do not match",
    Kind.ORDER: "outputs out of order",
    Kind.OVERLAP: "batches that overlap",
    Kind.OUTBOX: "damages of the outbox",
    Kind.OFFSETS: "violations of P ≤ K ≤ H",
    Kind.INPUT: "input logs that end before H",
    Kind.DEAD_LETTER: "dead letters without a source",
}


@dataclass(slots=True)
class Finding:
    """All mismatches of one kind in one input partition."""

    kind: Kind
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, what: str, count: int = 1) -> None:
        self.count += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(what)


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """What could not be checked, and why; never counted as lost."""

    count: int
    what: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of the audit table: somebody, or the engine, has changed the history on purpose."""

    action: str
    actor: str
    at: datetime
    detail: dict[str, Any]


@dataclass(slots=True)
class Book:
    """What is noted of one input partition while the stores are read."""

    findings: dict[Kind, Finding] = field(default_factory=dict)
    unverifiable: list[Unverifiable] = field(default_factory=list)

    def find(self, kind: Kind, what: str, count: int = 1) -> None:
        self.findings.setdefault(kind, Finding(kind)).add(what, count)

    def leave_out(self, what: str, count: int) -> None:
        if count:
            self.unverifiable.append(Unverifiable(count, what))


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """One input partition. Offsets are None where nothing was ever handled."""

    topic: str
    partition: int
    start: int | None
    """Where the judged range begins."""
    end: int | None
    """Where it ends: H, or the end of the range that was asked for."""
    next_offset: int | None
    committed_offset: int | None
    published_offset: int | None
    records: int
    """Real records of the log in the range; neither control records nor aborted data."""
    handled: int
    dead_lettered: int
    skipped: int
    duplicates: int
    """Of those that were skipped."""
    outputs: int
    """As the counters say, for the whole partition and not for a range."""
    outputs_found: int
    """Different ones in the output topics, in the range."""
    outputs_waiting: int
    """In the outbox from K on: whether Kafka shows them by now is left open."""
    outputs_later: int
    """Of batches that were committed while this ran."""
    dead_letters: int
    findings: tuple[Finding, ...]
    unverifiable: tuple[Unverifiable, ...]
    recorded: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """What was read, and how fast."""

    input_messages: int
    output_messages: int
    seconds: float
    messages_per_second: float


@dataclass(frozen=True, slots=True)
class OtherOutputs:
    """Records of the output topics that no checked partition of this group has made."""

    without_provenance: int
    of_other_groups: int
    of_earlier_histories: int
    """Of a topic or a lineage that a recorded remedy or recreation has replaced."""
    not_selected: int


@dataclass(frozen=True, slots=True)
class Report:
    group: str
    verdict: str
    exit_code: Exit
    output_topics: tuple[str, ...]
    read: Read
    others: OtherOutputs
    partitions: tuple[PartitionReport, ...]


def verdict(partitions: Sequence[PartitionReport], whole: bool) -> tuple[str, Exit]:
    """One sentence, and the exit code that goes with it."""
    known = [each for each in partitions if each.next_offset is not None]
    if not known:
        return "nothing is known of this group", Exit.OK
    left_out = sum(item.count for each in known for item in each.unverifiable)
    remark = f"; {left_out:,} not verifiable" if left_out else ""
    found: dict[Kind, int] = {}
    for each in partitions:
        for finding in each.findings:
            found[finding.kind] = found.get(finding.kind, 0) + finding.count
    if found:
        bad = sum(bool(each.findings) for each in partitions)
        told = ", ".join(f"{found[kind]:,} {_WORDS[kind]}" for kind in Kind if kind in found)
        return (
            f"the stores do not agree in {bad} of {len(partitions)} partitions: {told}{remark}",
            Exit.VERDICT,
        )
    records = sum(each.records for each in known)
    outputs = sum(each.outputs_found for each in known)
    waiting = sum(each.outputs_waiting for each in known)
    letters = sum(each.dead_letters for each in known)
    where = "" if whole else " in the range"
    later = f", {waiting:,} waiting in the outbox" if waiting else ""
    return (
        f"both stores agree{where}: {records:,} input records, {letters:,} dead letters,"
        f" {outputs:,} outputs{later}, 0 missing, 0 duplicated{remark}",
        Exit.OK,
    )
