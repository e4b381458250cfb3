"""How fast a group's committed offsets move: the same measure for whoever commits them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.cpu import cpu_seconds

POLL_SECONDS = 0.02
ANSWER_SECONDS = 5.0
START_SECONDS = 90.0
STALL_SECONDS = 30.0


class Counter(Protocol):
    """How many messages are done by now; None while that is unknown."""

    def __call__(self) -> int | None: ...


@dataclass(frozen=True)
class Moment:
    """When a count had just changed, and what processor time had been used by then."""

    seconds: float
    count: int
    cpu: Mapping[str, float]


@dataclass(frozen=True)
class Speed:
    """What was done between two moments."""

    messages: int
    seconds: float
    cpu: Mapping[str, float]
    """Processor seconds by who used them."""

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    def micros(self, who: str) -> float:
        """Processor time a message, in microseconds."""
        return self.cpu[who] * 1e6 / self.messages


class Committed:
    """The sum of a group's committed offsets on a topic that begins at 0.

    It asks as a consumer that never joins: librdkafka's admin client may crash when it asks for the
    offsets of a group whose coordinator is not there yet.
    """

    def __init__(self, servers: str, group: str, topic: str, partitions: int) -> None:
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._client = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "enable.auto.commit": False,
                # Else it would wait until no transaction is about to change them.
                "isolation.level": "read_uncommitted",
            }
        )

    def by_partition(self) -> dict[int, int]:
        """:raises KafkaException: when the coordinator does not answer."""
        found = self._client.committed(self._places, ANSWER_SECONDS)
        return {each.partition: each.offset for each in found if each.offset > 0}

    def __call__(self) -> int | None:
        try:
            return sum(self.by_partition().values())
        except KafkaException:
            return None

    def close(self) -> None:
        self._client.close()


class Gauge:
    """Watches a count, and what the processes (name: pid) use meanwhile."""

    def __init__(
        self, count: Counter, processes: Mapping[str, int], check: Callable[[], None]
    ) -> None:
        self._count = count
        self._processes = processes
        self._check = check

    def measure(self, warm_seconds: float, seconds: float, total: int) -> Speed:
        """Over ``seconds`` once it has run warm, or until all is done.

        :raises SystemExit: when it does not begin, or stands still: there is no figure then.
        """
        began = self._change(0, START_SECONDS)
        start = self._after(began.seconds + warm_seconds, began, total)
        end = self._after(start.seconds + seconds, start, total)
        if end.count == start.count:
            raise SystemExit(f"all was done within {warm_seconds:g} s: no figure; fill more")
        cpu = {who: end.cpu[who] - start.cpu[who] for who in end.cpu}
        return Speed(end.count - start.count, end.seconds - start.seconds, cpu)

    def _after(self, when: float, last: Moment, total: int) -> Moment:
        """The first change from a moment on, or the one that ended it all."""
        while last.seconds < when and last.count < total:
            last = self._change(last.count, STALL_SECONDS)
        return last

    def _change(self, before: int, patience: float) -> Moment:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self._check()
            count = self._count()
            if count is not None and count > before:
                cpu = {who: cpu_seconds(pid) for who, pid in self._processes.items()}
                return Moment(time.monotonic(), count, cpu)
            time.sleep(POLL_SECONDS)
        raise SystemExit(f"nothing was done for {patience:g} s: no figure")
