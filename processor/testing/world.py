"""A world in memory: one broker, one database, one worker process that comes back when it dies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from threading import get_ident
from typing import Any

from sqlalchemy import Table

from processor.engine.batch import Partition
from processor.engine.observer import NullObserver
from processor.engine.register import Report
from processor.engine.steps import Edge, Step, Steps
from processor.engine.watchdog import Watchdog
from processor.errors import Exit
from processor.pipeline import Pipeline
from processor.testing.chance import own_chance
from processor.testing.configured import settings_of
from processor.testing.crashes import Crash
from processor.testing.kafka.broker import Broker
from processor.testing.network import Network
from processor.testing.postgres import Server
from processor.testing.postgres.server import EPOCH
from processor.testing.results import PipelineTestError
from processor.testing.scheduler import Killed, Process, Scheduler, Task, Timer
from processor.testing.values import partition_of
from processor.testing.worker import run_worker

LOOK_SECONDS = 0.05
RESTART_SECONDS = 0.3
INSIDE_SECONDS = 0.003
"""A call of the engine takes about as long: it dies before, while or after it is served."""
REST_SECONDS = 120.0
RETRY_REST_SECONDS = 3 * 3_600.0
"""How long nothing may move (virtual seconds); longer where a message is to be tried again."""
WAITS = frozenset({"database-refused", "output-refused"})
"""Why a partition asks again and again: nothing in the world changes meanwhile."""

_RESUME = """
INSERT INTO processor.control (group_id, topic, partition, command, requested_by)
VALUES (%s, %s, %s, 'resume', 'a test')
"""


class Observed(NullObserver):
    """Keeps the last that each partition has told of itself."""

    def __init__(self) -> None:
        self.reports: dict[Partition, Report] = {}

    def entered(self, report: Report) -> None:
        self.reports[report.partition] = report

    def assigned(self, partitions: Collection[Partition]) -> None:
        """Told anew, of all of them."""
        self.reports = {each: at for each, at in self.reports.items() if each not in partitions}


@dataclass(slots=True)
class _Rest:
    """What was seen when the world was last looked at."""

    is_reached: bool = False
    levels: object = None
    moved_at: float = 0.0
    error: BaseException | None = field(default=None)


class World:
    """The engine of one pipeline, over fakes; it stands still between calls of :meth:`rest`."""

    def __init__(
        self,
        pipeline: Pipeline,
        tables: Collection[Table],
        partitions: Mapping[str, int],
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.pipeline = pipeline
        self.time = Scheduler(seed)
        self.network = Network(self.time)
        self.broker = Broker(self.time)
        self.broker.partition_of = partition_of
        self.broker.fetch_chunks = (1_000,)
        self.server = Server(self.time, self.network)
        for name in {**pipeline.routes, **pipeline.outputs}:
            self.broker.create_topic(name, partitions.get(name, 1))
        for table in tables:
            self.server.create_table(table)
        self.seen = Observed()
        self.crash: Crash | None = None
        self._settings = settings_of(settings)
        self._chance = Random(seed)  # noqa: S311
        self._inputs = [
            Partition(name, number)
            for name in pipeline.routes
            for number in range(partitions.get(name, 1))
        ]
        self._process = Process("worker")
        self._task: Task | None = None
        self._start_at = 0.0
        self._thread = get_ident()
        self._rest = _Rest()
        self._looking: Timer
        self._is_closed = False

    def now(self) -> datetime:
        """What ``now()`` is in the database, and the time of a message that is sent."""
        return EPOCH + timedelta(seconds=self.time.now())

    def rest(self) -> None:
        """Run until every message has taken effect in both stores, or its partition stands still.

        :raises PipelineTestError: when that does not happen.
        :raises Exception: with which the worker ended, if that was none of its own.
        """
        self._rest = _Rest(moved_at=self.time.now())
        self._run(None)
        if self._rest.error is not None:
            raise self._rest.error

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, with the worker at work."""
        self._rest = _Rest(moved_at=self.time.now() + seconds)
        self._run(seconds)
        if self._rest.error is not None:
            raise self._rest.error

    def kill(self) -> None:
        """``kill -9`` of the worker; another one starts when the world goes on."""
        self._process.kill()

    def resume(self, partitions: Collection[Partition]) -> None:
        """Ask the worker to try the message at H again, as ``processor resume`` does."""
        connection: Any = self.server.connect(autocommit=True)
        for each in partitions:
            self.seen.reports.pop(each, None)
            connection.execute(_RESUME, (self.pipeline.name, each.topic, each.number))
        connection.close()

    def close(self) -> None:
        """Nothing of the worker is left."""
        self._is_closed = True
        self._process.kill()
        with own_chance(self._chance):
            self.time.end_tasks()

    def h(self, partition: Partition) -> int:
        """Everything below it has taken effect in Postgres."""
        return next((h for at, (h, _) in self._progress() if at == partition), 0)

    def standing(self) -> list[Report]:
        """Of the partitions that go no further by themselves."""
        reports = self.seen.reports
        return [
            reports[each] for each in self._inputs if each in reports and _stands(reports[each])
        ]

    def require_open(self) -> None:
        """:raises PipelineTestError: when it is closed, or in another thread."""
        if self._is_closed:
            raise PipelineTestError("this PipelineTest is closed; make another one")
        if get_ident() != self._thread:
            raise PipelineTestError("a PipelineTest works in the thread alone that has made it")

    def _run(self, seconds: float | None) -> None:
        self.require_open()
        self._look(seconds is None)
        deadline = float("inf") if seconds is None else self.time.now() + seconds
        with own_chance(self._chance):
            self.time.run(lambda: self._rest.is_reached or self._has_failed(), deadline)
        self._looking.cancel()

    def _has_failed(self) -> bool:
        return bool(self._rest.error or self.server.failures or self.broker.failures)

    def _look(self, for_rest: bool) -> None:
        """Again and again: a worker that is gone comes back, and all may be done."""
        try:
            self._supervise()
            if for_rest:
                self._rest.is_reached = self._is_at_rest()
        except Exception as error:
            self._rest.error = error
        self._looking = self.time.later(LOOK_SECONDS, partial(self._look, for_rest))

    def _is_at_rest(self) -> bool:
        """P = K = H = the log's end everywhere, but for what stands still; no open transaction.

        :raises PipelineTestError: when nothing has moved for too long.
        """
        stands = {each.partition for each in self.standing()}
        levels = [(at, self.broker.log(*at).end, self._k(at), *hp) for at, hp in self._progress()]
        done = {at for at, *all_four in levels if len(set(all_four)) == 1}
        if self._task is not None and done | stands >= set(self._inputs) and self.broker.settled():
            return True
        now = self.time.now()
        if levels != self._rest.levels:
            self._rest.levels, self._rest.moved_at = levels, now
        states = {each.state for each in self.seen.reports.values()}
        patience = RETRY_REST_SECONDS if "backing-off" in states else REST_SECONDS
        if now - self._rest.moved_at > patience:
            told = ", ".join(
                f"{at}: log end {end}, K {k}, H {h}, P {p}" for at, end, k, h, p in levels
            )
            raise PipelineTestError(
                f"{self.pipeline.name!r} does not come to rest within {patience:g} virtual seconds:"
                f" {told or 'no partition was taken'}"
            )
        return False

    def _progress(self) -> list[tuple[Partition, tuple[int, int]]]:
        """H and P of each partition."""
        return [
            (
                Partition(row["topic"], row["partition"]),
                (row["next_offset"], row["published_offset"]),
            )
            for row in self.server.rows("progress")
        ]

    def _k(self, partition: Partition) -> int | None:
        found, is_pending = self.broker.committed(self.pipeline.name, *partition)
        return None if found is None or is_pending else found.offset

    # The worker's process

    def _supervise(self) -> None:
        """:raises Exception: with which it ended, if that was none of its own."""
        task, now = self._task, self.time.now()
        if task is not None and task.done():
            self._task, self._start_at = None, now + RESTART_SECONDS
            if task.error is not None and not isinstance(task.error, Killed):
                raise task.error
        elif task is None and now >= self._start_at:
            self._process = Process("worker")
            self._task = self.time.spawn(self._process, partial(self._work, self._process))

    def _work(self, process: Process) -> Exit:
        steps = Steps(Watchdog(), self.seen, partial(self._at_edge, process))
        return run_worker(
            self.pipeline,
            self._settings,
            self.broker,
            self.server,
            self.network,
            self.seen,
            steps,
        )

    def _at_edge(self, process: Process, step: Step, edge: Edge) -> None:
        if self.crash is None or not self.crash.is_due(step, edge):
            return
        self.crash = None
        if edge == "inside":
            self.time.later(self.time.random.uniform(0.0, INSIDE_SECONDS), process.kill)
        else:
            process.kill()
            self.time.pause(0.0)


def _stands(report: Report) -> bool:
    return report.state == "halted" or report.reason in WAITS
