"""Outputs of a replay against those that were published. Pure.

Outputs of one message are compared in their order, by topic, key, value and headers; those of a
batch handler, which are of no single message, by their batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from processor.engine.batch import Record
from processor.engine.outbox import Provenance

EXAMPLES = 5

Key = tuple[int, int]
"""The input offsets that an output is of: a message's, or a batch's."""
Content = tuple[str, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]


def digest(content: Content) -> bytes:
    """16 bytes that tell two outputs apart.

    >>> digest(("t", b"k", None, [])) == digest(("t", b"k", b"", []))
    False
    """
    topic, key, value, headers = content
    found = blake2b(digest_size=16)
    for part in (topic.encode(), key, value, *(p for n, v in headers for p in (n.encode(), v))):
        found.update(b"-" if part is None else b"%d:%s" % (len(part), part))
    return found.digest()


@dataclass(slots=True)
class Outputs:
    """What was published of one history of a partition; 16 bytes for each output."""

    start: int
    by_key: dict[Key, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    batches: set[Key] = field(default_factory=set)
    """The extents of the batches that are seen."""

    def add(self, source: Provenance, content: Content) -> None:
        if source.next <= self.start:
            return
        at = source.source_offset
        key = (source.first, source.next) if at is None else (at, at + 1)
        self.batches.add((source.first, source.next))
        self.by_key.setdefault(key, []).append((source.first, source.ordinal, digest(content)))

    def of(self, key: Key) -> list[bytes]:
        return [each for _, _, each in sorted(self.by_key.get(key, ()))]

    def within(self, first: int, end: int) -> set[Key]:
        return {key for key in self.by_key if first <= key[0] and key[1] <= end}

    def ends_after(self, first: int) -> int | None:
        """The end of the batch that began at ``first``, or the beginning of the next one."""
        cuts = {end for begin, end in self.batches if begin == first}
        cuts |= {begin for begin, _ in self.batches if begin > first}
        return min(cuts, default=None)


@dataclass(slots=True)
class Comparison:
    """What a replay came to."""

    handled: int = 0
    dead_lettered: int = 0
    skipped: int = 0
    duplicates: int = 0
    equal: int = 0
    different: int = 0
    incomparable: int = 0
    """Not found as they were, where the output topic no longer holds all that it had."""
    examples: list[str] = field(default_factory=list)

    def compare(
        self,
        first: int,
        end: int,
        records: Iterable[Record],
        published: Outputs,
        incomplete: Collection[str],
    ) -> int:
        """How many messages, or batches, of [first, end) have other outputs than before."""
        replayed: dict[Key, list[Record]] = defaultdict(list)
        for record in records:
            at = record.source_offset
            replayed[(first, end) if at is None else (at, at + 1)].append(record)
        before = self.different
        for key in sorted({*replayed, *published.within(first, end)}):
            now, then = replayed.get(key, []), published.of(key)
            if [digest((r.topic, r.key, r.value, r.headers)) for r in now] == then:
                self.equal += len(now)
            elif incomplete and len(then) < len(now):
                self.incomparable += len(now)
            else:
                self.different += 1
                self._example(key, len(now), len(then))
        return self.different - before

    def _example(self, key: Key, now: int, then: int) -> None:
        if len(self.examples) < EXAMPLES:
            where = f"offset {key[0]}" if key[1] == key[0] + 1 else f"[{key[0]}, {key[1]})"
            how = "with other contents" if now == then else f"{now} instead of {then}"
            self.examples.append(f"{where}: outputs {how}")
