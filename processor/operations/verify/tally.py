"""Compact memory of what was seen of one input partition. No I/O, and no object per message.

Memory: an eighth of a byte for each input offset of the range and for each output, four bytes for
each input offset (touched only where a batch begins) and 20 bytes for each batch that had outputs.
Ten million messages with an output each take about 43 MB, at worst 245 MB if each was a batch of
its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import compress, count

MAX_OUTPUTS_OF_A_BATCH = 50_000_000
"""A header that claims more is not ours: a batch's outputs fit into memory."""


class Bits:
    """A set of offsets of [start, end)."""

    __slots__ = ("_bits", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, max(start, end)
        self._bits = bytearray((self.end - start + 7) >> 3)

    def add(self, offset: int) -> None:
        at = offset - self.start
        self._bits[at >> 3] |= 1 << (at & 7)

    def fill(self, first: int, end: int) -> None:
        """All of [first, end)."""
        while first < end and (first - self.start) & 7:
            self.add(first)
            first += 1
        whole = (end - first) >> 3
        if whole > 0:
            at = (first - self.start) >> 3
            self._bits[at : at + whole] = b"\xff" * whole
            first += whole << 3
        for offset in range(first, end):
            self.add(offset)

    def __contains__(self, offset: int) -> bool:
        at = offset - self.start
        return bool(self._bits[at >> 3] & (1 << (at & 7)))

    def count(self, first: int, end: int) -> int:
        """How many of [first, end) there are."""
        first, end = max(first, self.start), min(end, self.end)
        if first >= end:
            return 0
        low, high = first - self.start, end - self.start
        found = int.from_bytes(self._bits[low >> 3 : (high + 7) >> 3], "little") >> (low & 7)
        return (found & ((1 << (high - low)) - 1)).bit_count()


class Seen(Enum):
    """What an output is beside those that were seen before."""

    NEW = auto()
    DUPLICATE = auto()
    CONTRADICTION = auto()
    """A batch of other extent, or with another number of outputs, began at the same offset."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that had outputs, and how many different ones of them were found."""

    number: int
    first: int
    next: int
    count: int
    found: int


class Tally:
    """The batches with outputs whose first offset is in [start, end), and their outputs."""

    __slots__ = ("_base", "_bits", "_count", "_found", "_index", "_length", "_used", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, max(start, end)
        # Zeroed by the operating system page by page: what is not touched takes no memory.
        self._index = memoryview(bytearray(4 * (self.end - start))).cast("I")
        self._length = array("Q")
        self._count = array("I")
        self._base = array("Q")
        self._found = array("I")
        self._bits = bytearray()
        self._used = 0

    def expect(self, first: int, next_offset: int, outputs: int) -> bool:
        """Note that there is such a batch; False where another one begins at the same offset."""
        number = self._index[first - self.start]
        if number:
            at = number - 1
            return self._length[at] == next_offset - first and self._count[at] == outputs
        self._length.append(next_offset - first)
        self._count.append(outputs)
        self._base.append(self._used)
        self._found.append(0)
        self._used += outputs
        self._bits.extend(bytes(((self._used + 7) >> 3) - len(self._bits)))
        self._index[first - self.start] = len(self._length)
        return True

    def add(self, first: int, next_offset: int, ordinal: int, outputs: int) -> Seen:
        """Note one output; ``ordinal`` is below ``outputs``."""
        at = self._index[first - self.start] - 1
        if at < 0:
            self.expect(first, next_offset, outputs)
            at = self._index[first - self.start] - 1
        elif self._count[at] != outputs or self._length[at] != next_offset - first:
            return Seen.CONTRADICTION
        bit = self._base[at] + ordinal
        mask = 1 << (bit & 7)
        if self._bits[bit >> 3] & mask:
            return Seen.DUPLICATE
        self._bits[bit >> 3] |= mask
        self._found[at] += 1
        return Seen.NEW

    def batches(self) -> Iterator[Batch]:
        """By their first offset."""
        for first in compress(count(self.start), self._index):
            at = self._index[first - self.start] - 1
            end = first + self._length[at]
            yield Batch(at, first, end, self._count[at], self._found[at])

    def missing(self, batch: Batch) -> Iterator[int]:
        """The ordinals that were not found."""
        base = self._base[batch.number]
        for ordinal in range(batch.count):
            bit = base + ordinal
            if not self._bits[bit >> 3] & (1 << (bit & 7)):
                yield ordinal
