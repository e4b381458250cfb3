"""A slice of the campaign of bad messages; ``make poison`` has all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.poison.campaign import run
from tests.faults.poison.plan import Plan
from tests.faults.poison.report import complaints, sentence

MESSAGES, SEED = 6_000, 11


@pytest.mark.timeout(300)
def test_bad_messages_cost_themselves_alone_and_take_effect_once_when_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        MESSAGES,
        SEED,
        keys=24,
        steps=20,
        rate=600,
        redrive_rate=60,
        redrive_seconds=8,
        late_after=3,
    )

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"  {text}")

    result = run(plan, tell, tmp_path)
    assert list(complaints(result)) == [], tmp_path
    assert result.fine
    tell(sentence(result))
    assert result.set_aside.letters == result.states["replayed"] == MESSAGES // 100
    assert result.kills >= 5
    assert result.redriven.parked > 50
