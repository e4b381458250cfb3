"""The worlds that contracts of Kafka run over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.brokers import KafkaWorld
from tests.support.simulated_broker import SimulatedWorld
from tests.support.worlds import World, unique


@contextmanager
def make_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """``kafka`` or ``simulated``, by the fixture's parameter."""
    group = unique("contract")
    world: World
    if request.param == "kafka":
        kafka, admin = (request.getfixturevalue(name) for name in ("kafka", "admin"))
        world = KafkaWorld(kafka, admin, group)
    else:
        world = SimulatedWorld(group)
    yield world
    world.member.leave()
