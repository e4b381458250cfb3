"""What the numbers mean over time: a rate, and when a worker is back after a blow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from demo.numbers import Numbers, Partition

KEPT_SECONDS = 45.0


class Rate:
    """How fast a counter rose, for the last half minute or so.

    >>> rate = Rate()
    >>> for second in range(5):
    ...     rate.add(float(second), second * 100)
    >>> rate.columns(now=4.0, seconds=4.0, count=2)
    [100.0, 100.0]
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        self._points.append((now, count))
        while self._points[0][0] < now - KEPT_SECONDS:
            self._points.popleft()

    def columns(self, now: float, seconds: float, count: int) -> list[float]:
        """The rates of `count` equal spans of time, the latest last.

        The spans are anchored in time, so that a column that was seen once keeps its height on
        its way to the left.
        """
        width = seconds / count
        last = int(now / width)
        edges = [self._at((last - count + index) * width) for index in range(count + 1)]
        return [(after - before) / width for before, after in pairwise(edges)]

    def lately(self, now: float, seconds: float = 3.0) -> float:
        """The rate over the last few seconds."""
        return (self._at(now) - self._at(now - seconds)) / seconds

    def _at(self, moment: float) -> float:
        """The count at a moment, interpolated; readings do not come at even distances."""
        if not self._points:
            return 0.0
        before, count_before = self._points[0]
        for after, count_after in self._points:
            if after >= moment:
                share = (moment - before) / (after - before) if after > before else 1.0
                return count_before + max(0.0, share) * (count_after - count_before)
            before, count_before = after, count_after
        return float(count_before)


@dataclass(frozen=True, slots=True)
class Back:
    """A worker that is at work again, and how long it was not."""

    slot: int
    seconds: float
    partitions: int


@dataclass(frozen=True, slots=True)
class _Struck:
    since: float
    before: Mapping[int, Partition]
    killed: bool


class Recovery:
    """Tells when the workers that were struck are at work again.

    After a kill that is when the next process says of each partition that it runs, and something
    has moved; movement alone may be a commit that was under way. One that was frozen need not say
    anything: it goes on.
    """

    def __init__(self) -> None:
        self._struck: dict[int, _Struck] = {}

    @property
    def slots(self) -> frozenset[int]:
        """Those that are not back yet."""
        return frozenset(self._struck)

    def struck(self, slot: int, now: float, numbers: Numbers, *, killed: bool) -> None:
        """A worker was killed, or may go on after a freeze.

        :param numbers: read after that.
        """
        if before := numbers.of_slot(slot):
            self._struck[slot] = _Struck(now, before, killed)

    def back(self, now: float, numbers: Numbers) -> list[Back]:
        """Those that have come back since the last call."""
        found = [
            Back(slot, now - struck.since, len(numbers.of_slot(slot)))
            for slot, struck in self._struck.items()
            if _at_work(numbers.of_slot(slot), struck)
        ]
        for each in found:
            del self._struck[each.slot]
        return found


def _at_work(partitions: Mapping[int, Partition], struck: _Struck) -> bool:
    pairs = [(struck.before.get(number), each) for number, each in partitions.items()]
    moved = any(old is None or new.next_offset > old.next_offset for old, new in pairs)
    told = all(old is None or new.since != old.since for old, new in pairs)
    running = all(new.state == "running" for _, new in pairs)
    return moved and running and (told or not struck.killed)
