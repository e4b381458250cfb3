"""A consumer client that plays a script, for the logic around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import TopicPartition

from tests.support.messages import Raw

Turn = Sequence[Raw] | Callable[[], Sequence[Raw]]
"""What one ``consume`` brings; a function is run inside it, as callbacks are."""


class ScriptedConsumer:
    """Implements what :class:`processor.engine.consumer.Consumer` calls, and writes it down."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.asked: list[tuple[int, float]] = []
        self.fetched: set[tuple[str, int]] = set()
        """What is assigned to the client, by the application."""
        self.paused: set[tuple[str, int]] = set()
        self.placed: list[tuple[str, int, int, int | None]] = []
        """Where partitions were assigned or sought to."""
        self.refused: Exception | None = None
        self.generation = 0
        self.snapshots = 0
        self.inside_callback = False
        self.closed = False
        self.on_assign: Any = None
        self.on_revoke: Any = None
        self.on_lost: Any = None

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.topics = topics
        self.on_assign, self.on_revoke, self.on_lost = on_assign, on_revoke, on_lost

    def consume(self, count: int, timeout: float) -> list[Raw]:
        self.asked.append((count, timeout))
        if not self.turns:
            return []
        turn = self.turns.pop(0)
        messages = list(turn() if callable(turn) else turn)
        assert len(messages) <= count, "the script brings more than was asked for"
        return messages

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.unassign()
        self.incremental_assign(partitions)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        added = {(each.topic, each.partition) for each in partitions}
        assert not added & self.fetched, f"{added & self.fetched} is assigned twice"
        self.fetched |= added
        self.placed += [(t.topic, t.partition, t.offset, t.leader_epoch) for t in partitions]

    def unassign(self) -> None:
        self.fetched.clear()

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self.fetched -= self._known(partitions)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= self._known(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= self._known(partitions)

    def seek(self, target: TopicPartition) -> None:
        if self.refused is not None:
            raise self.refused
        [(topic, number)] = self._known([target])
        self.placed.append((topic, number, target.offset, target.leader_epoch))

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> list[Any]:
        return []

    def consumer_group_metadata(self) -> str:
        """Fresh metadata passes the broker's fence: only a callback may ask for it."""
        assert self.inside_callback, "group metadata was asked for outside of an assignment"
        self.snapshots += 1
        return f"generation {self.generation}"

    def close(self) -> None:
        self.closed = True

    # The group's side: run inside ``consume``, as a turn

    def assigns(self, *numbers: int, then: Sequence[Raw] = ()) -> Callable[[], Sequence[Raw]]:
        return lambda: self._call("on_assign", numbers, then)

    def revokes(self, *numbers: int, then: Sequence[Raw] = ()) -> Callable[[], Sequence[Raw]]:
        return lambda: self._call("on_revoke", numbers, then)

    def loses(self, *numbers: int, then: Sequence[Raw] = ()) -> Callable[[], Sequence[Raw]]:
        return lambda: self._call("on_lost", numbers, then)

    def _call(self, name: str, numbers: Sequence[int], then: Sequence[Raw]) -> Sequence[Raw]:
        self.generation += 1
        self.inside_callback = True
        getattr(self, name)(self, [TopicPartition("input", number) for number in numbers])
        self.inside_callback = False
        return then

    def _known(self, partitions: list[TopicPartition]) -> set[tuple[str, int]]:
        found = {(each.topic, each.partition) for each in partitions}
        assert found <= self.fetched, f"{found - self.fetched} is not assigned"
        return found
