"""One seed: real workers over fakes of Kafka and Postgres, faults, calm, and the audit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache, partial
from typing import Any
from unittest import mock

import msgspec
from pydantic import SecretStr

from processor.engine import assembly, batches, handling, locked_rows, pace
from processor.engine import worker as worker_module
from processor.engine.assembly import Slot, assemble
from processor.engine.batch import Partition
from processor.engine.cluster import Cluster
from processor.engine.database import Database, application_name
from processor.engine.register import Report
from processor.engine.steps import Edge, Step, Steps
from processor.engine.watchdog import Watchdog
from processor.errors import Exit, ProcessorError
from processor.settings import Database as DatabaseSettings
from processor.settings import Kafka as KafkaSettings
from processor.settings import Settings
from processor.testing.kafka.broker import Broker
from processor.testing.kafka.clients import SimulatedClients
from processor.testing.kafka.log import Draft
from processor.testing.network import Fate, Network, Request
from processor.testing.postgres import Server, State
from processor.testing.scheduler import OUTSIDE, Clock, Killed, Process, Scheduler, Task
from tests.simulation import pipeline as simulated
from tests.simulation.audit import Audit
from tests.simulation.pipeline import INPUT, OUTPUT, PARTITIONS_OUT, Act, pipeline
from tests.simulation.plan import CALM_SECONDS, AimedFault, Arrival, Plan, TimedFault, draw
from tests.simulation.timeline import Timeline, Told

GROUP = "simulation"
INSTANCE = "host"
SESSION_SECONDS = 3.0
TRANSACTION_SECONDS = 10.0
RESTART_SECONDS = 0.3
IDLE_SECONDS = 0.4
"""How long a worker waits for messages: longer than in earnest, because each turn costs."""
LOOK_SECONDS = 0.25
CROWDED = {
    "ENOUGH_SECONDS": 0.0,
    "ENOUGH_MESSAGES": 2,
    "FEW_SECONDS": 0.0,
    "FEW_MESSAGES": 1,
}
FIRST_TIME = 1_000_000
"""Of the messages' own times (milliseconds)."""
STANDBY_SECONDS = 1.0
WAKE_SECONDS = 0.05
OTHERS_TAKE_OVER_SECONDS = SESSION_SECONDS + 0.5
REST_SECONDS = 120.0
"""How long it may take after the last fault until everything is at rest."""
NO_FATE: tuple[float, tuple[Fate, ...]] = (0.0, ())


@dataclass(frozen=True, slots=True)
class Halted:
    """A partition has stopped, and says why."""

    partition: Partition
    reason: str
    detail: str
    has_cause: bool
    """Something that has happened by then is one."""

    def __str__(self) -> str:
        return f"{self.partition} halts: {self.reason}: {self.detail}"


class Observed(Told):
    """Also keeps the halts, of which there must be none without a cause."""

    def __init__(self, timeline: Timeline, who: str, halts: list[Halted], causes: set[str]) -> None:
        super().__init__(timeline, who)
        self._halts = halts
        self._causes = causes

    def entered(self, report: Report) -> None:
        super().entered(report)
        if report.state == "halted":
            reason, detail = str(report.reason), str(report.detail)
            has_cause = reason in self._causes
            self._halts.append(Halted(report.partition, reason, detail, has_cause))


class WatchedBroker(Broker):
    """Says when a K may have moved."""

    watch: Callable[[], None]

    def mark_group(self, group: str, producer_id: int, commit: bool) -> None:
        super().mark_group(group, producer_id, commit)
        self.watch()


class Failover(Enum):
    """From a primary to its synchronous standby."""

    NONE = auto()
    ARMED = auto()
    """The next COMMIT is the one."""
    AWAY = auto()
    """The standby is away: no COMMIT is answered."""


@dataclass(slots=True)
class Place:
    """A slot: its process comes and goes."""

    number: int
    process: Process = OUTSIDE
    task: Task | None = None
    stopping: bool = False
    start_at: float = 0.0
    visits: dict[tuple[Step, Edge], int] = field(default_factory=dict)
    aimed: dict[tuple[Step, Edge], list[AimedFault]] = field(default_factory=dict)
    """Of the plan, those that are aimed at it."""

    def end(self) -> None:
        self.stopping = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    plan: Plan
    violations: tuple[str, ...]
    seconds: float
    """Virtual."""
    messages: int
    switches: int
    timeline: str


@cache
def settings(batch: int, overlap: int) -> Settings:
    """They look at the environment, which takes longer than a request or two."""
    return Settings(
        kafka=KafkaSettings(
            session_timeout_seconds=SESSION_SECONDS,
            transaction_timeout_seconds=TRANSACTION_SECONDS,
        ),
        database=DatabaseSettings(url=SecretStr("postgresql://simulated/")),
        group_id=GROUP,
        instance=INSTANCE,
        batch_max_messages=batch,
        batch_max_seconds=0.5,
        batch_overlap_min_messages=overlap,
        halt_recheck_seconds=2.0,
        topic_check_seconds=3.0,
    )


