"""A slice of the campaign: the families of faults on one broker, a lagging replica, the audit.

``make chaos`` has all kinds, three brokers, and more time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.chaos import aimed, late, networks, servers, workers
from tests.faults.chaos.campaign import FAILOVER, Phase, run
from tests.faults.chaos.report import complaints

SECONDS = 25.0
SEED = 7
KINDS = {
    "worker killed",
    "service killed",
    "scaled up and down",
    "rebalance storm",
    "clock jumped",
    "worker stopped at a step",
    "worker killed at a step",
    "Kafka cut off",
    "connections to Kafka half open",
    "connections to Postgres reset",
    "Postgres killed",
    "EndTxn sent again, original late",
}
FEWEST_KINDS = 5
"""How many there is time for depends on the machine."""


@pytest.mark.timeout(600)
def test_each_message_is_there_once_whatever_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    families = (workers, aimed, networks, late)
    kinds = [kind for family in families for kind in family.KINDS] + servers.POSTGRES
    phase = Phase(
        name="a slice",
        nodes=1,
        kinds=[kind for kind in kinds if kind.name in KINDS],
        seconds=SECONDS,
        rate=1_000,
        gap_seconds=0.3,
        failover=True,
    )
    assert {kind.name for kind in phase.kinds} == KINDS
    result = run(phase, SEED, telling(capsys), tmp_path)
    assert list(complaints(result)) == []
    assert result.fine
    assert result.verdict.messages > 10_000
    assert result.verdict.effects == result.verdict.outputs
    assert result.verdict.effects + result.verdict.dead_letters == result.verdict.messages
    assert result.samples > 50
    assert len(set(result.faults)) >= FEWEST_KINDS
    assert FAILOVER in result.faults


def telling(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"  {text}")

    return tell
