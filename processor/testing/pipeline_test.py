"""Drive a pipeline in memory: what a user's test of handlers says, and what it can ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from sqlalchemy import MetaData, Table

from processor.engine.steps import Step
from processor.message import Topic
from processor.pipeline import Pipeline
from processor.testing.crashes import crash_of
from processor.testing.declared import REAL, tables_of
from processor.testing.postgres import UnknownStatement
from processor.testing.results import (
    DeadLetter,
    Halted,
    OutputRecord,
    PipelineTestError,
    Sent,
    dead_letter_of,
    output_of,
)
from processor.testing.rows import inserted
from processor.testing.values import Given, as_bytes, encoded, headers_of, partition_of
from processor.testing.world import WAITS, World


class PipelineTest:
    """A pipeline with a Kafka and a Postgres of its own, in memory and in virtual time.

    :meth:`send` puts a message into an input topic. Whatever asks for results first runs the
    engine until nothing is left to be done; waits, those after ``Retry`` for example, cost no time.

    A partition that has stopped makes :meth:`outputs`, :meth:`rows` and :meth:`dead_letters`
    raise, unless the test has asked for :meth:`halted` before: what is missing then is not to be
    taken for what the handlers did.

    :param tables: those that the handlers write; the pipeline's own unless given.
    :param partitions: of each topic: a number for all, or one by topic (1 where none is given).
    :param seed: of all chance in this world; the same seed goes the same way.
    :param settings: of the worker, such as ``batch_max_messages=1``.
    :raises PipelineTestError: for a table that cannot be held in memory, or no such setting.

    >>> with PipelineTest(pipeline) as test:                            # doctest: +SKIP
    ...     test.send("events", {"event_type": "purchase", "user_id": 1, "amount": 9.5})
    ...     assert len(test.rows(purchases)) == 1
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        tables: MetaData | Iterable[Table] | None = None,
        partitions: int | Mapping[str, int] = 1,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        pipeline.validate()
        self._pipeline = pipeline
        topics = {**pipeline.routes, **pipeline.outputs}
        if isinstance(partitions, int):
            partitions = dict.fromkeys(topics, partitions)
        for name in partitions:
            self._known(name, topics, "topic")
        self._partitions = partitions
        self._tables = tables_of(pipeline.tables if tables is None else tables)
        self._world = World(pipeline, self._tables, partitions, seed, settings)
        self._keyless = 0
        self._is_at_rest = False
        self._expected: set[tuple[str, int, int, str]] = set()

    def __enter__(self) -> PipelineTest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left of it: no thread, no task. To be called again does no harm."""
        self._world.close()

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
        :param timestamp: milliseconds since the epoch; :attr:`now` unless given.
        :param partition: by the key, as Kafka's clients choose it, unless given; in turn without.
        :raises PipelineTestError: for a topic that is no input, or a partition that it lacks.
        """
        self._world.require_open()
        name = topic.name if isinstance(topic, Topic) else topic
        self._known(name, self._pipeline.routes, "input")
        written = encoded(self._pipeline.routes[name].topic, value)
        key = as_bytes(key)
        number = self._number(name, key, partition)
        if timestamp is None:
            timestamp = round(self.now.timestamp() * 1_000)
        self._is_at_rest = False
        offset = self._world.broker.append(
            name, number, written, key, headers_of(headers), timestamp
        )
        return Sent(name, number, offset)

    def insert(self, table: Table, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Put a row, or several, into a table, as the test's own transaction.

        :raises PipelineTestError: for a table that is not there.
        :raises psycopg.Error: for a row that it refuses.
        """
        self._world.require_open()
        self._held(table)
        inserted(self._world.server, table, [rows] if isinstance(rows, Mapping) else rows)
        self._heed_failures()

    def crash_at(self, step: Step | str, edge: str = "before", *, visit: int = 1) -> None:
        """The worker dies there, as by ``kill -9``, and another one takes over.

        To be followed by what makes it pass there; what does not is an error of the test.

        :param step: a :class:`~processor.engine.steps.Step` or its name, ``"commit"`` for example.
        :param edge: ``before`` (nothing was sent), ``inside`` (the call is under way), ``after``.
        :param visit: the how manieth time from now on.
        """
        self._world.crash = crash_of(step, edge, visit)
        self._is_at_rest = False

    def crash(self) -> None:
        """The worker dies now, between two batches, and another one takes over."""
        self._world.kill()
        self._is_at_rest = False

    def resume(self, topic: str | None = None, partition: int | None = None) -> None:
        """What ``processor resume`` does: halted partitions try the message at H again.

        :raises PipelineTestError: when none has halted.
        """
        self.run()
        halted = [
            each.partition
            for each in self._world.standing()
            if each.state == "halted"
            and topic in (None, each.partition.topic)
            and partition in (None, each.partition.number)
        ]
        if not halted:
            raise PipelineTestError("there is nothing to resume: no such partition has halted")
        self._world.resume(halted)
        self._is_at_rest = False

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._world.advance(seconds)
        self._heed_failures()
        self._is_at_rest = False

    def run(self) -> None:
        """Run the engine until nothing is left to be done; results do so by themselves.

        :raises PipelineTestError: when that cannot be, or a crash that was asked for did not come.
        """
        if not self._is_at_rest:
            self._world.rest()
            self._heed_failures()
            crash, self._world.crash = self._world.crash, None
            if crash is not None:
                raise PipelineTestError(
                    f"the worker did not come to {crash}, where it was to crash;"
                    " what was sent after crash_at takes another way"
                )
            self._is_at_rest = True

    # What can be asked

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC; it begins on 2026-01-01."""
        return self._world.now()

    def outputs(self, topic: str | Topic) -> list[OutputRecord]:
        """The records that a consumer of an output topic gets, by partition, in their order.

        :raises PipelineTestError: for a topic that is none of the pipeline's outputs.
        """
        name = topic.name if isinstance(topic, Topic) else topic
        self._known(name, self._pipeline.outputs, "output")
        self._results()
        codec = self._pipeline.outputs[name].codec
        return [output_of(each, codec) for each in self._world.broker.visible(name)]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """The committed rows of a table, in the order of their insertion.

        :raises PipelineTestError: for a table that is not there.
        """
        name = self._held(table)
        self._results()
        return self._world.server.committed(name)

    def dead_letters(self) -> list[DeadLetter]:
        """The messages that were given up, in the order in which they were."""
        self._results()
        return [dead_letter_of(row) for row in self._world.server.committed("dead_letters")]

    def halted(self) -> list[Halted]:
        """The partitions that have stopped, and why; from now on that is expected."""
        self.run()
        halted = self._halted()
        self._expected |= {_known_by(each) for each in halted}
        return halted

    # Inside

    def _results(self) -> None:
        """:raises PipelineTestError: when a partition has stopped and nobody has asked for it."""
        self.run()
        surprises = [each for each in self._halted() if _known_by(each) not in self._expected]
        if surprises:
            told = "; ".join(map(str, surprises))
            raise PipelineTestError(f"{told} (where that is expected, ask halted() first)")

    def _halted(self) -> list[Halted]:
        return [
            Halted(
                topic=each.partition.topic,
                partition=each.partition.number,
                offset=self._world.h(each.partition),
                reason=each.reason or "",
                detail=each.detail or "",
                remedy=each.remedy,
                waits=each.reason in WAITS,
            )
            for each in self._world.standing()
        ]

    def _heed_failures(self) -> None:
        """:raises PipelineTestError: when the fakes could not do what was asked of them."""
        for error in self._world.server.failures:
            if isinstance(error, UnknownStatement):
                raise PipelineTestError(
                    f"the in-memory database does not know {error}; {REAL}"
                ) from error
            raise PipelineTestError(
                f"the in-memory database cannot do this ({type(error).__name__}: {error}); {REAL}"
            ) from error
        for error in self._world.broker.failures:
            raise error

    def _number(self, topic: str, key: bytes | None, partition: int | None) -> int:
        count = self._partitions.get(topic, 1)
        if partition is not None:
            if not 0 <= partition < count:
                raise PipelineTestError(
                    f"topic {topic!r} has {count} partitions and no {partition};"
                    f" PipelineTest(pipeline, partitions={partition + 1})"
                )
            return partition
        if key is not None:
            return partition_of(key, count)
        self._keyless += 1
        return (self._keyless - 1) % count

    def _known(self, topic: str, topics: Mapping[str, object], kind: str) -> None:
        if topic not in topics:
            names = ", ".join(map(repr, topics)) or "none"
            raise PipelineTestError(
                f"topic {topic!r} is no {kind} of pipeline {self._pipeline.name!r}; it has: {names}"
            )

    def _held(self, table: Table) -> str:
        """Its name in the database."""
        if not any(each is table for each in self._tables):
            names = ", ".join(each.fullname for each in self._tables) or "none"
            raise PipelineTestError(
                f"table {table.fullname!r} is not in the database, which has: {names};"
                " name it: PipelineTest(pipeline, tables=metadata)"
            )
        return table.fullname.removeprefix("public.")


def _known_by(each: Halted) -> tuple[str, int, int, str]:
    return each.topic, each.partition, each.offset, each.reason
