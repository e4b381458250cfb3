"""How far both stores have got."""

from __future__ import annotations

from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults.poison.pipeline import GROUP
from tests.faults.poison.stage import Stage
from tests.faults.poison.traffic import Traffic

ANSWER_SECONDS = 2.0


class Level(NamedTuple):
    """Of one partition."""

    topic: str
    partition: int
    h: int
    p: int
    outbox: int


class Rest:
    """Of all partitions that the group has, those of the replays' topic too."""

    def __init__(self, stage: Stage, traffic: Traffic) -> None:
        self._stage, self._traffic = stage, traffic
        self._committed, self._ends = (
            Consumer(
                {
                    "bootstrap.servers": stage.servers,
                    "group.id": GROUP,
                    "isolation.level": isolation,
                    "log_level": 0,
                }
            )
            for isolation in ("read_committed", "read_uncommitted")
        )

    def levels(self) -> list[Level]:
        return [Level(*row) for row in self._stage.rows(_LEVELS)]

    def handled(self) -> int:
        """Messages, dead letters included; replays are none."""
        topics = {topic for topic, _ in self._traffic.ends}
        [[found]] = self._stage.rows(_HANDLED, list(topics))
        return int(found)

    def is_handled(self, levels: list[Level]) -> bool:
        """H is at the end of what was sent."""
        heads = {(each.topic, each.partition): each.h for each in levels}
        return all(heads.get(place, 0) >= end for place, end in self._traffic.ends.items())

    def is_reached(self, levels: list[Level]) -> bool:
        """P = K = H = end, and the outbox is empty."""
        if not self.is_handled(levels):
            return False
        return all(
            not each.outbox and each.p == each.h == self._k(each) == self._end(each)
            for each in levels
        )

    def _k(self, level: Level) -> int | None:
        where = TopicPartition(level.topic, level.partition)
        try:
            [found] = self._committed.committed([where], ANSWER_SECONDS)
        except KafkaException:
            return None
        return found.offset if found.error is None else None

    def _end(self, level: Level) -> int | None:
        where = TopicPartition(level.topic, level.partition)
        try:
            self._ends.list_topics(level.topic, ANSWER_SECONDS)
            found = self._ends.get_watermark_offsets(where, ANSWER_SECONDS)
        except KafkaException:
            return None
        return found[1] if found else None


_LEVELS = """
SELECT p.topic, p.partition, p.next_offset, p.published_offset,
    (SELECT count(*) FROM processor.outbox o WHERE o.progress_id = p.id)
FROM processor.progress p WHERE p.superseded_at IS NULL ORDER BY p.topic, p.partition
"""
_HANDLED = """
SELECT coalesce(sum(handled + dead_lettered + skipped), 0)::bigint FROM processor.progress
WHERE topic = ANY (%s)
"""
