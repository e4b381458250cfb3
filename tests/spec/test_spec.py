"""The protocol's specification holds, and TLC finds what is wrong without a guard."""

from __future__ import annotations

import pytest

from spec.check import check, check_without, config_without, guards
from spec.story import parse, told

SECONDS = 100.0


def test_the_small_model_holds() -> None:
    result = check("small", seconds=SECONDS)

    assert result.holds, told(result.output)
    assert result.distinct > 5_000


@pytest.mark.parametrize(
    ("guard", "invariant"),
    [
        ("EndAfterCommit", "OutputsMatch"),
        ("RetireAfterDoubt", "OutputsMatch"),
        ("StableK", "OutputsOnceInOrder"),
        ("WatchRow", "liveness"),
    ],
)
def test_without_a_guard_there_is_a_counterexample(guard: str, invariant: str) -> None:
    result = check_without(guard, seconds=SECONDS)

    assert (result.holds, result.violated) == (False, invariant)
    assert len(told(result.output).splitlines()) == result.length - 1


def test_every_guard_is_taken_out_alone() -> None:
    assert len({name.split("-")[0] for name in guards()}) == 19
    for name in guards():
        config = config_without(name)
        assert f"    {name.split('-')[0]} = FALSE" in config
        assert config.count("= FALSE") == 1


def test_values_are_read_as_tlc_prints_them() -> None:
    text = '[a |-> <<1, -1>>,\n  b |-> {"x"}, c |-> [d |-> TRUE, e |-> <<>>]]'

    assert parse(text) == {"a": [1, -1], "b": ["x"], "c": {"d": True, "e": []}}
