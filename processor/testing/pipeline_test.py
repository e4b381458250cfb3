"""A pipeline in memory: for tests of handlers that need neither Kafka nor Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import MetaData, Table

from processor.engine.steps import Step
from processor.pipeline import Pipeline
from processor.testing.crashes import crash_of
from processor.testing.declared import tables_of
from processor.testing.driver import Driver, counts
from processor.testing.world import World


class PipelineTest(Driver):
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
        numbers = counts(pipeline, partitions)
        held = tables_of(pipeline.tables if tables is None else tables)
        self._world = World(pipeline, held, numbers, seed, settings)
        super().__init__(pipeline, held, numbers, self._world)

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC; it begins on 2026-01-01."""
        return self._world.now()

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._world.advance(seconds)

    def crash_at(self, step: Step | str, edge: str = "before", *, visit: int = 1) -> None:
        """The worker dies there, as by ``kill -9``, and another one takes over.

        To be followed by what makes it pass there; what does not is an error of the test.

        :param step: a :class:`~processor.engine.steps.Step` or its name, ``"commit"`` for example;
            of the steps that a batch passes, the next batch's.
        :param edge: ``before`` (nothing was sent), ``inside`` (the call is under way), ``after``.
        :param visit: the how manieth time from now on.
        :raises PipelineTestError: for a step or an edge that there is not.
        """
        self._world.arm(crash_of(step, edge, visit))
