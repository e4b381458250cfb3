"""Which messages are to be handled again, and under which names."""

from __future__ import annotations

from dataclasses import dataclass

from processor.engine.batch import LogRange
from processor.engine.halts import Halt
from processor.engine.recovery import read_metadata
from processor.errors import Refused
from processor.operations.remedies.values import Change, Facts, Plan, gap, halted, replacing

ACTION = "replay-effects"


@dataclass(frozen=True, slots=True)
class Replay:
    """The handlers run over [start, end) of the log."""

    start: int
    end: int
    lineage: str
    """K's, which the published outputs carry."""
    left_out: tuple[int, int] | None
    """What the log has lost, or the operator gives up: a recorded gap."""

    @property
    def says(self) -> tuple[str, ...]:
        says = [f"the handlers run again over [{self.start}, {self.end}), and publish nothing"]
        if self.left_out is not None:
            first, end = self.left_out
            says.append(f"[{first}, {end}) is left out, a recorded gap")
        return tuple(says)

    @property
    def detail(self) -> dict[str, object]:
        left = {} if self.left_out is None else gap(*self.left_out)
        return {"replayed_from": self.start, "replayed_to": self.end, **left}


def plan_replay(facts: Facts, start: int | None = None) -> Replay | Plan:
    """A plan, where K lacks nothing that H has: then only K's token is to be set.

    :param start: where to begin, when there is no row, or when the log no longer has H.
    """
    halted(facts, ACTION, Halt.DATABASE_HISTORY_LOST)
    k, row, partition = facts.k, facts.row, facts.reading.partition
    ours = read_metadata(facts.reading.committed.metadata)
    assert k is not None, "the halt is of a K that is there"
    assert ours is not None, "the halt is of a K of our form"
    lineage, _ = ours
    log = facts.log
    if log.high_watermark < k:
        raise Refused(f"{partition}: K is {k}, but the log ends at {log.high_watermark}")
    if row is not None and row.next_offset >= k:
        return _token_only(facts, k)
    if row is None and start is None:
        raise Refused(
            f"{partition}: the database knows nothing of it; say where the group began,"
            f" or what the database still holds the effects of: --from OFFSET (the log has"
            f" [{log.start}, {log.high_watermark}))"
        )
    h = row.next_offset if row is not None else int(start or 0)
    begin = max(h, start or 0)
    _in_log(facts, log, begin, k)
    left_out = (h, begin) if h < begin else None
    return Replay(begin, k, lineage, left_out)


def _token_only(facts: Facts, k: int) -> Plan:
    row = facts.row
    assert row is not None
    change = Change(
        row.next_offset, row.published_offset, replacing(facts, k, ACTION), keep_outbox=True
    )
    says = [f"H is {row.next_offset}, nothing below K = {k} is lost: K gets the row's token"]
    if k < row.next_offset:
        says.append(f"the outbox of [{k}, {row.next_offset}) is published then")
    return Plan(ACTION, change, tuple(says), {"k": k, "replayed_from": k, "replayed_to": k})


def _in_log(facts: Facts, log: LogRange, begin: int, k: int) -> None:
    if begin < log.start:
        raise Refused(
            f"{facts.reading.partition}: the log begins at {log.start}, so [{begin}, {log.start})"
            f" cannot be handled again; --from {log.start} leaves it out, a recorded gap"
        )
    if begin > k:
        raise Refused(f"{facts.reading.partition}: --from {begin} lies beyond K = {k}")
