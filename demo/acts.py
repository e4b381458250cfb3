"""The acts, one after another: what is started, who is killed, when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import psycopg
from confluent_kafka import KafkaException

from demo.blows import Blows
from demo.numbers import Reader
from demo.plan import make_plan
from demo.stage import PARTITIONS, Stage
from demo.story import Act, Mood, Story
from demo.traffic import Traffic
from demo.workers import Workers
from devstack import StackError
from pipelines.user_events.audit import Verdict, audit
from processor.errors import ProcessorError

TICK_SECONDS = 0.2
BLAME_SECONDS = 1.0
START_SECONDS = 60.0
CATCH_UP_SECONDS = 120.0
LATE_SECONDS = 60.0
"""How much longer than planned the killing may take until all blows have met a worker."""

PATIENCE_SHARE = 0.25
"""Of the time for killing, that may be waited for recoveries in addition."""

BACKLOG_SECONDS = 4.0
"""Of the rate: with more events than that waiting, the traffic is held."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    seconds: float = 45.0
    workers: int = 2
    kills_at_least: int = 10
    rate: float = 2_000.0
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """What both stores say, what the producer says, and what it was despite."""

    verdict: Verdict
    delivered: int
    kills: int


def play(stage: Stage, story: Story, options: Options) -> Outcome:
    """All acts; the stage is left with Kafka and Postgres running, and no processor.

    :raises StackError: when a part fails, or when not all events were processed in time.
    """
    try:
        story.enter(Act.STACK)
        stage.start_stack()
        story.enter(Act.TABLES)
        stage.create_tables_and_topics()
        return _Acts(stage, story, options).play()
    except (psycopg.Error, KafkaException, TimeoutError, ProcessorError) as error:
        _blame(stage)
        raise StackError(f"{type(error).__name__}: {error}".strip()) from error


def _blame(stage: Stage) -> None:
    """A part that has ended is the better explanation; it may take a moment to be seen."""
    deadline = time.monotonic() + BLAME_SECONDS
    while time.monotonic() < deadline:
        stage.check()
        time.sleep(TICK_SECONDS)


class _Acts:
    """Those that watch the numbers."""

    def __init__(self, stage: Stage, story: Story, options: Options) -> None:
        self._stage = stage
        self._story = story
        self._options = options
        self._traffic: Traffic | None = None
        self._workers = Workers(stage.log)
        self._reader = Reader(stage.stack.postgres.url)

    def play(self) -> Outcome:
        self._start_workers()
        traffic = self._traffic = self._stage.start_traffic(self._options.rate)
        self._kill()
        self._catch_up(traffic)
        self._drain()
        self._reader.close()
        self._story.enter(Act.VERDICT)
        servers = self._stage.stack.kafka.bootstrap_servers
        verdict = audit(servers, self._stage.stack.postgres.url, progress=self._show)
        self._story.finished = True
        return Outcome(verdict, traffic.delivered, self._story.kills)

    def _start_workers(self) -> None:
        self._story.enter(Act.WORKERS)
        self._stage.start_processor()
        self._watch_until(self._all_at_work, START_SECONDS, "starting the workers")

    def _all_at_work(self) -> bool:
        """Each worker has its share: the first to come has all partitions for a moment."""
        numbers = self._story.numbers
        slots = {each.slot for each in numbers.partitions.values()}
        return numbers.running == PARTITIONS and len(slots) == min(
            self._options.workers, PARTITIONS
        )

    def _kill(self) -> None:
        options, story = self._options, self._story
        random = Random()
        plan = make_plan(options.seconds, options.kills_at_least, random)
        story.enter(Act.TRAFFIC)
        patience = options.seconds * PATIENCE_SHARE
        names, service = self._workers.name, self._stage.service
        blows = Blows(plan, service, random, names, story.tell, self._struck, patience)
        end = time.monotonic() + options.seconds

        def over() -> bool:
            blows.strike(overcome=not story.recovering)
            story.kills, story.frozen = blows.kills, blows.frozen
            return blows.over and time.monotonic() >= end

        self._watch_until(over, options.seconds + LATE_SECONDS, "killing workers")

    def _struck(self, pid: int, killed: bool) -> None:
        slot = self._workers.slot(pid)
        if slot is not None:
            self._workers.republished[slot] = 0
            self._story.struck(slot, self._reader.read(), killed=killed)

    def _catch_up(self, traffic: Traffic) -> None:
        self._story.enter(Act.CATCH_UP)
        traffic.stop()
        story = self._story
        self._watch_until(
            lambda: story.numbers.done >= traffic.delivered, CATCH_UP_SECONDS, "catching up"
        )
        story.tell(Mood.NEWS, f"all {traffic.delivered:,} events are processed")

    def _drain(self) -> None:
        self._story.enter(Act.DRAIN)
        self._stage.drain()
        self._workers.clear()
        self._look()
        self._story.tell(Mood.NEWS, f"the workers left in order, {self._story.act_elapsed:.1f} s")

    def _watch_until(self, over: Callable[[], bool], seconds: float, what: str) -> None:
        """Looks a few times a second; StackError when a part ends, or the time does."""
        deadline = time.monotonic() + seconds
        self._look()
        while not over():
            if time.monotonic() > deadline:
                raise StackError(self._unfinished(what, seconds))
            time.sleep(TICK_SECONDS)
            self._look()

    def _look(self) -> None:
        self._stage.check()
        self._workers.look()
        numbers, produced = self._reader.read(), 0
        if self._traffic is not None:
            self._traffic.check()
            produced = self._traffic.delivered
            self._traffic.hold = produced - numbers.done > BACKLOG_SECONDS * self._options.rate
        self._story.saw(produced, numbers, list(self._workers))
        self._story.look_for_recovery(self._workers.republished)

    def _unfinished(self, what: str, seconds: float) -> str:
        story = self._story
        lines = [
            f"{what} was not done within {seconds:.0f} s: {story.lag:,} of {story.produced:,}"
            f" events are left, {story.numbers.running} of {PARTITIONS} partitions run",
            *story.numbers.troubles,
        ]
        return "\n".join(lines) + self._stage.service.child.log_tail()

    def _show(self, detail: str) -> None:
        self._story.detail = detail
