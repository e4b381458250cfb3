"""Faults of the servers: restarts, crashes and stops of brokers and of Postgres."""

from __future__ import annotations

from functools import partial
from random import Random

from tests.faults.chaos.nemesis import Heal, Nemesis, nothing
from tests.faults.chaos.stage import Stage

PAUSE_SECONDS = 2.0


def _node(stage: Stage, rng: Random) -> int:
    return rng.randrange(len(stage.stack.kafka.nodes))


def kill_broker(stage: Stage, rng: Random) -> Heal:
    number = _node(stage, rng)
    stage.stack.kafka.kill(number)
    return partial(stage.stack.kafka.restart, number)


def stop_broker(stage: Stage, rng: Random) -> Heal:
    number = _node(stage, rng)
    stage.stack.kafka.pause(number)
    return partial(stage.stack.kafka.resume, number)


def restart_brokers(stage: Stage, rng: Random) -> Heal:
    """In an orderly way, one after the other."""
    kafka = stage.stack.kafka
    for number in range(len(kafka.nodes)):
        kafka.restart(number)
        if number < len(kafka.nodes) - 1:
            stage.stopping.wait(PAUSE_SECONDS)
    return nothing


def kill_postgres(stage: Stage, rng: Random) -> Heal:
    stage.stack.postgres.kill()
    return stage.stack.postgres.start


def restart_postgres(stage: Stage, rng: Random) -> Heal:
    stage.stack.postgres.restart()
    return nothing


def stop_postgres(stage: Stage, rng: Random) -> Heal:
    stage.stack.postgres.pause()
    return stage.stack.postgres.resume


POSTGRES = [
    Nemesis("Postgres killed", kill_postgres, (0.0, 2.0), 1.5, "Postgres"),
    Nemesis("Postgres restarted", restart_postgres, weight=1.5, touches="Postgres"),
    Nemesis("Postgres stopped", stop_postgres, (0.3, 6.0), 0.7, "Postgres"),
]
BROKER = [
    Nemesis("broker killed", kill_broker, (0.0, 1.0), 0.7, "Kafka"),
    Nemesis("broker restarted", restart_brokers, weight=0.4, touches="Kafka"),
    Nemesis("broker stopped", stop_broker, (0.3, 6.0), 0.7, "Kafka"),
]
"""Of a cluster of one node: all is away until it is back."""
CLUSTER = [
    Nemesis("one of three brokers killed", kill_broker, (0.5, 6.0), 4, "Kafka"),
    Nemesis("brokers restarted in turn", restart_brokers, weight=1.5, touches="Kafka"),
    Nemesis("one of three brokers stopped", stop_broker, (0.5, 8.0), 3, "Kafka"),
]
