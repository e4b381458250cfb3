"""A topic's first start, where not all of its partitions are at theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest import mock

import pytest

from processor.engine.steps import Step
from processor.testing.kafka.offsets import Offset
from tests.simulation import simulation as module
from tests.simulation.pipeline import INPUT
from tests.simulation.plan import NEVER, AimedFault, Arrival, Plan
from tests.simulation.simulation import GROUP, Simulation

AFTER_ITS_SESSION_SECONDS = 4.0


@contextmanager
def planned(partitions: int, *, killed: bool, arrivals: Sequence[Arrival] = ()) -> Iterator[None]:
    """One worker; killed when its second batch has committed in Postgres, not in Kafka."""
    aimed = (AimedFault("kill", 0, Step.END, "before", 2, 0.0),) if killed else ()

    def draw(seed: int, deeds: Sequence[str]) -> Plan:
        return Plan(
            seed=seed,
            partitions=partitions,
            slots=1,
            kinds=frozenset(),
            arrivals=tuple(arrivals),
            aimed=aimed,
            timed=(),
            fates={},
            batch=10,
            overlap=NEVER,
            few_rows=32,
            is_crowded=False,
            deeds=deeds,
        )

    with mock.patch.object(module, "draw", draw):
        yield


class Moved(Simulation):
    """When its worker is killed the topic is another one, with ``more`` partitions more."""

    more = 0

    def _befall(self, fault: AimedFault, process: module.Process) -> None:
        self.move()
        self.places[0].start_at = self.time.now() + AFTER_ITS_SESSION_SECONDS
        super()._befall(fault, process)

    def move(self) -> None:
        self.audit.recreated()
        self.broker.recreate_topic(INPUT, more=self.more)
        self._left += 1
        self.time.later(3.0, partial(self._arrive, Arrival(0, 0, ("write",), "none")))


class Elsewhere(Moved):
    """It is of another cluster, too."""

    def move(self) -> None:
        super().move()
        self.broker.cluster_id = "another"


def halts_of(world: type[Moved], more: int, **settings: object) -> set[tuple[int, str]]:
    arrivals = (Arrival(2.0, 0, ("write",) * 2, "none"), Arrival(5.0, 0, ("write",) * 3, "none"))
    with planned(1, killed=True, arrivals=arrivals):
        simulation = world(1)
        simulation.more = more
        simulation.settings = simulation.settings.model_copy(update=settings)
        simulation.may_halt |= {"topic-recreated", "cluster-changed"}
        outcome = simulation.run()
    assert not outcome.violations
    assert simulation.server.rows("outbox"), "what was not published is kept for a remedy"
    return {(each.partition.number, each.reason) for each in simulation.halts}


@pytest.mark.parametrize("start_from", ["earliest", "latest"])
@pytest.mark.parametrize("more", [0, 1])
def test_a_recreated_topic_with_a_partition_more_is_no_start(more: int, start_from: str) -> None:
    assert halts_of(Moved, more, start_from=start_from) == {(0, "topic-recreated")}


@pytest.mark.parametrize("more", [0, 1])
def test_another_cluster_with_a_partition_more_is_no_start(more: int) -> None:
    everything = {(number, "cluster-changed") for number in range(1 + more)}
    assert halts_of(Elsewhere, more) == everything


def by_a_tool() -> str:
    return ""


def by_us() -> str:
    return "processor:aaaa:bbbb"


@pytest.mark.parametrize(
    ("metadata", "reason"), [(by_a_tool, "foreign-offsets"), (by_us, "database-history-lost")]
)
def test_a_partition_that_has_a_k_does_not_start_with_the_others(
    metadata: Callable[[], str], reason: str
) -> None:
    with planned(2, killed=False):
        simulation = Simulation(1)
        simulation.settings = simulation.settings.model_copy(update={"start_from": "latest"})
        simulation.may_halt.add(reason)
        k = simulation.broker.group(GROUP).offsets.committed
        k[(INPUT, 0)] = Offset(0, metadata())
        outcome = simulation.run()
    assert not outcome.violations
    assert {(each.partition.number, each.reason) for each in simulation.halts} == {(0, reason)}
    assert [row["partition"] for row in simulation.server.rows("progress")] == [1]
