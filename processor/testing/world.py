"""A world in memory: one broker, one database, one worker process that comes back when it dies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random
from threading import get_ident
from typing import Any

from confluent_kafka import Message
from sqlalchemy import Table

from processor.engine.batch import Partition
from processor.engine.steps import Edge, Step, Steps
from processor.engine.triggers import replays_topic
from processor.engine.watchdog import Watchdog
from processor.errors import Exit
from processor.pipeline import Pipeline
from processor.testing import memory
from processor.testing.chance import own_chance
from processor.testing.configured import settings_of
from processor.testing.crashes import Crash
from processor.testing.driver import Replacement
from processor.testing.kafka.broker import Broker
from processor.testing.network import Network
from processor.testing.observed import WAITS, Observed
from processor.testing.postgres import Server
from processor.testing.postgres.server import EPOCH
from processor.testing.results import Halted, PipelineTestError
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


@dataclass(slots=True)
class Seen:
    """What was seen when the world was last looked at."""

    moved_at: float = 0.0
    is_at_rest: bool = False
    levels: object = None
    error: BaseException | None = None


class World:
    """The engine of one pipeline, over fakes; it stands still unless it is told to go on.

    Implements :class:`processor.testing.driver.Stage`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tables: Collection[Table],
        partitions: Mapping[str, int],
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.time = Scheduler(seed)
        self.network = Network(self.time)
        self.broker = Broker(self.time)
        self.broker.partition_of = partition_of
        self.broker.fetch_chunks = (1_000,)
        self.server = Server(self.time, self.network)
        for name, count in partitions.items():
            self.broker.create_topic(name, count)
        for table in tables:
            self.server.create_table(table)
        self._pipeline = pipeline
        self._settings = settings_of(settings)
        self._chance = Random(seed)  # noqa: S311
        self._inputs = [
            Partition(name, number)
            for name in pipeline.routes
            for number in range(partitions[name])
        ]
        self._observed = Observed()
        self._crash: Crash | None = None
        self._process = Process("worker")
        self._task: Task | None = None
        self._start_at = 0.0
        self._seen = Seen()
        self._looking: Timer
        self._thread = get_ident()
        self._is_closed = False

    # What a test says

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int | None,
    ) -> int:
        self._changes()
        when = round(self.now().timestamp() * 1_000) if timestamp is None else timestamp
        return self.broker.append(topic, partition, value, key, headers, when)

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        self._changes()
        memory.insert(self.server, table, rows)
        memory.heed(self.server, self.broker)

    def crash(self) -> None:
        self._changes()
        self._process.kill()

    def arm(self, crash: Crash) -> None:
        """The worker is to die there."""
        self._changes()
        self._crash = crash

    def resume(self, partitions: Collection[tuple[str, int]]) -> None:
        self._changes()
        memory.resume(self.server, self._pipeline.name, partitions)
        self._observed.forget(partitions)

    def replay(self, letters: Sequence[int], replacement: Replacement | None) -> None:
        self._changes()
        self._trigger(memory.mark_pending(self.server, self._pipeline.name, letters, replacement))

    def discard(self, letters: Sequence[int]) -> None:
        self._changes()
        self._trigger(memory.discard(self.server, self._pipeline.name, letters))

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, with the worker at work."""
        self._changes()
        self._run(seconds)

    def close(self) -> None:
        self._is_closed = True
        self._process.kill()
        with own_chance(self._chance):
            self.time.end_tasks()

    # What it can be asked

    def now(self) -> datetime:
        """What ``now()`` is in the database, and the time of a message that is sent."""
        return EPOCH + timedelta(seconds=self.time.now())

    def records(self, topic: str) -> list[Message]:
        return self.broker.visible(topic)

    def rows(self, table: Table) -> list[dict[str, Any]]:
        return self.server.committed(table.fullname.removeprefix("public."))

    def letters(self) -> list[dict[str, Any]]:
        return self.server.committed("dead_letters")

    def standing(self) -> list[Halted]:
        h = {at: next_offset for at, next_offset, _ in self._progress()}
        return [
            Halted(
                topic=each.partition.topic,
                partition=each.partition.number,
                offset=h.get(each.partition, 0),
                reason=each.reason or "",
                detail=each.detail or "",
                remedy=each.remedy,
                waits=each.reason in WAITS,
            )
            for each in self._observed.standing()
        ]

    def settle(self) -> None:
        """Run until every message has taken effect in both stores, or its partition stands still.

        :raises PipelineTestError: when that does not happen, or a crash that was asked for.
        :raises BaseException: with which the worker ended, if that was none of its own.
        """
        self._require_open()
        if self._seen.is_at_rest:
            return
        self._run(None)
        crash, self._crash = self._crash, None
        if crash is not None:
            raise PipelineTestError(
                f"the worker did not come to {crash}, where it was to crash;"
                " what was sent after crash_at takes another way"
            )

    # How it goes on

    def _trigger(self, triggers: Sequence[tuple[bytes, bytes]]) -> None:
        """The topic of replays is made when it is first needed."""
        topic = replays_topic(self._pipeline.name)
        if topic not in self.broker.topics:
            self.broker.create_topic(topic, 1)
            self._inputs.append(Partition(topic, 0))
        for key, value in triggers:
            self.broker.append(topic, 0, value, key, (), round(self.now().timestamp() * 1_000))

    def _changes(self) -> None:
        """Something happens: it is not at rest."""
        self._require_open()
        self._seen = Seen(self.time.now())

    def _require_open(self) -> None:
        if self._is_closed:
            raise PipelineTestError("this PipelineTest is closed; make another one")
        if get_ident() != self._thread:
            raise PipelineTestError("a PipelineTest works in the thread alone that has made it")

    def _run(self, seconds: float | None) -> None:
        """:param seconds: for so long; until it is at rest unless given."""
        self._look(seconds is None)
        deadline = float("inf") if seconds is None else self.time.now() + seconds
        with own_chance(self._chance):
            self.time.run(lambda: self._seen.is_at_rest or self._has_failed(), deadline)
        self._looking.cancel()
        memory.heed(self.server, self.broker)
        if self._seen.error is not None:
            raise self._seen.error

    def _has_failed(self) -> bool:
        return bool(self._seen.error or self.server.failures or self.broker.failures)

    def _look(self, for_rest: bool) -> None:
        """Again and again: a worker that is gone comes back, and all may be done."""
        try:
            self._supervise()
            if for_rest:
                self._seen.is_at_rest = self._is_at_rest()
        except BaseException as error:
            self._seen.error = error
        self._looking = self.time.later(LOOK_SECONDS, partial(self._look, for_rest))

    def _is_at_rest(self) -> bool:
        """P = K = H = the log's end everywhere, but for what stands still; no open transaction.

        :raises PipelineTestError: when nothing has moved for too long.
        """
        levels = [
            (at, self.broker.log(*at).end, self._k(at), h, p) for at, h, p in self._progress()
        ]
        done = {at for at, *all_four in levels if len(set(all_four)) == 1}
        done |= {each.partition for each in self._observed.standing()}
        if self._task is not None and done >= set(self._inputs) and self.broker.settled():
            return True
        now = self.time.now()
        if levels != self._seen.levels:
            self._seen.levels, self._seen.moved_at = levels, now
        patience = RETRY_REST_SECONDS if self._observed.tries_again else REST_SECONDS
        if now - self._seen.moved_at > patience:
            raise PipelineTestError(
                f"{self._pipeline.name!r} does not come to rest within {patience:g} virtual"
                f" seconds: {memory.told(levels)}"
            )
        return False

    def _progress(self) -> list[tuple[Partition, int, int]]:
        """H and P of each partition."""
        return [
            (Partition(row["topic"], row["partition"]), row["next_offset"], row["published_offset"])
            for row in self.server.rows("progress")
        ]

    def _k(self, partition: Partition) -> int | None:
        found, is_pending = self.broker.committed(self._pipeline.name, *partition)
        return None if found is None or is_pending else found.offset

    # The worker's process

    def _supervise(self) -> None:
        """:raises BaseException: with which it ended, if that was none of its own."""
        task, now = self._task, self.time.now()
        if task is not None and task.done():
            self._task, self._start_at = None, now + RESTART_SECONDS
            if task.error is not None and not isinstance(task.error, Killed):
                raise task.error
        elif task is None and now >= self._start_at:
            self._process = Process("worker")
            self._task = self.time.spawn(self._process, partial(self._work, self._process))

    def _work(self, process: Process) -> Exit:
        steps = Steps(Watchdog(), self._observed, partial(self._at_edge, process))
        return run_worker(
            self._pipeline,
            self._settings,
            self.broker,
            self.server,
            self.network,
            self._observed,
            steps,
        )

    def _at_edge(self, process: Process, step: Step, edge: Edge) -> None:
        if self._crash is None or not self._crash.is_due(step, edge):
            return
        self._crash = None
        if edge == "inside":
            self.time.later(self.time.random.uniform(0.0, INSIDE_SECONDS), process.kill)
        else:
            process.kill()
            self.time.pause(0.0)