class Simulation:
    """The world of one seed. Not to be used twice."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.plan = draw(seed, simulated.DEEDS)
        self.time = Scheduler(seed)
        self.network = Network(self.time)
        self.timeline = Timeline(self.time, trace)
        self.broker = WatchedBroker(self.time)
        self.server = Server(self.time, self.network)
        self.broker.create_topic(INPUT, self.plan.partitions)
        self.broker.create_topic(OUTPUT, PARTITIONS_OUT)
        for table in simulated.metadata.sorted_tables:
            self.server.create_table(table)
        taken = self.server.connect(autocommit=True)
        taken.execute("INSERT INTO once (n) VALUES (%s)", (simulated.TAKEN,))
        taken.close()
        self.places = [Place(number) for number in range(self.plan.slots)]
        for fault in self.plan.aimed:
            aimed = self.places[fault.slot].aimed
            aimed.setdefault((fault.step, fault.edge), []).append(fault)
        self.audit = Audit(self.broker, self.server, self.plan.partitions, GROUP)
        self.broker.watch = self.audit.sample
        self.server.standby = self._committed
        self.pipeline = pipeline
        self.halts: list[Halted] = []
        self.may_halt: set[str] = set()
        """The reasons that something has given."""
        self.bugs: list[str] = []
        self.settings = settings(self.plan.batch, self.plan.overlap)
        self._left = len(self.plan.arrivals)
        self._to_come = sum(each.kind == "restore" for each in self.plan.timed)
        self._calm = False
        self._over = False
        self._at_rest = False
        self._failover = Failover.NONE
        self._restore_at: float | None = None
        self._restore_armed = False
        self._tokens: dict[int, str] = {}
        self.network.late = lambda _: self.time.random.uniform(0.0, 1.5)
        self.network.held_seconds = lambda: STANDBY_SECONDS

    def run(self) -> Outcome:
        """From the first message to rest, a drain and the audit."""
        with self._own_chance():
            simulated.begin(self.time.pause)
            self._schedule()
            self.time.run(lambda: self._at_rest, CALM_SECONDS + REST_SECONDS)
            violations = [str(each) for each in self.halts if not each.has_cause]
            violations += self.bugs
            if not self._at_rest:
                violations.append(f"not at rest: {self.audit.state()}")
            self._over = True
            for place in self.places:
                place.end()
            if not self.time.run(self._ended, self.time.now() + 60):
                violations.append("the drain does not end")
            if not self.time.run(self.broker.settled, self.time.now() + 60):
                violations.append("a transaction is left open")
            failures = [*self.server.failures, *self.broker.failures]
            violations += [f"a fake failed: {error!r}" for error in failures]
            violations += self.audit.violations(self._halted())
            return self._outcome(violations)

    def _outcome(self, violations: list[str]) -> Outcome:
        return Outcome(
            self.plan,
            tuple(violations),
            self.time.now(),
            self.audit.messages,
            self.time.switches,
            str(self.timeline),
        )

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """The engine's tokens and jitter follow from the seed as well."""
        chance = random.Random(self.plan.seed)

        def token_hex(count: int) -> str:
            return chance.randbytes(count).hex()

        patches = [
            (assembly, "token_hex", token_hex),
            (locked_rows, "token_hex", token_hex),
            (batches.random, "uniform", chance.uniform),
            (worker_module, "IDLE_SECONDS", IDLE_SECONDS),
            (handling, "FEW_ROWS", self.plan.few_rows),
        ]
        if self.plan.is_crowded:
            patches += [(pace, name, value) for name, value in CROWDED.items()]
        with ExitStack() as stack:
            for each in patches:
                stack.enter_context(mock.patch.object(*each))
            yield

    # What happens when

    def _schedule(self) -> None:
        later = self.time.later
        for arrival in self.plan.arrivals:
            later(arrival.at, partial(self._arrive, arrival))
        for fault in self.plan.timed:
            later(fault.at, partial(self._inflict, fault))
        later(CALM_SECONDS, self._calm_down)
        self.network.fates = self._fate
        for place in self.places:
            place.start_at = self.time.random.uniform(0, 0.5)
        self._supervise()

    def _arrive(self, arrival: Arrival) -> None:
        self._left -= 1
        drafts = [
            self._draft(Act(self.audit.next_number(), deed, 1 + number % 2))
            for number, deed in enumerate(arrival.deeds)
        ]
        offsets = self._append(arrival, drafts)
        if arrival.transaction != "aborted":
            self.audit.arrived(arrival.partition, offsets, drafts)
        if self.timeline.on:
            self.timeline.add("producer", f"{INPUT}/{arrival.partition}: {arrival}")

    def _draft(self, act: Act) -> Draft:
        """Some have a key, some headers, each a time of its own: all of it is to arrive."""
        key = b"%d" % (act.n % 4) if act.n % 3 else None
        headers = [("about", b"%d" % act.n), ("about", b"")] if act.n % 2 else []
        return self.broker.draft(key, msgspec.json.encode(act), headers, FIRST_TIME + act.n)

    def _append(self, arrival: Arrival, drafts: list[Draft]) -> list[int]:
        if arrival.transaction == "none":
            return [self.broker.append(INPUT, arrival.partition, *_parts(d)) for d in drafts]
        first = self.broker.log(INPUT, arrival.partition).end
        commit = arrival.transaction == "committed"
        self.broker.append_transaction(INPUT, arrival.partition, drafts, commit)
        return list(range(first, first + len(drafts)))

    def _inflict(self, fault: TimedFault) -> None:
        self.timeline.add("fault", str(fault))
        place = self.places[fault.slot]
        later, process = self.time.later, place.process
        if fault.kind == "kill":
            process.kill()
        elif fault.kind == "stop":
            self._stop(process, fault.seconds)
        elif fault.kind.startswith("cut-"):
            pair = (process.name, fault.kind.removeprefix("cut-"))
            self.network.cut.add(pair)
            later(fault.seconds, partial(self.network.cut.discard, pair))
        elif fault.kind == "postgres":
            self.server.kill()
            later(fault.seconds, self.server.restart)
        elif fault.kind == "kafka":
            self.broker.restart(fault.seconds)
        elif fault.kind == "failover":
            self._failover = Failover.ARMED
        elif fault.kind == "restore":
            self._plan_restore(fault.seconds)
        elif fault.kind == "recreate":
            self.may_halt.add("topic-recreated")
            more = int(self.time.random.random() < 0.4)
            self.audit.recreated()
            self.broker.recreate_topic(INPUT, self.time.random.random() < 0.5, more)
        else:
            place.end()
            place.start_at = self.time.now() + fault.seconds

    def _stop(self, process: Process, seconds: float) -> None:
        process.stopped_until = self.time.now() + seconds
        self._aim_restore(process.stopped_until)

    def _plan_restore(self, seconds: float) -> None:
        """Half of them aim: at the state right after the next renewal of a token, to come back just
        before a process that stands still, now or soon, goes on with what it had in hand.
        """
        if self.time.random.random() < 0.5:
            self.time.later(seconds, partial(self._restore, self.server.snapshot()))
            return
        self._restore_armed = True
        for place in self.places:
            if place.process.alive:
                self._aim_restore(place.process.stopped_until)

    def _aim_restore(self, wakes: float) -> None:
        """A process stands still until then."""
        if self._restore_armed and wakes > self.time.now() + OTHERS_TAKE_OVER_SECONDS:
            self._restore_armed = False
            self._restore_at = wakes - WAKE_SECONDS
            self._tokens = self._tokens_now()

    def _keep_for_restore(self) -> None:
        """A token was renewed: this is the state, if one is looked for."""
        at, self._restore_at = self._restore_at, None
        if at is not None:
            after = max(0.01, at - self.time.now())
            self.time.later(after, partial(self._restore, self.server.snapshot()))

    def _restore(self, state: State) -> None:
        """Back to an older state, as after a failover to a lagging replica; half of them behind a
        connection pooler, which keeps up the connections that no transaction uses.
        """
        self.timeline.add("fault", "the database is restored")
        # Under an intent it is the second one: design, row 8.
        self.may_halt |= {"database-history-lost", "foreign-offsets"}
        self._to_come -= 1
        self.audit.restored()
        self.server.restore(state, keeps_idle=self.time.random.random() < 0.5)

    def _fail_over(self) -> None:
        """The primary comes back from a crash in the middle of a COMMIT, which its synchronous
        standby has not seen; a moment later the standby takes over. Nobody was told of a COMMIT
        in between.
        """
        self.timeline.add("fault", "the primary restarts, the standby is away")
        self._failover = Failover.AWAY
        state = self.server.snapshot()
        self.time.later(STANDBY_SECONDS / 10, self.server.restart)
        self.time.later(STANDBY_SECONDS, partial(self._promote, state))

    def _promote(self, state: State) -> None:
        self.timeline.add("fault", "the standby is promoted")
        self._failover = Failover.NONE
        self.audit.failed_over()
        self.server.restore(state)

    def _calm_down(self) -> None:
        self._calm = True
        if self._restore_armed or self._restore_at is not None:
            self._restore_armed = False
            self._restore_at = self._restore_at or self.time.now()
            self._keep_for_restore()  # nobody stood still, or no token was renewed meanwhile
        self.network.cut.clear()
        self.time.later(LOOK_SECONDS, self._look)
        self.timeline.add("fault", "no more faults")

    def _fate(self, request: Request) -> Fate:
        if self._failover is not Failover.NONE and request.name == "COMMIT":
            if self._failover is Failover.AWAY:
                return Fate.HELD
            self._fail_over()
            return Fate.REPLY_LOST
        rate, fates = self.plan.fates.get(request.name, NO_FATE)
        if self._calm or request.process is OUTSIDE or self.time.random.random() >= rate:
            fate = Fate.ARRIVES
        else:
            fate = self.time.random.choice(fates)
        if self.timeline.on:
            told = "" if fate is Fate.ARRIVES else f": {fate.name}"
            self.timeline.add(request.process.name, f"{request.server} {request.name}{told}")
        return fate

    # Processes

    def _supervise(self) -> None:
        """Start what is to run and does not, again and again."""
        now = self.time.now()
        for place in self.places:
            task = place.task
            if task is not None and task.done():
                self._ended_with(place, task)
                place.task = task = None
                place.stopping = False
                place.start_at = max(place.start_at, now + RESTART_SECONDS)
            if task is None and now >= place.start_at and not self._over:
                self._start(place)
        self.time.later(RESTART_SECONDS, self._supervise)

    def _start(self, place: Place) -> None:
        place.process = Process(f"worker-{place.number}")
        place.task = self.time.spawn(place.process, partial(self._work, place, place.process))
        self.timeline.add(place.process.name, "starts")

    def _ended_with(self, place: Place, task: Task) -> None:
        error = task.error
        self.timeline.add(place.process.name, f"ends: {error!r}" if error else "ends")
        if error is not None and not isinstance(error, (Killed, ProcessorError)):
            self.bugs.append(f"{place.process.name} ended by {error!r}")

    def _work(self, place: Place, process: Process) -> Exit:
        told = Observed(self.timeline, process.name, self.halts, self.may_halt)
        steps = Steps(Watchdog(), told, partial(self._at_edge, place, process))
        slot = Slot(GROUP, INSTANCE, place.number)
        name = application_name(GROUP, str(slot))
        database = Database(
            self.settings.database, name, "READ COMMITTED", steps, self.server.connect
        )
        clients = SimulatedClients(self.broker, self.network, self.settings.kafka, GROUP, str(slot))
        cluster = Cluster(clients.admin, GROUP, steps)
        worker = assemble(
            self.pipeline,
            self.settings,
            slot,
            told,
            lambda: place.stopping,
            steps,
            database,
            clients,
            cluster,
            self.broker.cluster_id,
            {OUTPUT: 1_000_000},
            {},
            Clock(self.time),
        )
        return worker.run(_no_beat)

    def _halted(self) -> set[int]:
        return {each.partition.number for each in self.halts if each.has_cause}

    def _committed(self) -> None:
        """Postgres has committed something."""
        self.audit.sample()
        if self._restore_at is not None and self._tokens_now() != self._tokens:
            self._keep_for_restore()

    def _tokens_now(self) -> dict[int, str]:
        return {row["id"]: row["token"] for row in self.server.committed("progress")}

    def _at_edge(self, place: Place, process: Process, step: Step, edge: Edge) -> None:
        """A fault that is aimed at this edge befalls the process here."""
        faults = place.aimed.get((step, edge))
        if faults is None:
            return
        visit = place.visits[step, edge] = place.visits.get((step, edge), 0) + 1
        for fault in faults:
            if fault.visit == visit and not self._calm:
                self._befall(fault, process)

    def _befall(self, fault: AimedFault, process: Process) -> None:
        self.timeline.add("fault", str(fault))
        if fault.kind == "kill":
            process.kill()
        elif fault.kind == "stop":
            self._stop(process, fault.seconds)
        self.time.pause(fault.seconds if fault.kind == "stall" else 0.0)

    # The end

    def _look(self) -> None:
        """Whether everything has arrived and taken effect, and nothing moves any more."""
        self._at_rest = not self._left and not self._to_come and self.audit.at_rest(self._halted())
        if not self._at_rest:
            self.time.later(LOOK_SECONDS, self._look)

    def _ended(self) -> bool:
        return all(place.task is None or place.task.done() for place in self.places)


def _parts(draft: Draft) -> tuple[Any, ...]:
    return draft.value, draft.key, draft.headers, draft.timestamp


def _no_beat() -> None:
    """Nobody watches the loop here."""


def simulate(seed: int, trace: bool = False) -> Outcome:
    """Run one seed; the same seed always goes the same way."""
    return Simulation(seed, trace).run()
