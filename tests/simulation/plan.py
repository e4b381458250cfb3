"""What a seed stands for: the messages, the workers, and the faults with their times.

Each seed draws its own subset of the kinds of faults ("swarm testing": Groce et al., ISSTA 2012):
runs with everything at once hardly get anywhere, and rarely meet what two kinds do together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from processor.engine.steps import Edge, Step
from processor.testing.network import Fate

KAFKA_REQUESTS = (
    "Produce",
    "AddOffsetsToTxn",
    "TxnOffsetCommit",
    "EndTxn",
    "InitProducerId",
    "OffsetFetch",
    "ListOffsets",
    "Fetch",
)
TRANSACTION_REQUESTS = ("Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")
EDGES: tuple[Edge, ...] = ("before", "inside", "after")
KINDS = (
    "kill",
    "stop",
    "stall",
    "fates",
    "cut",
    "postgres",
    "kafka",
    "scale",
)
RARE_KINDS = ("failover", "restore", "recreate")
"""At most one of them in a run, and most runs have none."""
TIMED = {
    "kill": (4, 2.0),
    "stop": (3, 20.0),
    "cut": (3, 12.0),
    "postgres": (3, 3.0),
    "kafka": (2, 3.0),
    "scale": (3, 4.0),
    "failover": (1, 1.0),
    "restore": (1, 4.0),
    "recreate": (1, 1.0),
}
"""How many of a kind a run may have, and how long each lasts (seconds)."""
BATCH_STEPS = (
    Step.HANDLE,
    Step.BEGIN,
    Step.FLUSH,
    Step.STORE,
    Step.COMMIT,
    Step.SEND,
    Step.SEND_OFFSETS,
    Step.END,
)
"""A batch's way; half of the aimed faults befall it there."""
NEVER = 1_000
"""More messages than there are."""
CALM_SECONDS = 12.0
"""No new fault after that."""


