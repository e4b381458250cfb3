"""docs/testing.md: what it shows is run, or is in the file that it names."""

from __future__ import annotations

import re

import pytest

from processor.settings import Settings
from processor.testing import BATCH_STEPS, EDGES, PipelineTest
from processor.testing.running import RunningPipeline
from tests.support.plugin import examples, make_documented_project, run_project
from tests.support.running import ROOT

pytest_plugins = ["pytester"]

TEXT = (ROOT / "docs" / "testing.md").read_text()
ELSEWHERE = [each for each in examples() if "send_all" in each]
IN_MEMORY = [
    each for each in examples() if each not in ELSEWHERE and "running_pipeline" not in each
]
BESIDE = """
from datetime import timedelta

from sqlalchemy import Column, MetaData, Table, Text

from processor import Halt, Message, Output, Pipeline, Retry, Transaction

gates = Table("gates", MetaData(), Column("name", Text, primary_key=True))
gated = Pipeline("gated", tables=gates.metadata)
counting = Pipeline("counting", outputs=["out"])
patient = Pipeline("patient", outputs=["out"])
orders = Pipeline("orders", outputs=["booked"], dedup_retention=timedelta(hours=1))
runs = []


@orders.handler("orders", dedup="id")
def ordered(event: dict):
    return Output("booked", value=event["id"])



@gated.handler("gates")
def passed(event: dict, tx: Transaction):
    if tx.fetch_one("SELECT 1 FROM gates WHERE name = %s", [event["name"]]) is None:
        raise Halt("the gate is shut")


@counting.handler("in")
def counted(message: Message[bytes]):
    runs.append(message.offset)
    return Output("out", value=len(runs))


ready = []


@patient.handler("in")
def waited(message: Message[bytes], tx: Transaction):
    [now] = tx.fetch_one("SELECT now()")
    ready.append(now)
    if now - ready[0] < timedelta(seconds=60):
        raise Retry("not yet", after=60)
    return Output("out", value=message.value)
"""


def test_the_examples_in_memory_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documented_project(pytester)
    (pytester.path / "test_examples.py").write_text("\n\n".join((BESIDE, *IN_MEMORY)))
    count = sum(each.count("def test_") for each in IN_MEMORY)
    assert count == 7
    run_project(pytester, monkeypatch, {}).assert_outcomes(passed=count)


def test_the_one_of_the_main_pipeline_is_in_its_file() -> None:
    [example] = ELSEWHERE
    assert example in (ROOT / "tests" / "unit" / "test_user_events_in_memory.py").read_text()


def test_steps_and_edges_are_named() -> None:
    for each in (*BATCH_STEPS, *EDGES):
        assert f"`{each}`" in TEXT


@pytest.mark.parametrize("kind", [PipelineTest, RunningPipeline])
def test_every_public_name_is_told(kind: type[object]) -> None:
    names = [name for name in dir(kind) if not name.startswith("_") and name != "close"]
    assert len(names) > 8
    for name in names:
        assert re.search(rf"`(test\.)?{name}\b", TEXT), name


def test_the_settings_that_are_shown_are_settings() -> None:
    assert "batch_max_messages" in Settings.model_fields


def test_the_readme_shows_a_test_that_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documented_project(pytester)
    text = (ROOT / "README.md").read_text()
    [example] = re.findall(r"```python\n(from processor\.testing.*?)```", text, re.DOTALL)
    (pytester.path / "test_example.py").write_text(example)
    run_project(pytester, monkeypatch, {}).assert_outcomes(passed=1)
