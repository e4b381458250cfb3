"""What was fetched and is not handled yet. Batches are made of it fairly; no I/O.

The client hands messages over in the order in which they came: many of one partition, then many of
the next. Here each partition has a queue of its own, and they take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from processor.engine.batch import Partition, Position, Slice

TURN_SECONDS = 0.005
"""A partition's part in a batch is not cut below that: each part costs statements of its own."""


class Backlog:
    """Queues by partition, in the order in which it is their turn."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Partition, Slice] = OrderedDict()
        self._messages = 0

    def __len__(self) -> int:
        """How many messages there are."""
        return self._messages

    def of(self, partition: Partition) -> int:
        """How many there are of a partition."""
        queue = self._queues.get(partition)
        return 0 if queue is None else len(queue.messages)

    def add(self, fetched: Slice) -> None:
        """Behind what there is of its partition."""
        queue = self._queues.get(fetched.partition)
        if queue is None:
            self._queues[fetched.partition] = fetched
        else:
            queue.messages.extend(fetched.messages)
        self._messages += len(fetched.messages)

    def put_back(self, rest: Slice, has_waited: bool) -> None:
        """In front of what there is of its partition.

        :param has_waited: its turn came, and nothing was done: it is the next one.
        """
        queue = self._queues.get(rest.partition)
        if queue is None:
            self._queues[rest.partition] = rest
        else:
            queue.messages[:0] = rest.messages
            queue.first = rest.first
        self._messages += len(rest.messages)
        if has_waited:
            self._queues.move_to_end(rest.partition, last=False)

    def drop(self, partitions: Collection[Partition]) -> None:
        for partition in partitions:
            queue = self._queues.pop(partition, None)
            if queue is not None:
                self._messages -= len(queue.messages)

    def clear(self) -> None:
        self._queues.clear()
        self._messages = 0

    def cut(self, partition: Partition, count: int) -> Position:
        """Let go of what there is of a partition beyond so many messages; where that begins."""
        queue = self._queues[partition]
        self._messages -= len(queue.messages) - count
        del queue.messages[count:]
        last = queue.messages[-1]
        return Position(last.offset() + 1, last.leader_epoch())

    def take(self, room: int, seconds: float, each: Callable[[Partition], float]) -> list[Slice]:
        """The next batch: as much time for each partition, then more for those that have more.

        :param room: how many messages at most.
        :param seconds: how long they may seem to take, if they are several.
        :param each: the seconds that a message of a partition seems to take.
        """
        taken: dict[Partition, Slice] = {}
        while room > 0 and seconds > 0 and self._queues:
            takes = {partition: each(partition) for partition in self._queues}
            share = min(room / sum(1 / one for one in takes.values()), seconds / len(takes))
            share = max(share, TURN_SECONDS)
            for partition, one in takes.items():
                if room <= 0 or seconds <= 0:
                    break
                got = self._take(partition, min(room, max(1, int(share / one))))
                room -= len(got.messages)
                seconds -= len(got.messages) * one
                earlier = taken.get(partition)
                if earlier is None:
                    taken[partition] = got
                else:
                    earlier.messages.extend(got.messages)
        return list(taken.values())

    def _take(self, partition: Partition, count: int) -> Slice:
        """The first messages of a queue; what is left of it waits until all others had their turn.

        Offsets may have gaps: the rest begins behind the last one that was taken.
        """
        queue = self._queues.pop(partition)
        if len(queue.messages) <= count:
            self._messages -= len(queue.messages)
            return queue
        got = Slice(partition, queue.first, queue.messages[:count])
        rest = Slice(partition, got.messages[-1].offset() + 1, queue.messages[count:])
        self._queues[partition] = rest
        self._messages -= count
        return got
