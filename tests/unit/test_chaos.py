"""What of the campaign needs neither Kafka nor Postgres."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.chaos.armed import AIMS, disarm, environment
from tests.faults.chaos.audit import Verdict
from tests.faults.chaos.campaign import Result, phases
from tests.faults.chaos.late import END_TXN, requests_in
from tests.faults.chaos.nemesis import Heal, Nemesis, nothing
from tests.faults.chaos.pulse import Recovery, Stall, Stalls
from tests.faults.chaos.report import Report, complaints, percentile, write_markdown
from tests.faults.chaos.schedule import Schedule
from tests.support.checker import Kind, Violation


class TestStalls:
    def test_a_partition_without_work_does_not_stall(self) -> None:
        stalls = Stalls()
        for second in range(10):
            stalls.see(float(second), {0: 5}, {0: 5})
        assert stalls.longest == Stall()

    def test_the_longest_is_kept(self) -> None:
        stalls = Stalls()
        heads = [(0, 0), (0, 1), (0, 2), (4, 3), (5, 3), (5, 3)]
        for second, (first, second_head) in enumerate(heads):
            stalls.see(float(second), {0: first, 1: second_head}, {0: 9, 1: 9})
        assert stalls.longest == Stall(3.0, 0)

    def test_what_stood_still_on_purpose_is_forgotten(self) -> None:
        stalls = Stalls()
        stalls.see(0.0, {0: 1}, {0: 9})
        stalls.forget()
        stalls.see(50.0, {0: 1}, {0: 9})
        stalls.see(51.0, {0: 2}, {0: 9})
        assert stalls.longest == Stall(1.0, 0)

    def test_a_fault_is_over_when_every_partition_with_work_has_moved(self) -> None:
        stalls = Stalls()
        ends = {0: 9, 1: 9, 2: 1}
        stalls.see(0.0, {0: 1, 1: 1, 2: 1}, ends)
        stalls.mended("cut", 0.5)
        stalls.see(1.0, {0: 2, 1: 1, 2: 1}, ends)
        [recovery] = stalls.recoveries
        assert recovery.seconds is None
        stalls.see(2.0, {0: 2, 1: 2, 2: 1}, ends)
        assert recovery.seconds == 1.5


class TestLate:
    FRAME = (8).to_bytes(4) + END_TXN.to_bytes(2) + bytes(6)

    def test_requests_are_found_in_whole_frames(self) -> None:
        assert requests_in(self.FRAME + self.FRAME) == [END_TXN, END_TXN]

    @pytest.mark.parametrize("data", [b"", FRAME[:-1], FRAME + b"\0\0", b"\xff" * 50, bytes(50)])
    def test_parts_of_frames_are_left_alone(self, data: bytes) -> None:
        assert requests_in(data) == []


class TestArmed:
    def test_every_fault_can_be_read_and_is_disarmed(self, tmp_path: Path) -> None:
        from processor.engine.faults import parse

        disarm(tmp_path)
        planned = [parse(each) for each in environment(tmp_path)["PROCESSOR_FAULTS"].split()]
        assert all(each.again for each in planned)
        names = {name for aims in AIMS.values() for name in aims}
        assert {each.name for each in planned} == names == {p.name for p in tmp_path.iterdir()}


class TestSchedule:
    """With kinds that only write down what they do."""

    def test_each_kind_comes_and_none_breaks_what_is_broken(self) -> None:
        inside: Counter[str] = Counter()
        together: list[str] = []
        lock = threading.Lock()

        def inflict(stage: Any, rng: Random) -> Heal:
            with lock:
                inside["net"] += 1
                together.extend(["net"] * (inside["net"] - 1))

            def heal() -> None:
                with lock:
                    inside["net"] -= 1

            return heal

        kinds = [Nemesis(name, inflict, (0.0, 0.02), touches="net") for name in "abc"]
        kinds.append(Nemesis("instant", lambda stage, rng: nothing))
        kinds.append(Nemesis("impossible", lambda stage, rng: None))
        mended: list[str] = []
        schedule = Schedule(_stage(), kinds, 7, 0.001, mended.append)
        schedule.run(1.5, lambda: None)
        assert set(schedule.done) == {"a", "b", "c", "instant"}
        assert Counter(mended) == Counter(schedule.done)
        assert together == []
        assert inside["net"] == 0

    def test_what_a_fault_cannot_do_ends_the_campaign(self) -> None:
        def fail(stage: Any, rng: Random) -> Heal:
            raise RuntimeError("no such proxy")

        stage = _stage()
        schedule = Schedule(stage, [Nemesis("broken", fail)], 7, 0.001, lambda kind: None)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="no such proxy"):
            schedule.run(60.0, lambda: None)
        assert time.monotonic() - began < 30
        assert stage.stopping.is_set()


def _stage() -> Any:
    return SimpleNamespace(stopping=threading.Event())


def result(**changes: Any) -> Result:
    [phase, _] = phases(60, 1_000, 1)
    fields: dict[str, Any] = {
        "phase": phase,
        "verdict": Verdict(10, 9, 9, 1, [], 0),
        "faults": ["worker killed", "worker killed", "Kafka cut off"],
        "recoveries": [Recovery("worker killed", 0.0, {}, 0.5)],
        "longest": Stall(4.2, 3),
        "samples": 100,
        "ends": Counter(),
        "seconds": 60.0,
    }
    return Result(**(fields | changes))


class TestReport:
    def test_percentiles_are_values_that_were_seen(self) -> None:
        assert percentile([5.0], 0.99) == 5.0
        assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0

    def test_the_page_is_written_between_its_marks(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("before\n<!-- campaign -->\nold\n<!-- /campaign -->\nafter\n")
        write_markdown(Report([result(), result()], 7, "make chaos"), page)
        text = page.read_text()
        assert text.startswith("before\n<!-- campaign -->\n```console\n$ make chaos\n")
        assert text.endswith("<!-- /campaign -->\nafter\n")
        assert "| worker killed | 4 | 0.50 s | 0.50 s |" in text
        assert "old" not in text
        assert "20 messages · 6 faults of 2 kinds · duplicated 0 · lost 0" in text

    def test_what_is_wrong_is_told(self) -> None:
        assert result().fine
        violation = Violation(Kind.OUTPUT_LOST, 1, 5, "partition 1 at 5 has no output")
        bad = result(problems=["halted"], verdict=Verdict(10, 9, 8, 1, [violation], 2))
        assert not bad.fine
        assert list(complaints(bad)) == [
            "halted",
            "1 output-lost: partition 1 at 5 has no output",
            "2 counters are wrong",
        ]
