"""The messages of [start, end) as slices, cut as a handler needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Message

from processor.engine.batch import Handled, Partition, Slice
from processor.operations.broker import Broker
from processor.operations.progress import SILENT, Progress
from processor.operations.remedies.replay.compare import Outputs
from processor.operations.scan import Scan
from processor.settings import Settings

Handle = Callable[[Slice], Handled]


class Feed:
    """Reads one partition, committed records only; ``at`` is how far it was handled."""

    def __init__(
        self,
        partition: Partition,
        start: int,
        end: int,
        published: Outputs,
        *,
        batches: bool,
        progress: Progress = SILENT,
    ) -> None:
        """:param batches: whether a batch handler takes the messages.

        Its outputs are of its whole batch, so it gets the same batches again as were published.
        """
        self._partition = partition
        self._end = end
        self._published = published
        self._batches = batches
        self._progress = progress
        self._pending: list[Any] = []
        self.at = start

    def read(self, settings: Settings, group: str, broker: Broker, handle: Handle) -> None:
        """Hand over all of it; at last what is left without messages, if anything."""
        most = settings.batch_max_messages
        self._progress.stage(f"{self._partition}: handling again", self._end - self.at)

        def take(_: int, run: list[Message]) -> None:
            self._pending += run
            self._drain(handle, most, last=False)

        scan = Scan(settings, group, lambda place: broker.log_ends([place])[place])
        scan.read(self._partition.topic, {self._partition.number: (self.at, self._end)}, take)
        self._drain(handle, most, last=True)
        if self.at < self._end:
            self._hand(handle, [])

    def _drain(self, handle: Handle, most: int, *, last: bool) -> None:
        while count := self._count(most, last=last):
            self._hand(handle, self._pending[:count])
            self._pending = [each for each in self._pending if each.offset() >= self.at]

    def _hand(self, handle: Handle, messages: list[Any]) -> None:
        reached = handle(Slice(self._partition, self.at, messages)).next
        self._progress.moved(reached - self.at)
        self.at = reached

    def _count(self, most: int, *, last: bool) -> int:
        """How many pending messages are the next slice; 0 while that is not known."""
        pending = len(self._pending)
        if not self._batches:
            return min(most, pending)
        cut = self._published.ends_after(self.at)
        if cut is None:
            return min(most, pending) if last or pending >= most else 0
        inside = sum(each.offset() < cut for each in self._pending)
        return inside if last or inside < pending else 0
