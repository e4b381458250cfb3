"""How many messages are handled a second, and how many are taken in hand accordingly."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

BATCHES_AHEAD, SECONDS_AHEAD, BYTES_AHEAD = 4, 6.0, 32_000_000
"""As many messages are taken from the client as so many batches have, or as are handled in so many
seconds, but no more than these bytes: so that each partition can have its part of each batch."""
CROWDING_SECONDS, CROWDING_MESSAGES = 4.0, 20
ROOMY_SECONDS, ROOMY_MESSAGES = 1.5, 5
"""A partition of which there is so much to do is fetched no further, until there is so little. A
client that has stopped fetching takes up to a second to begin again."""
RATE_WEIGHT = 0.2


class Pace:
    """Told of each batch that is taken; while others wait, the next one tells how long it took."""

    def __init__(self, now: Callable[[], float]) -> None:
        """:param now: monotonic seconds."""
        self._now = now
        self._taken = 0
        self._taken_at: float | None = None
        self.per_second = inf
        """As far as known."""

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

    def most(self, batch: int, mean_bytes: float) -> int:
        """How many messages may be in hand.

        :param batch: how many a batch has.
        """
        ahead = max(BATCHES_AHEAD * batch, 2 * CROWDING_MESSAGES)
        if self.per_second != inf:
            ahead = max(ahead, int(SECONDS_AHEAD * self.per_second))
        return max(batch, min(ahead, int(BYTES_AHEAD / mean_bytes)))

    @property
    def many(self) -> float:
        """More of one partition are enough for a while."""
        return max(CROWDING_SECONDS * self.per_second, CROWDING_MESSAGES)

    @property
    def few(self) -> float:
        """No more of one partition than that are too few."""
        return max(ROOMY_SECONDS * self.per_second, ROOMY_MESSAGES)
