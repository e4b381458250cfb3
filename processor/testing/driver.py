"""What a test says and asks, of a pipeline in memory and of one that runs on real servers alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from confluent_kafka import Message
from sqlalchemy import Table

from processor.message import Topic
from processor.pipeline import Pipeline
from processor.testing.results import (
    DeadLetter,
    Halted,
    OutputRecord,
    PipelineTestError,
    Sent,
    dead_letter_of,
    output_of,
)
from processor.testing.values import Given, as_bytes, encoded, headers_of, partition_of

D = TypeVar("D", bound="Driver")
UNCHANGED: Any = object()
Headers = Sequence[tuple[str, bytes | None]]


class Replacement(NamedTuple):
    """A value that a letter's message is handled with instead of its own."""

    value: bytes | None


class Stage(Protocol):
    """Both stores and a worker between them."""

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        timestamp: int | None,
    ) -> int:
        """A message of an input topic; its offset."""

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def crash(self) -> None:
        """``kill -9`` of the worker; another one starts."""

    def resume(self, partitions: Collection[tuple[str, int]]) -> None:
        """What ``processor resume`` does."""

    def replay(self, letters: Sequence[int], replacement: Replacement | None) -> None:
        """What ``processor dead-letters replay`` does."""

    def discard(self, letters: Sequence[int]) -> None:
        """What ``processor dead-letters discard`` does."""

    def settle(self) -> None:
        """Until nothing is left to be done.

        :raises PipelineTestError: when that does not happen.
        """

    def records(self, topic: str) -> list[Message]:
        """Of an output topic, partition by partition, in their order."""

    def rows(self, table: Table) -> list[dict[str, Any]]: ...

    def letters(self) -> list[dict[str, Any]]:
        """Rows of ``processor.dead_letters``, in the order of their insertion."""

    def standing(self) -> list[Halted]:
        """The partitions that go no further by themselves."""

    def close(self) -> None: ...


