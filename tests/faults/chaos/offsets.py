"""K and the ends of logs, asked for over connections that no fault touches.

Consumers that never join are asked, not an admin client: that one hears nothing more of a group
after its coordinator was away, and can end the process by an assertion.
"""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from processor.engine.batch import Committed
from tests.faults.chaos.pipeline import GROUP, NUMBERS

PENDING_SECONDS = 0.4
"""How long to wait for a transaction that is about to move an offset."""
ANSWER_SECONDS = 2.0


class Offsets:
    """For one thread."""

    def __init__(self, servers: str) -> None:
        self._committed, self._ends = (
            Consumer(
                {
                    "bootstrap.servers": servers,
                    "group.id": GROUP,
                    "isolation.level": isolation,
                    "reconnect.backoff.max.ms": 200,
                    # Under load an offset is stable for moments only: ask often.
                    "retry.backoff.ms": 2,
                    "retry.backoff.max.ms": 10,
                    "log_level": 0,
                    "error_cb": lambda _: None,
                }
            )
            for isolation in ("read_committed", "read_uncommitted")
        )

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """K, read stable, of those whose K is stable."""
        found = {}
        for number in partitions:
            try:
                [answer] = self._committed.committed(
                    [TopicPartition(NUMBERS, number)], PENDING_SECONDS
                )
            except KafkaException:
                continue
            if answer.error is None:
                offset = answer.offset if answer.offset >= 0 else None
                found[number] = Committed(offset, answer.metadata)
        return found

    def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The high watermarks, control records included, of those that answer."""
        found = {}
        for number in partitions:
            try:
                # Asked first, or the client may not know who leads by now.
                self._ends.list_topics(topic, ANSWER_SECONDS)
                answer = self._ends.get_watermark_offsets(
                    TopicPartition(topic, number), ANSWER_SECONDS
                )
            except KafkaException:
                continue
            if answer is not None:
                found[number] = answer[1]
        return found