@dataclass(frozen=True, slots=True)
class AimedFault:
    """At the n-th visit of a step's edge by one slot."""

    kind: str
    """kill, stop or stall."""
    slot: int
    step: Step
    edge: Edge
    visit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TimedFault:
    """At a time, whatever happens then."""

    at: float
    kind: str
    """kill, stop, cut-kafka, cut-postgres, postgres, kafka, scale, failover, restore, recreate."""
    slot: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """Messages that are appended to one partition at a time."""

    at: float
    partition: int
    deeds: tuple[str, ...]
    transaction: str
    """none, committed, aborted: of the one who produces them."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    partitions: int
    slots: int
    kinds: frozenset[str]
    arrivals: tuple[Arrival, ...]
    aimed: tuple[AimedFault, ...]
    timed: tuple[TimedFault, ...]
    fates: dict[str, tuple[float, tuple[Fate, ...]]]
    """Of each request by its name: how often something befalls it, and what."""
    batch: int
    overlap: int
    """From how many messages on a batch takes effect in the background."""
    few_rows: int
    """Up to how many its writes go in one round trip; more are copied."""
    is_crowded: bool
    """Partitions that have a few messages in hand are fetched no further for a while."""
    deeds: Sequence[str]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.slots} workers, {self.partitions} partitions, "
            f"{sum(len(a.deeds) for a in self.arrivals)} messages, "
            f"faults: {', '.join(sorted(self.kinds)) or 'none'}"
        ]
        lines += [f"  {each}" for each in (*self.aimed, *self.timed)]
        lines += [f"  {name}: {fate}" for name, fate in self.fates.items()]
        return "\n".join(lines)


def draw(seed: int, deeds: Sequence[str]) -> Plan:
    """The plan of a seed."""
    random = Random(seed)
    kinds = frozenset(kind for kind in KINDS if random.random() < 0.35)
    if random.random() < 0.2:
        kinds |= {random.choice(RARE_KINDS)}
    slots = random.choice((2, 2, 2, 3))
    partitions = random.choice((1, 2, 2, 3))
    if "restore" in kinds and random.random() < 0.3:
        return _late_writer(seed, random, deeds)
    if "fates" in kinds and random.random() < 0.08:
        return _late_look_up(seed, random, deeds)
    return Plan(
        seed=seed,
        partitions=partitions,
        slots=slots,
        kinds=kinds,
        arrivals=_arrivals(random, partitions, deeds),
        aimed=_aimed(random, kinds, slots),
        timed=_timed(random, kinds, slots),
        fates=_fates(random) if "fates" in kinds else {},
        batch=random.choice((1, 2, 3, 10, 100)),
        overlap=random.choice((1, 1, 2, NEVER)),
        few_rows=random.choice((0, 1, 32)),
        is_crowded=random.random() < 0.5,
        deeds=deeds,
    )


def _late_writer(seed: int, random: Random, deeds: Sequence[str]) -> Plan:
    """A batch is in hand, its worker stands still, another one does the same, and the database goes
    back to before that: what chance alone hardly ever puts together.
    """
    burst = tuple(random.choice(deeds) for _ in range(random.randint(1, 4)))
    step = random.choice((Step.BEGIN, Step.HANDLE, Step.FLUSH, Step.STORE))
    stop = AimedFault("stop", random.randrange(2), step, random.choice(EDGES), 1, 12.0)
    return Plan(
        seed=seed,
        partitions=1,
        slots=2,
        kinds=frozenset({"stop", "restore"}),
        arrivals=(Arrival(2.0, 0, burst, "none"),),
        aimed=(stop,),
        timed=(TimedFault(1.5, "restore", 0, 1.0),),
        fates={},
        batch=10,
        overlap=random.choice((1, NEVER)),
        few_rows=random.choice((0, 32)),
        is_crowded=False,
        deeds=deeds,
    )


def _late_look_up(seed: int, random: Random, deeds: Sequence[str]) -> Plan:
    """Partitions change hands under load, and where their logs end is answered late."""
    kill = (
        TimedFault(random.uniform(1.0, 5.0), "kill", random.randrange(2), 0.1) for _ in range(3)
    )
    bursts = (
        Arrival(random.uniform(0.0, 7.0), random.randrange(2), ("write",) * 3, "none")
        for _ in range(30)
    )
    return Plan(
        seed=seed,
        partitions=2,
        slots=2,
        kinds=frozenset({"fates", "kill"}),
        arrivals=tuple(sorted(bursts, key=lambda each: each.at)),
        aimed=(),
        timed=tuple(sorted(kill, key=lambda each: each.at)),
        fates={"ListOffsets": (0.6, (Fate.LATE, Fate.SLOW))},
        batch=random.choice((2, 10, 100)),
        overlap=random.choice((1, NEVER)),
        few_rows=random.choice((0, 32)),
        is_crowded=random.random() < 0.5,
        deeds=deeds,
    )


def _arrivals(random: Random, partitions: int, deeds: Sequence[str]) -> tuple[Arrival, ...]:
    simple = random.random() < 0.4
    found = []
    crowd = random.uniform(1.0, CALM_SECONDS - 2.0)
    busy = random.random() < 0.4
    for _ in range(random.randint(20, 50) if busy else random.randint(6, 24)):
        transaction = "none" if simple else random.choice(("none", "none", "committed", "aborted"))
        count = random.choice((1, 1, 1, 2, 5))
        chosen = tuple(random.choice(deeds) for _ in range(count))
        at = random.uniform(crowd, crowd + 2.0) if busy else random.uniform(0.0, CALM_SECONDS + 1.0)
        found.append(Arrival(at, random.randrange(partitions), chosen, transaction))
    return tuple(sorted(found, key=lambda each: each.at))


def _aimed(random: Random, kinds: frozenset[str], slots: int) -> tuple[AimedFault, ...]:
    found = []
    for kind in ("kill", "stop", "stall"):
        if kind not in kinds:
            continue
        for _ in range(random.randint(1, 4)):
            found.append(
                AimedFault(
                    kind,
                    random.randrange(slots),
                    random.choice(random.choice((BATCH_STEPS, list(Step)))),
                    random.choice(EDGES),
                    random.randint(1, 8),
                    random.choice((0.2, 1.5, random.uniform(2.5, 5.0), 12.0, 25.0)),
                )
            )
    return tuple(found)


def _timed(random: Random, kinds: frozenset[str], slots: int) -> tuple[TimedFault, ...]:
    found = []
    for kind, (most, longest) in TIMED.items():
        if kind not in kinds:
            continue
        told = random.choice(("cut-kafka", "cut-postgres")) if kind == "cut" else kind
        for _ in range(random.randint(1, most)):
            at = random.uniform(0.2, CALM_SECONDS)
            seconds = random.uniform(0.1, longest)
            found.append(TimedFault(at, told, random.randrange(slots), seconds))
    return tuple(sorted(found, key=lambda each: each.at))


def _fates(random: Random) -> dict[str, tuple[float, tuple[Fate, ...]]]:
    rate = random.choice((0.01, 0.03, 0.1, 0.3))
    if random.random() < 0.4:
        return dict.fromkeys(TRANSACTION_REQUESTS, (rate, (Fate.STRAY,)))
    bad = (Fate.LOST, Fate.REPLY_LOST, Fate.STRAY, Fate.LATE, Fate.SLOW)
    names = random.sample((*KAFKA_REQUESTS, "COMMIT", "CONNECT", "STORE"), random.randint(1, 5))
    return {name: (rate, tuple(random.sample(bad, random.randint(1, 3)))) for name in names}
