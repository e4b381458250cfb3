"""How much is fetched, of which partitions, and what the next batch is made of. No I/O.

A partition that there is enough of is parked: the client does not fetch it, and what there is of it
beyond that is let go, to be fetched again. The client has one queue for all partitions; what is in
it of a slow one, thousands perhaps, is in front of whatever comes for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from processor.engine.backlog import Backlog
from processor.engine.batch import Partition, Position, Slice
from processor.engine.pace import Pace

SIZE_WEIGHT = 0.2


class FlowControl:
    """What is in hand: fetched, not handled yet."""

    def __init__(
        self, max_messages: int, max_bytes: int, max_seconds: float, now: Callable[[], float]
    ) -> None:
        """:param max_messages: of a batch, as are the bytes and the seconds.
        :param now: monotonic seconds.
        """
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._mean_bytes = 1_000.0
        self._backlog = Backlog()
        self._pace = Pace(now)
        self._parked: dict[Partition, Position] = {}

    def __len__(self) -> int:
        """How many messages are in hand."""
        return len(self._backlog)

    @property
    def wanted(self) -> int:
        """How many more messages there is room for; it may be none."""
        return self._pace.most(self._room, self._mean_bytes) - len(self._backlog)

    @property
    def _room(self) -> int:
        """How many messages a batch may have, by count and by the bytes they seem to need."""
        return max(1, min(self._max_messages, int(self._max_bytes / self._mean_bytes)))

    def add(self, fetched: Sequence[Slice], size_bytes: int) -> None:
        """What was fetched, behind what there is of its partitions."""
        count = 0
        for each in fetched:
            count += len(each.messages)
            self._backlog.add(each)
        if count:
            mean = max(1.0, size_bytes / count)
            self._mean_bytes += SIZE_WEIGHT * (mean - self._mean_bytes)

    def take(self) -> list[Slice]:
        """The next batch."""
        each = self._pace.seconds_each
        found = self._backlog.take(self._room, self._max_seconds, each)
        taken = sum(len(each.messages) for each in found)
        self._pace.took(taken, others_wait=bool(self._backlog))
        return found

    def give_back(self, rest: Slice, has_waited: bool) -> None:
        """Messages that were taken in vain; they come before all others of their partition.

        :param has_waited: nothing of the partition was handled: its turn is the next one.
        """
        self._backlog.put_back(rest, has_waited)
        self._pace.gave_back(len(rest.messages))

    def handled(self, partition: Partition, messages: int, seconds: float) -> None:
        """How long that has taken."""
        self._pace.handled(partition, messages, seconds)

    def park(self, partitions: Collection[Partition]) -> list[Partition]:
        """Those of the partitions that there is enough of."""
        parked = []
        for partition in partitions:
            enough = self._pace.enough(partition)
            if self._backlog.of(partition) > enough:
                self._parked[partition] = self._backlog.cut(partition, int(enough))
                parked.append(partition)
        return parked

    def unpark(self) -> dict[Partition, Position]:
        """Parked partitions that there is little left of, and from where each is to be fetched."""
        few, held = self._pace.few, self._backlog.of
        ready = {p: at for p, at in self._parked.items() if held(p) <= few(p)}
        for partition in ready:
            del self._parked[partition]
        return ready

    def drop(self, partitions: Collection[Partition]) -> None:
        """Nothing of them is in hand any more, and none is parked."""
        self._backlog.drop(partitions)
        for partition in partitions:
            self._parked.pop(partition, None)

    def clear(self) -> None:
        self._backlog.clear()
        self._parked.clear()
