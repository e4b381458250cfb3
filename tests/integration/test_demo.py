"""The demo as its user runs it, and what it does when something is wrong."""

from __future__ import annotations

import doctest
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from demo import plan, verdict
from demo.acts import Outcome
from demo.display import Picture
from demo.numbers import Numbers, Partition
from demo.plan import Kind
from demo.pulse import Recovery
from demo.run import conclude
from demo.story import Act, Mood, Story
from demo.workers import Worker
from devstack.waiting import wait_until
from pipelines.user_events.audit import Verdict

REPOSITORY = Path(__file__).parents[2]
CLOSING = re.compile(
    r"produced (?P<produced>\d+) · in Postgres (?P<postgres>\d+) · in output topic (?P<output>\d+)"
    r"( · dead letters (?P<dead>\d+))? · duplicates 0 · lost 0 · (?P<kills>\d+) kills"
)

ProcessId = tuple[int, str]
"""With the start time: a pid alone may be another process's by now."""


class Run:
    """A demo of a few seconds, and every process that was seen below it."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.seen: set[ProcessId] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": ""},
            start_new_session=True,
        )

    def read_until(self, pattern: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self.seen |= set(_descendants(self.process.pid))
            if re.search(pattern, line):
                return
        pytest.fail(f"no {pattern!r} in\n{self.text}")

    def finish(self) -> int:
        rest, _ = self.process.communicate(timeout=150)
        self.lines += rest.splitlines()
        return self.process.returncode

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def nothing_is_left(self) -> bool:
        return not any(_start_time(pid) == started for pid, started in self.seen)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_time(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _descendants(root: int) -> Iterator[ProcessId]:
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    family = {root}
    while found := {p for p, f in parents.items() if f and int(f[1]) in family} - family:
        family |= found
    yield from ((pid, parents[pid][19]) for pid in family - {root})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ends_with_a_verdict_from_both_stores() -> None:
    run = Run("--seconds", "6", "--kills-at-least", "3")
    run.read_until("^produced ")

    assert run.finish() == 0, run.text
    closing = [found for line in run.lines if (found := CLOSING.fullmatch(line))]
    assert len(closing) == 1, run.text
    assert run.lines[-1] == closing[0][0]
    produced, postgres, output, dead, kills = (
        int(count or 0)
        for count in closing[0].group("produced", "postgres", "output", "dead", "kills")
    )
    assert produced == postgres + dead > 1_000
    assert output == postgres
    assert kills >= 3
    assert kills == run.text.count("SIGKILL worker")
    assert len(run.seen) >= 8
    wait_until(run.nothing_is_left, 5, "end of all processes")


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running() -> None:
    run = Run("--seconds", "30")
    run.read_until("SIGKILL worker")

    os.killpg(run.process.pid, signal.SIGINT)

    assert run.finish() == 130, run.text
    assert "Traceback" not in run.text
    assert "produced" not in run.lines[-1]
    wait_until(run.nothing_is_left, 5, "end of all processes")


class TestVerdict:
    @pytest.mark.parametrize(
        "wrong", ["lost", "duplicates", "invented", "disordered", "miscounted"]
    )
    def test_anything_wrong_is_exit_status_1(self, wrong: str) -> None:
        found = Verdict(produced=10, in_postgres=10, in_output=10)
        found.blame("processed_events lacks", [(3, 7)], wrong)

        code, told = concluded(Outcome(found, delivered=10, kills=12))

        assert code == 1
        assert f"{wrong}: processed_events lacks (3, 7)" in told
        assert f"{wrong} 1" in told.splitlines()[-1]

    def test_all_fine_is_exit_status_0(self) -> None:
        found = Verdict(produced=10, in_postgres=8, in_output=8, dead_letters=2)

        code, told = concluded(Outcome(found, delivered=10, kills=12))

        assert code == 0
        assert "8 + 2 = 10" in told
        assert told.splitlines()[-1] == (
            "produced 10 · in Postgres 8 · in output topic 8 · dead letters 2"
            " · duplicates 0 · lost 0 · 12 kills"
        )

    def test_events_that_kafka_lost_are_not_fine(self) -> None:
        outcome = Outcome(Verdict(produced=10, in_postgres=10, in_output=10), 11, 12)
        assert verdict.exit_code(outcome) == 1
        assert any("11" in line for line in verdict.explanation(outcome))


def concluded(outcome: Outcome) -> tuple[int, str]:
    file = io.StringIO()
    code = conclude(outcome, Console(file=file, width=80, color_system=None))
    return code, file.getvalue()


class TestPlan:
    @pytest.mark.parametrize("seconds", [0.5, 12.0, 45.0, 300.0])
    @pytest.mark.parametrize("kills", [0, 3, 40])
    def test_holds_the_kills_asked_for_within_the_time(self, seconds: float, kills: int) -> None:
        for seed in range(50):
            blows = plan.make_plan(seconds, kills, Random(seed))
            assert sum(blow.kind is Kind.KILL for blow in blows) >= kills
            assert [blow.at for blow in blows] == sorted(blow.at for blow in blows)
            assert all(0 <= blow.at + blow.frozen_seconds < seconds for blow in blows)


class TestRecovery:
    def numbers(self, offset: int, state: str, told_at: int) -> Numbers:
        told = datetime(2025, 3, 1, 12, 0, told_at, tzinfo=UTC)
        mine = Partition(offset, slot=1, state=state, since=told)
        return Numbers(partitions={0: Partition(0, slot=0, state="running"), 4: mine})

    def test_a_commit_that_was_under_way_is_no_recovery(self) -> None:
        recovery = Recovery()
        recovery.struck(1, 10.0, self.numbers(5, "running", 1), killed=True)

        assert recovery.back(10.2, self.numbers(7, "running", 1)) == []
        assert recovery.back(11.0, self.numbers(7, "recovering", 2)) == []
        assert recovery.slots == {1}
        (back,) = recovery.back(11.5, self.numbers(8, "running", 3))
        assert (back.slot, back.seconds, back.partitions) == (1, 1.5, 1)
        assert recovery.back(12.0, self.numbers(9, "running", 3)) == []

    def test_after_a_freeze_movement_is_enough(self) -> None:
        recovery = Recovery()
        recovery.struck(1, 10.0, self.numbers(5, "running", 1), killed=False)

        assert recovery.back(10.2, self.numbers(5, "running", 1)) == []
        assert len(recovery.back(10.4, self.numbers(6, "running", 1))) == 1


class TestPicture:
    @pytest.mark.parametrize(("columns", "rows"), [(80, 24), (100, 30), (120, 40), (200, 60)])
    def test_fits_the_terminal(self, columns: int, rows: int) -> None:
        story = Story(killing_seconds=45)
        story.enter(Act.TRAFFIC)
        partitions = {n: Partition(1_000_000, slot=n % 2, state="running") for n in range(12)}
        numbers = Numbers(12_345_678, 14_000_000, 1_234, partitions)
        story.saw(12_400_000, numbers, [Worker(0, 4_000_001, 0.0), Worker(1, 4_000_002, 0.0)])
        for number in range(100):
            story.tell(Mood.BLOW, f"SIGKILL worker 1 (pid {number})")

        lines = rendered(story, columns, rows)

        assert rows - 1 <= len(lines) <= rows
        assert max(map(len, lines)) <= columns
        assert "12,345,678" in "\n".join(lines)
        assert "SIGKILL worker 1 (pid 99)" in lines[-1]


def rendered(story: Story, columns: int, rows: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=columns, height=rows, color_system=None).print(Picture(story))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("name", ["plan", "chart", "pulse", "display"])
def test_examples_in_documentation_strings(name: str) -> None:
    assert doctest.testmod(import_module(f"demo.{name}")).failed == 0
