"""Faults of connections: cut, reset, slow, open on one side only; to Kafka and to Postgres."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from devstack import Direction, Proxy
from tests.faults.chaos.nemesis import Heal, Nemesis, nothing
from tests.faults.chaos.stage import Stage

Which = Callable[[Stage, Random], Proxy]


def of_kafka(stage: Stage, rng: Random) -> Proxy:
    return rng.choice(stage.stack.kafka.proxies)


def of_postgres(stage: Stage, rng: Random) -> Proxy:
    return stage.proxy


def cut(which: Which, stage: Stage, rng: Random) -> Heal:
    proxy = which(stage, rng)
    proxy.cut()
    return proxy.restore


def reset(which: Which, stage: Stage, rng: Random) -> Heal:
    which(stage, rng).sever()
    return nothing


def delay(which: Which, longest_seconds: float, stage: Stage, rng: Random) -> Heal:
    proxy = which(stage, rng)
    proxy.delay(rng.uniform(0.01, longest_seconds))
    return proxy.restore


def half_open(which: Which, stage: Stage, rng: Random) -> Heal:
    """Connections stay open and nothing passes, one way or both; then all that was held arrives
    late, or the connections turn out to be dead."""
    proxy = which(stage, rng)
    ways = rng.choice([[Direction.TO_CLIENT], [Direction.TO_SERVER], list(Direction)])
    proxy.stall(*ways)
    is_dead = rng.random() < 0.5

    def heal() -> None:
        if is_dead:
            proxy.sever()
        proxy.restore()

    return heal


def kinds(name: str, which: Which, slowest_seconds: float) -> list[Nemesis]:
    touches = f"connections to {name}"
    return [
        Nemesis(f"{name} cut off", partial(cut, which), (0.2, 4.0), 2, touches),
        Nemesis(f"connections to {name} reset", partial(reset, which), weight=2, touches=touches),
        Nemesis(
            f"connections to {name} slow",
            partial(delay, which, slowest_seconds),
            (1.0, 5.0),
            1.5,
            touches,
        ),
        Nemesis(
            f"connections to {name} half open", partial(half_open, which), (0.5, 12.0), 1.5, touches
        ),
    ]


KINDS = [*kinds("Kafka", of_kafka, 0.3), *kinds("Postgres", of_postgres, 0.1)]
