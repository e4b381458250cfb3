"""How faults are asked for, and when they fire."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor.engine.failures import DatabaseDoubt
from processor.engine.faults import ERRORS, Faults, Planned, from_environment, parse
from processor.engine.observer import NullObserver
from processor.engine.steps import Step, Steps
from processor.engine.watchdog import Watchdog
from processor.errors import ConfigurationError

RAISE = Planned(Step.STORE, "before", "raise")


def test_a_fault_is_read_from_its_text() -> None:
    assert parse("send-offsets.inside=stop:2.5@3") == Planned(
        Step.SEND_OFFSETS, "inside", "stop", 2.5, 3
    )
    assert parse("commit.after=raise") == Planned(Step.COMMIT, "after", "raise")
    assert parse("end.before=crash@7+") == Planned(Step.END, "before", "crash", visit=7, again=True)


@pytest.mark.parametrize(
    "text",
    ["", "commit", "commit.before", "nothing.before=crash", "commit.between=crash",
     "commit.before=explode", "commit.before=crash@0", "commit.before=crash+",
     "commit.before=stop:soon"],
)  # fmt: skip
def test_what_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"STEP\.EDGE=ACTION"):
        parse(text)


@pytest.mark.parametrize("action", ["raise", "stall"])
def test_inside_a_call_nothing_can_be_raised(action: str) -> None:
    with pytest.raises(ConfigurationError, match="only crash and stop"):
        parse(f"commit.inside={action}")


def test_without_the_variable_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCESSOR_FAULTS", raising=False)
    assert from_environment() is None


def test_the_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROCESSOR_FAULTS", "store.before=raise  end.after=raise")
    monkeypatch.setenv("PROCESSOR_FAULTS_FOLDER", str(tmp_path))
    faults = from_environment()
    assert faults is not None
    with pytest.raises(DatabaseDoubt, match="on purpose"):
        faults(Step.STORE, "before")
    assert [path.name for path in tmp_path.iterdir()] == ["store.before=raise"]


def test_a_folder_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR_FAULTS", "store.before=raise")
    monkeypatch.setenv("PROCESSOR_FAULTS_FOLDER", "/nowhere")
    with pytest.raises(ConfigurationError, match="no folder '/nowhere'"):
        from_environment()


def test_it_fires_once_at_its_visit() -> None:
    faults = Faults([Planned(Step.STORE, "after", "raise", visit=2)])
    faults(Step.STORE, "before")
    faults(Step.STORE, "after")
    with pytest.raises(DatabaseDoubt):
        faults(Step.STORE, "after")
    faults(Step.STORE, "after")


def test_in_a_folder_it_fires_once_for_all(tmp_path: Path) -> None:
    first, second = Faults([RAISE], tmp_path), Faults([RAISE], tmp_path)
    with pytest.raises(DatabaseDoubt):
        first(Step.STORE, "before")
    second(Step.STORE, "before")


def test_what_another_process_has_fired_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / RAISE.name).touch()
    faults = Faults([RAISE, Planned(Step.STORE, "before", "stall", 0.0)], tmp_path)
    faults(Step.STORE, "before")
    assert (tmp_path / "store.before=stall").exists()


def test_with_a_plus_it_fires_again_and_again() -> None:
    faults = Faults([parse("store.before=raise@2+")])
    for _ in range(3):
        faults(Step.STORE, "before")
        with pytest.raises(DatabaseDoubt):
            faults(Step.STORE, "before")


def test_with_a_plus_it_fires_whenever_its_file_was_taken_away(tmp_path: Path) -> None:
    planned = parse("store.before=raise@1+")
    faults, file = Faults([planned], tmp_path), tmp_path / planned.name
    file.touch()
    for _ in range(2):
        faults(Step.STORE, "before")
        file.unlink()
        with pytest.raises(DatabaseDoubt):
            faults(Step.STORE, "before")
        assert file.exists()


def test_every_step_knows_how_it_fails() -> None:
    assert set(ERRORS) == set(Step)
    for step, error in ERRORS.items():
        assert isinstance(error(step), Exception)


def test_a_step_tells_each_of_its_edges() -> None:
    told: list[tuple[str, str]] = []
    steps = Steps(Watchdog(), NullObserver(), lambda step, edge: told.append((step, edge)))
    with steps.step(Step.END):
        told.append(("the call", ""))
    assert told == [("end", "before"), ("end", "inside"), ("the call", ""), ("end", "after")]


def test_a_step_that_failed_is_not_told_as_done() -> None:
    told: list[str] = []
    steps = Steps(Watchdog(), NullObserver(), lambda _, edge: told.append(edge))
    with pytest.raises(DatabaseDoubt), steps.step(Step.END):
        raise DatabaseDoubt("failed")
    assert told == ["before", "inside"]
