"""How long messages take, and how many are taken in hand accordingly."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from processor.engine.batch import Partition

BATCHES_AHEAD, SECONDS_AHEAD, BYTES_AHEAD = 4, 6.0, 32_000_000
"""As many messages are taken from the client as so many batches have, or as are handled in so many
seconds, but no more than these bytes: so that each partition can have its part of each batch."""
MESSAGE_BYTES = 500
"""What a message takes beside its key and value, the client's part and Python's."""
ENOUGH_SECONDS, ENOUGH_MESSAGES = 4.0, 20
FEW_SECONDS, FEW_MESSAGES = 1.5, 5
"""A partition of which there is enough is fetched no further, until there is little. A client that
has stopped fetching takes up to a second to begin again."""
RATE_WEIGHT = 0.2
MEMORY = 0.5
"""What a batch of before weighs beside one that came after it."""
USUAL_SECONDS, SHORTEST_SECONDS = 50e-6, 1e-6
"""A message's, where nothing is known; and at least."""


class Pace:
    """Told of each batch that is taken, and of what each partition's part of it has taken.

    While others wait, the next batch that is taken tells how long the one before took as a whole.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """:param now: monotonic seconds."""
        self._now = now
        self._taken = 0
        self._taken_at: float | None = None
        self._spent: dict[Partition, tuple[float, float]] = {}
        """Messages and seconds, what is long ago counting less."""
        self.per_second = inf
        """Of all partitions, as far as known."""

    def took(self, messages: int, *, others_wait: bool) -> None:
        """A batch is taken, because the one before is done."""
        now = self._now()
        if self._taken_at is not None and now > self._taken_at:
            rate = self._taken / (now - self._taken_at)
            known = rate if self.per_second == inf else self.per_second
            self.per_second = known + RATE_WEIGHT * (rate - known)
        self._taken, self._taken_at = messages, now if others_wait else None

    def gave_back(self, messages: int) -> None:
        """So many of what was taken were not handled."""
        self._taken = max(0, self._taken - messages)

    def handled(self, partition: Partition, messages: int, seconds: float) -> None:
        """Of one batch."""
        if messages:
            before, spent = self._spent.get(partition, (0.0, 0.0))
            self._spent[partition] = MEMORY * before + messages, MEMORY * spent + seconds

    def seconds_each(self, partition: Partition) -> float:
        """What a message of the partition takes."""
        spent = self._spent.get(partition)
        return USUAL_SECONDS if spent is None else max(SHORTEST_SECONDS, spent[1] / spent[0])

    def most(self, batch: int, mean_bytes: float) -> int:
        """How many messages may be in hand.

        :param batch: how many a batch has.
        """
        ahead = max(BATCHES_AHEAD * batch, 2 * ENOUGH_MESSAGES)
        if self.per_second != inf:
            ahead = max(ahead, int(SECONDS_AHEAD * self.per_second))
        return max(batch, min(ahead, int(BYTES_AHEAD / (mean_bytes + MESSAGE_BYTES))))

    def enough(self, partition: Partition) -> float:
        """More of a partition are not needed for a while."""
        return max(ENOUGH_SECONDS / self.seconds_each(partition), ENOUGH_MESSAGES)

    def few(self, partition: Partition) -> float:
        """No more of a partition than that are too few."""
        return max(FEW_SECONDS / self.seconds_each(partition), FEW_MESSAGES)
