"""Each output is held against its provenance while the output topics are read.

The header says which batch it is of (topic id, partition, lineage, [first, next)), which one of how
many of that batch's outputs, and, except after a batch handler, the offset of its message. So what
is missing of a batch is known when one of its outputs is there; of a batch that is gone whole only
the counter in Postgres tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Message

from processor.engine.outbox import PROVENANCE_HEADER
from processor.operations.broker import Place
from processor.operations.verify.bounds import Bound, Bounds
from processor.operations.verify.report import Book, Kind, OtherOutputs
from processor.operations.verify.tally import MAX_OUTPUTS_OF_A_BATCH, Bits, Seen, Tally


class Now(Protocol):
    """What Postgres says at this moment."""

    def next_offset(self, topic_id: str, partition: int, lineage: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Where:
    """An output partition: a short number, and its name for people."""

    number: int
    text: str


class Work:
    """One input partition within [begin, end), and what has been seen of it."""

    def __init__(self, bound: Bound, begin: int, end: int, now: Now) -> None:
        self.bound = bound
        self.begin, self.end = begin, max(begin, end)
        self.book = Book()
        self.present = Bits(self.begin, self.end)
        """The real records of the input."""
        self.sources_known = True
        """Every record of the range is still in the log: it is neither compacted nor another."""
        self.log_start = 0
        """Of the input, after it was read: what is below may have been there."""
        self.tally = Tally(self.begin, self.end)
        self.earliest: dict[int, int] = {}
        """In each output partition the first offset of the batch of the earliest output."""
        self.published = self.open = self.earlier = self.later = 0
        self._last: dict[int, tuple[int, int]] = {}
        self._next_offset = self._ceiling = bound.row.next_offset
        self._now = now
        for each in bound.manifests:
            if each.output_count and self.begin <= each.first and each.next <= self.end:
                self.tally.expect(each.first, each.next, each.output_count)

    @property
    def place(self) -> Place:
        return self.bound.row.topic, self.bound.row.partition

    def add(
        self,
        where: Where,
        offset: int,
        first: int,
        end: int,
        ordinal: int,
        count: int,
        source: int | None,
    ) -> None:
        """Note the output that stands at ``offset`` of an output partition."""
        if not (0 <= ordinal < count <= MAX_OUTPUTS_OF_A_BATCH and 0 <= first < end):
            self._without(where, offset, f"claims output {ordinal} of {count} of [{first}, {end})")
            return
        if end > self._next_offset:
            self._after(where, offset, first, end)
            return
        if first >= self.end:
            return
        last = self._last.get(where.number)
        if last is None:
            self.earliest[where.number] = first
        at = (first, ordinal)
        if first >= self.begin:
            seen = self.tally.add(first, end, ordinal, count)
        else:
            seen = Seen.DUPLICATE if last == at else Seen.NEW
        if seen is not Seen.NEW:
            self._not_new(where, offset, seen, first, end, ordinal, count)
            return
        if last is None or at > last:
            self._last[where.number] = at
        else:
            what = f"{_batch(first, end)} stands after the one of {last[0]}"
            self.book.find(Kind.ORDER, f"{where.text} at {offset}: {what}")
        self._count(first, end)
        if source is not None and not self._has(source, first, end):
            self._without(where, offset, f"is of offset {source}, where there is no record")

    def _count(self, first: int, end: int) -> None:
        if first < self.begin:
            self.earlier += 1
        elif end <= self.bound.published:
            self.published += 1
        else:
            self.open += 1

    def _not_new(
        self,
        where: Where,
        offset: int,
        seen: Seen,
        first: int,
        end: int,
        ordinal: int,
        count: int,
    ) -> None:
        name = f"{where.text} at {offset}"
        if seen is Seen.DUPLICATE:
            what = f"output {ordinal + 1} of {count} of {_batch(first, end)} once more"
            self.book.find(Kind.DUPLICATED, f"{name}: {what}")
        else:
            what = f"{_batch(first, end)} where another batch begins at {first}"
            self.book.find(Kind.OVERLAP, f"{name}: {what}")

    def _has(self, source: int, first: int, end: int) -> bool:
        """Whether the record is there, as far as that can be known."""
        if not first <= source < end:
            return False
        if source >= self.end or source < self.begin or source < self.log_start:
            return True
        if not self.sources_known:
            return True
        return source in self.present

    def _after(self, where: Where, offset: int, first: int, end: int) -> None:
        """Visible outputs are committed in Postgres: what H does not cover by now has no source."""
        row = self.bound.row
        if end > self._ceiling:
            now = self._now.next_offset(row.topic_id, row.partition, row.lineage)
            self._ceiling = max(self._ceiling, now or 0)
        if end > self._ceiling:
            self._without(where, offset, f"is of {_batch(first, end)}, beyond H {self._ceiling}")
        elif first < row.next_offset:
            what = f"{_batch(first, end)} across H {row.next_offset}"
            self.book.find(Kind.OVERLAP, f"{where.text} at {offset}: {what}")
        else:
            self.later += 1

    def _without(self, where: Where, offset: int, what: str) -> None:
        self.book.find(Kind.WITHOUT_SOURCE, f"{where.text} at {offset} {what}")


class Outputs:
    """Takes the messages of output topics, partition by partition in order."""

    def __init__(self, bounds: Bounds, works: Mapping[Place, Work], now: Now) -> None:
        self._bounds = bounds
        self._now = now
        self._works = {
            (work.bound.row.topic_id.encode(), str(work.bound.row.partition).encode()): (
                work.bound.row.lineage.encode(),
                work,
            )
            for work in works.values()
        }
        self._inputs = {
            bound.row.topic_id: topic for (topic, _), bound in bounds.partitions.items()
        }
        self._books = {place: work.book for place, work in works.items()}
        self._places: dict[Place, int] = {}
        self._strangers: dict[tuple[bytes, ...], str] = {}
        self._others = {"none": 0, "group": 0, "earlier": 0, "not selected": 0}

    def number(self, place: Place) -> int:
        """A short name of an output partition."""
        return self._places.setdefault(place, len(self._places))

    @property
    def others(self) -> OtherOutputs:
        return OtherOutputs(*self._others.values())

    @property
    def strays(self) -> dict[Place, Book]:
        """Books of input partitions that outputs claim and nobody knows."""
        known = {work.place for _, work in self._works.values()}
        return {place: book for place, book in self._books.items() if place not in known}

    def take(self, topic: str, partition: int, run: list[Message]) -> None:
        """One run of messages; this is the hot path."""
        where = Where(self.number((topic, partition)), f"{topic}/{partition}")
        works, nothing = self._works, (b"", None)
        for message in run:
            parts = _provenance(message)
            if parts is None:
                self._others["none"] += 1
                continue
            lineage, work = works.get((parts[0], parts[1]), nothing)
            if work is None or lineage != parts[6]:
                self._stranger(parts, f"{where.text} at {message.offset()}")
                continue
            try:
                first, end, ordinal, count = map(int, parts[2:6])
                source = int(parts[7]) if parts[7] else None
            except ValueError:
                what = f"{where.text} at {message.offset()} has an unreadable provenance"
                work.book.find(Kind.WITHOUT_SOURCE, what)
                continue
            work.add(where, message.offset(), first, end, ordinal, count, source)

    def _stranger(self, parts: list[bytes], name: str) -> None:
        key = (parts[0], parts[1], parts[6])
        kind = self._strangers.get(key)
        if kind is None:
            kind = self._strangers[key] = self._judged(*(p.decode(errors="replace") for p in key))
        if kind in self._others:
            self._others[kind] += 1
            return
        topic, number = self._inputs[parts[0].decode()], parts[1].decode(errors="replace")
        place = (topic, int(number) if number.isdecimal() else -1)
        book = self._books.setdefault(place, Book())
        book.find(Kind.WITHOUT_SOURCE, f"{name} {kind}")

    def _judged(self, topic_id: str, partition: str, lineage: str) -> str:
        """A key of the counts of others, or what is wrong."""
        bounds = self._bounds
        if topic_id in bounds.earlier_topics:
            return "earlier"
        topic = self._inputs.get(topic_id)
        if topic is None or lineage in bounds.other_lineages:
            return "group"
        if lineage in bounds.earlier_lineages:
            return "earlier"
        number = int(partition) if partition.isdecimal() else -1
        bound = bounds.partitions.get((topic, number))
        if bound is not None and bound.row.lineage == lineage:
            return "not selected"
        if self._now.next_offset(topic_id, number, lineage) is not None:
            return "not selected"  # it has come to be while this runs
        if bound is None:
            return f"is of partition {partition}, which has no row"
        return f"is of the foreign lineage {lineage}"


def _provenance(message: Message) -> list[bytes] | None:
    """The fields of the last header of that name: a handler may pass on those of its input."""
    try:
        headers = message.headers()
    except (SystemError, UnicodeDecodeError):
        return None  # a name that is not UTF-8 is not of ours
    for name, value in reversed(headers or ()):
        if name == PROVENANCE_HEADER:
            parts: list[bytes] = (value or b"").split(b";")
            return parts if len(parts) == 8 else None
    return None


def _batch(first: int, end: int) -> str:
    return f"batch [{first}, {end})"