class Driver:
    """The questions and answers; where they go is the stage's."""

    def __init__(
        self,
        pipeline: Pipeline,
        tables: Collection[Table],
        partitions: Mapping[str, int],
        stage: Stage,
    ) -> None:
        self._pipeline = pipeline
        self._tables = tables
        self._partitions = partitions
        self._stage = stage
        self._keyless = 0
        self._expected: set[tuple[str, int, int, str]] = set()

    def __enter__(self: D) -> D:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left of it: no thread, no process. To be called again does no harm."""
        self._stage.close()

    # What happens

    def send(
        self,
        topic: str | Topic,
        value: Any,
        key: bytes | str | None = None,
        headers: Given = (),
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> Sent:
        """Put a message into an input topic.

        :param value: bytes and None as they are, text as UTF-8; all else, a Struct or a dictionary
            for example, by the topic's codec.
        :param timestamp: milliseconds since the epoch; the present unless given.
        :param partition: by the key, as Kafka's clients choose it, unless given; in turn without.
        :raises PipelineTestError: for a topic that is no input, or a partition that it lacks.
        """
        name = topic.name if isinstance(topic, Topic) else topic
        known(self._pipeline, name, self._pipeline.routes, "input")
        written = encoded(self._pipeline.routes[name].topic, value)
        key = as_bytes(key)
        number = self._number(name, key, partition)
        offset = self._stage.append(name, number, written, key, headers_of(headers), timestamp)
        return Sent(name, number, offset)

    def insert(self, table: Table, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Put a row, or several, into a table, as the test's own transaction.

        :raises PipelineTestError: for a table that is not there.
        :raises psycopg.Error: for a row that it refuses.
        """
        self._held(table)
        self._stage.insert(table, [rows] if isinstance(rows, Mapping) else rows)

    def crash(self) -> None:
        """The worker dies now, as by ``kill -9``, and another one takes over."""
        self._stage.crash()

    def resume(self, topic: str | None = None, partition: int | None = None) -> None:
        """What ``processor resume`` does: halted partitions try the message at H again.

        :raises PipelineTestError: when none has halted.
        """
        self.run()
        halted = [
            (each.topic, each.partition)
            for each in self._stage.standing()
            if not each.waits
            and topic in (None, each.topic)
            and partition in (None, each.partition)
        ]
        if not halted:
            raise PipelineTestError("there is nothing to resume: no such partition has halted")
        self._stage.resume(halted)

    def replay(self, *letters: DeadLetter, value: Any = UNCHANGED) -> None:
        """Have dead letters handled again, as ``processor dead-letters replay`` does.

        :param letters: all that have failed unless some are given.
        :param value: what the one letter is handled with instead of its own, as ``--edit`` has it;
            written as :meth:`send` would.
        :raises PipelineTestError: for a letter that has not failed, or none at all.
        """
        chosen = self._failed(letters, "replay")
        replacement = None
        if value is not UNCHANGED:
            if len(chosen) != 1:
                raise PipelineTestError("replay(value=…) takes one letter")
            topic = self._pipeline.routes[chosen[0].topic].topic
            replacement = Replacement(encoded(topic, value))
        self._stage.replay([each.id for each in chosen], replacement)

    def discard(self, *letters: DeadLetter) -> None:
        """Give dead letters up, as ``processor dead-letters discard`` does.

        What is parked behind them goes on.

        :param letters: all that have failed unless some are given.
        :raises PipelineTestError: for a letter that has not failed, or none at all.
        """
        self._stage.discard([each.id for each in self._failed(letters, "discard")])

    def run(self) -> None:
        """Until nothing is left to be done; whatever asks for results does so by itself.

        :raises PipelineTestError: when that does not happen.
        """
        self._stage.settle()

    # What can be asked

    def outputs(self, topic: str | Topic) -> list[OutputRecord]:
        """The records that a consumer of an output topic gets, by partition, in their order.

        :raises PipelineTestError: for a topic that is none of the pipeline's outputs.
        """
        name = topic.name if isinstance(topic, Topic) else topic
        known(self._pipeline, name, self._pipeline.outputs, "output")
        self._results()
        codec = self._pipeline.outputs[name].codec
        return [output_of(each, codec) for each in self._stage.records(name)]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """The committed rows of a table, in the order of their insertion.

        :raises PipelineTestError: for a table that is not there.
        """
        self._held(table)
        self._results()
        return self._stage.rows(table)

    def dead_letters(self) -> list[DeadLetter]:
        """The messages that were given up, in the order in which they were."""
        self._results()
        return [dead_letter_of(row) for row in self._stage.letters()]

    def halted(self) -> list[Halted]:
        """The partitions that have stopped, and why; from now on that is expected."""
        self.run()
        halted = self._stage.standing()
        self._expected |= {_known_by(each) for each in halted}
        return halted

    # Inside

    def _failed(self, letters: Sequence[DeadLetter], what: str) -> list[DeadLetter]:
        if not letters and not any(row["state"] == "failed" for row in self._stage.letters()):
            self.run()
        failed = [
            letter
            for row in self._stage.letters()
            if (letter := dead_letter_of(row)).state == "failed"
        ]
        numbers = {each.id for each in failed}
        for each in letters:
            if each.id not in numbers:
                place = f"{each.topic}/{each.partition} at {each.offset}"
                raise PipelineTestError(f"there is no failed dead letter of {place} to {what}")
        if not failed:
            raise PipelineTestError(f"there is no dead letter that has failed, none to {what}")
        return list(letters) or failed

    def _results(self) -> None:
        """:raises PipelineTestError: when a partition has stopped and nobody has asked for it."""
        self.run()
        halted = self._stage.standing()
        surprises = [each for each in halted if _known_by(each) not in self._expected]
        if surprises:
            told = "; ".join(map(str, surprises))
            raise PipelineTestError(f"{told} (where that is expected, ask halted() first)")

    def _number(self, topic: str, key: bytes | None, partition: int | None) -> int:
        count = self._partitions.get(topic, 1)
        if partition is not None:
            if not 0 <= partition < count:
                raise PipelineTestError(
                    f"topic {topic!r} has {count} partitions and no {partition};"
                    f" ask for more of them: partitions={partition + 1}"
                )
            return partition
        if key is not None:
            return partition_of(key, count)
        self._keyless += 1
        return (self._keyless - 1) % count

    def _held(self, table: Table) -> None:
        if not any(each is table for each in self._tables):
            names = ", ".join(each.fullname for each in self._tables) or "none"
            raise PipelineTestError(
                f"table {table.fullname!r} is not in the database, which has: {names};"
                " name it: tables=metadata"
            )


def known(pipeline: Pipeline, topic: str, topics: Collection[str], kind: str) -> None:
    """:raises PipelineTestError: for a topic that is none of these."""
    if topic not in topics:
        names = ", ".join(map(repr, topics)) or "none"
        raise PipelineTestError(
            f"topic {topic!r} is no {kind} of pipeline {pipeline.name!r}; it has: {names}"
        )


def counts(pipeline: Pipeline, partitions: int | Mapping[str, int]) -> dict[str, int]:
    """How many partitions each topic has, or is to have.

    :raises PipelineTestError: for a topic that is none of the pipeline's.
    """
    topics = dict.fromkeys([*pipeline.routes, *pipeline.outputs], 1)
    if isinstance(partitions, int):
        return dict.fromkeys(topics, partitions)
    for name in partitions:
        known(pipeline, name, topics, "topic")
    return {**topics, **partitions}


def _known_by(each: Halted) -> tuple[str, int, int, str]:
    return each.topic, each.partition, each.offset, each.reason
