"""Phases of a campaign: faults while numbers flow, then rest, then the audit of both stores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from devstack import StackError
from devstack.waiting import wait_until
from tests.faults.chaos import aimed, late, networks, servers, workers
from tests.faults.chaos.audit import Verdict, audit
from tests.faults.chaos.failover import fail_over
from tests.faults.chaos.nemesis import Nemesis
from tests.faults.chaos.offsets import Offsets
from tests.faults.chaos.pipeline import NUMBERS
from tests.faults.chaos.pulse import Pulse, Recovery, Stall
from tests.faults.chaos.sampler import Sampler
from tests.faults.chaos.schedule import Schedule
from tests.faults.chaos.stage import Stage
from tests.faults.chaos.states import states
from tests.faults.chaos.traffic import Traffic

PARTITIONS = 12
WORKERS = 3
START_SECONDS = 120.0
WARM_UP_SECONDS = 2.0
REST_SECONDS = 600.0
TELL_SECONDS = 10.0
FAILOVER = "failover to a lagging replica"

Tell = Callable[[str], None]

COMMON = [*workers.KINDS, *aimed.KINDS, *networks.KINDS, *servers.POSTGRES, *late.KINDS]


@dataclass(frozen=True, slots=True)
class Phase:
    """Faults of some kinds, on a cluster of some size, for some time."""

    name: str
    nodes: int
    kinds: Sequence[Nemesis]
    seconds: float
    rate: float
    gap_seconds: float
    failover: bool = False
    """Whether it ends with that episode."""


def phases(seconds: float, rate: float, gap_seconds: float) -> list[Phase]:
    """Most of the time on one broker, which is cheaper; then on three."""
    single, cluster = 0.7 * seconds, 0.3 * seconds
    return [
        Phase(
            "one broker",
            1,
            [*COMMON, *servers.BROKER],
            single,
            rate,
            gap_seconds,
            failover=True,
        ),
        Phase(
            "three brokers, min.insync.replicas 2",
            3,
            [*COMMON, *servers.CLUSTER],
            cluster,
            rate / 2,
            gap_seconds,
        ),
    ]


@dataclass(slots=True)
class Result:
    """What came of one phase."""

    phase: Phase
    verdict: Verdict
    faults: list[str]
    recoveries: list[Recovery]
    longest: Stall
    samples: int
    ends: Counter[str]
    """How worker processes ended that nobody had killed."""
    seconds: float
    problems: list[str] = field(default_factory=list)
    """What must not be, beside violations: a partition that halted, an end that was not reached."""
    halted_after_seconds: float | None = None
    """Of the failover to a lagging replica: all partitions."""

    @property
    def fine(self) -> bool:
        return not (self.problems or self.verdict.violations or self.verdict.miscounted)


def run(phase: Phase, seed: int, tell: Tell, logs: Path | None = None) -> Result:
    """One phase, on a stage of its own.

    :param logs: where the logs are copied to.
    :raises UnauditableError: when nothing can be said of it.
    """
    with Stage(phase.nodes, PARTITIONS, WORKERS) as stage:
        try:
            return Run(stage, phase, seed, tell).result()
        finally:
            if logs is not None:
                stage.keep_logs(logs)


class Run:
    """One phase on a stage that is set up."""

    def __init__(self, stage: Stage, phase: Phase, seed: int, tell: Tell) -> None:
        self._stage, self._phase, self._tell = stage, phase, tell
        servers = stage.stack.kafka.bootstrap_servers
        stage.start_all()
        self._wait_running()
        self._pulse = Pulse(stage.url)
        self._sampler = Sampler(stage.url, servers)
        self._schedule = Schedule(
            stage,
            phase.kinds,
            seed,
            phase.gap_seconds,
            self._pulse.mended,
            self._pulse.all_recovered,
        )
        self._traffic = Traffic(servers, stage.partitions, phase.rate, lambda: self._pulse.handled)
        self._pulse.ends = self._traffic.ends
        self._offsets = Offsets(servers)
        self._told = time.monotonic()
        self._halted_after: float | None = None

    def result(self) -> Result:
        began = time.monotonic()
        try:
            time.sleep(WARM_UP_SECONDS)
            self._schedule.run(self._phase.seconds, self._tick)
            problems = [f"halted: {line}" for line in self._stage.halts()]
            if self._phase.failover:
                self._fail_over()
            self._traffic.stop()
            problems += self._rest()
            codes = self._stage.drain()
            seconds = time.monotonic() - began
        finally:
            self._stage.stopping.set()
            self._traffic.abandon()
            for watcher in (self._pulse, self._sampler):
                watcher.stop()
        problems += [f"{name} drained with {code}" for name, code in codes.items() if code]
        if any(codes.values()):
            problems += self._stage.standing
        return self._audited(problems, seconds)

    def _wait_running(self) -> None:
        def all_run() -> bool:
            found = states(self._stage.url)
            running = [each.slot for each in found if each.state == "running"]
            return len(running) == self._stage.partitions and len(set(running)) == WORKERS

        wait_until(all_run, START_SECONDS, "all workers to run partitions")

    def _tick(self) -> None:
        self._stage.check()
        self._traffic.check()
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            done = self._schedule.done
            self._tell(
                f"{self._pulse.handled:,} of {self._traffic.delivered:,} messages,"
                f" {len(done)} faults of {len(set(done))} kinds,"
                f" longest stall {self._pulse.longest.seconds:.1f} s"
                f" (partition {self._pulse.longest.partition});"
                f" broken: {self._schedule.now()}"
            )

    def _fail_over(self) -> None:
        wait_until(self._pulse.all_recovered, REST_SECONDS, "all partitions to move")
        watchers = (self._pulse, self._sampler)
        for watcher in watchers:
            watcher.pause()
        self._halted_after = fail_over(self._stage, self._tell)
        for watcher in watchers:
            watcher.resume()
        self._schedule.done.append(FAILOVER)

    def _rest(self) -> list[str]:
        """Waits until everything is handled and published."""

        def all_done() -> bool:
            self._tick()
            return self._pulse.handled >= self._traffic.delivered

        try:
            wait_until(all_done, REST_SECONDS, "all messages to be handled")
            wait_until(self._is_at_rest, REST_SECONDS, "P = K = H = end everywhere")
        except StackError as error:
            return [str(error), *(str(state) for state in states(self._stage.url))]
        return []

    def _is_at_rest(self) -> bool:
        ends = self._offsets.ends(NUMBERS, range(self._stage.partitions))
        last = self._sampler.latest
        return len(ends) == self._stage.partitions and all(
            n in last and last[n].published == last[n].committed == last[n].next_offset == end
            for n, end in ends.items()
        )

    def _audited(self, problems: list[str], seconds: float) -> Result:
        stage, servers = self._stage, self._stage.stack.kafka.bootstrap_servers
        self._tell("reading both stores")
        ends = self._offsets.ends(NUMBERS, range(stage.partitions))
        verdict = audit(servers, stage.url, self._traffic.delivered, self._sampler.final(), ends)
        return Result(
            phase=self._phase,
            verdict=replace(verdict, violations=[*verdict.violations, *self._sampler.violations]),
            faults=self._schedule.done,
            recoveries=self._pulse.recoveries,
            longest=self._pulse.longest,
            samples=self._sampler.watch.judged,
            ends=stage.ends(),
            seconds=seconds,
            problems=problems,
            halted_after_seconds=self._halted_after,
        )
