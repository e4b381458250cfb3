"""What the benchmarks make of their figures, and that they find what is lost or doubled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import audit, failures, path, record
from bench.check import committed, worse
from bench.cost import grown
from bench.document import page
from bench.gauge import Gauge
from bench.results import Result, Series, rounds
from bench.work.events import order


def test_ratios_are_taken_round_by_round() -> None:
    result = Result("name", "Title", "messages/s")
    result.series = {"a": Series((1.0, 30.0, 2.0)), "b": Series((2.0, 30.0, 2.0))}
    result.ratio("a", "b", 0.9)
    result.ratio("a", "not run")
    [ratio] = result.ratios
    assert ratio.series.values == (0.5, 1.0, 1.0)
    assert ratio.met
    assert any("reached: ≥ 0.9" in line for line in result.lines())


@pytest.mark.parametrize(("target", "at_most", "met"), [(2, True, True), (1, True, False)])
def test_a_time_is_to_be_below_its_target(target: float, at_most: bool, met: bool) -> None:
    result = Result("name", "Title", "ms", {"a": Series((3.0,)), "b": Series((2.0,))})
    result.ratio("a", "b", target, at_most=at_most)
    assert result.ratios[0].met is met


def test_the_order_turns_so_that_nobody_always_comes_first() -> None:
    order: list[str] = []
    rounds(2, ["a", "b"], lambda case: order.append(case) or 0.0)
    assert order == ["a", "b", "b", "a"]


def test_what_is_slower_in_each_round_is_told() -> None:
    before = {"a / b": 1.0, "c / d": 1.0, "gone / e": 1.0}
    found = {"a / b": (0.5, 0.9), "c / d": (0.5, 0.7)}
    told = worse(found, before)
    assert [each.split(":")[0] for each in told] == ["c / d", "gone / e"]


def test_a_message_s_way_through_python_is_no_longer_than_it_was() -> None:
    """Processor time beside the same work by hand; servers, and what else is done, do not count."""
    before = {name: ratio for name, ratio in committed().items() if name.startswith("path: ")}
    assert len(before) == len(path.WORKS)
    assert worse(path.ratios(2), before, tolerance=0.35) == []


def test_logs_grow_by_what_was_written_whatever_was_deleted_meanwhile() -> None:
    assert grown({1: 100, 2: 50}, {1: 130, 3: 7}) == 37


@pytest.mark.parametrize(
    ("keys", "faults"),
    [
        (["0-0", "0-1", "1-0"], []),
        (["0-0", "1-0"], ["outputs: 1 lost"]),
        (["0-0", "0-1", "1-0", "0-1"], ["outputs: 1 doubled"]),
        (["0-0", "0-1", "1-0", "1-1"], ["outputs: 1 ahead of the offsets"]),
        (["0-0", "0-1"], ["outputs: 1 lost"]),
        (["0-0", "0-1", "1-0", "2-0"], ["outputs: 1 ahead of the offsets"]),
    ],
)
def test_the_audit_counts_each_message(
    keys: list[str], faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "keys", lambda *_: [each.encode() for each in keys])
    assert audit.audit_outputs("", "topic", {0: 2, 1: 1}) == faults


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([(p, at) for at in range(3) for p in range(2) if (p, at) != (0, 2)], None),
        ([(p, at) for at in range(3) for p in range(2)], "more than once"),
        ([(p, at) for at in range(3) for p in range(2) if (p, at) != (1, 1)], None),
        ([(p, at) for at in range(2) for p in range(2)], "lost"),
        ([(p, at) for at in range(4) for p in range(2)], "ahead"),
    ],
)
def test_the_audit_of_orders_counts_each_once(
    rows: list[tuple[int, int]], fault: str | None
) -> None:
    """The fifth message, at 2 of partition 0, is of the order of the fourth."""
    assert order(2, 0, 2) == order(1, 1, 2) == 3
    told = [b"%d-%d" % row for row in rows]
    found = audit.faults_of_orders(rows, told, {0: 3, 1: 3}, 2)
    assert (fault or "") in "".join(found)
    assert bool(found) is (fault is not None)
    assert audit.faults_of_orders(rows, told[1:], {0: 3, 1: 3}, 2) != []


@pytest.mark.parametrize(
    ("keys", "faults"),
    [
        (["0-0", "0-2"], []),
        (["0-0", "0-1", "0-2"], ["outputs: 1 of bad messages"]),
        (["0-2"], ["outputs: 1 lost"]),
    ],
)
def test_a_bad_message_has_no_output(
    keys: list[str], faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "keys", lambda *_: [each.encode() for each in keys])
    assert audit.audit_outputs("", "topic", {0: 3}, lambda _, offset: offset == 1) == faults


@pytest.mark.parametrize(
    ("letters", "faults"),
    [
        ([(0, 1)], []),
        ([], ["dead letters: 1 lost"]),
        ([(0, 1), (0, 1)], ["dead letters: 1 doubled"]),
        ([(0, 1), (0, 2)], ["dead letters: 1 of good messages"]),
    ],
)
def test_a_bad_message_is_one_dead_letter(
    letters: list[tuple[int, int]], faults: list[str]
) -> None:
    answer = SimpleNamespace(fetchall=lambda: letters)
    connection: Any = SimpleNamespace(execute=lambda *_: answer)
    found = audit.audit_letters(connection, "group", {0: 3}, lambda _, offset: offset == 1)
    assert found == faults


def test_to_be_ready_for_failures_costs_next_to_nothing_where_none_are() -> None:
    """The best of a few pairs: what else the machine does is no part of it."""
    assert min(failures.overheads(4)) < 1.03


def test_the_gauge_begins_and_ends_at_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the moments that were asked for: what is committed comes in steps."""
    now = [0.0]
    monkeypatch.setattr("bench.gauge.time.monotonic", lambda: now[0])
    monkeypatch.setattr("bench.gauge.time.sleep", lambda _: now.__setitem__(0, now[0] + 1))
    counts = {0: None, 1: 0, 2: 100, 7: 600, 12: 1_100}

    def count() -> int | None:
        return counts[max(when for when in counts if when <= now[0])]

    speed = Gauge(count, {}, lambda: None).measure(3.0, 4.0, 10_000)
    assert (speed.messages, speed.seconds) == (500, 5.0)


def test_a_count_that_is_complete_at_once_is_no_figure() -> None:
    with pytest.raises(SystemExit, match="fill more"):
        Gauge(lambda: 40, {}, lambda: None).measure(1.0, 1.0, 40)


def measured() -> Result:
    result = Result("work", "By work", "messages/s", notes=["a note"])
    result.series = {"ours": Series((30_000.0, 40_000.0)), "a loop": Series((50_000.0, 50_000.0))}
    result.ratio("ours", "a loop", 0.85)
    result.ratio("a loop", "ours", 2.0, at_most=True)
    return result


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    file, where = tmp_path / "figures.json", {"machine": "m", "date": "2026-01-31"}
    for name in ("work", "sizes"):
        record.keep(file, {name: {**where, "result": measured().as_json()}})
    kept = record.read(file)
    assert list(kept) == ["work", "sizes"], "a benchmark replaces its own figures only"
    assert Result.from_json(kept["work"]["result"]) == measured()


def test_the_page_tells_what_is_reached_and_what_is_not() -> None:
    kept = {"work": {"machine": "m", "date": "2026-01-31", "result": measured().as_json()}}
    told = "\n".join(page(kept))
    assert "| ours / a loop | **0.70** (0.60 to 0.80) | at least 0.85: **missed** |" in told
    assert "at most 2: reached" in told
    assert "| ours | 35,000 (30,000 to 40,000) |" in told
    assert "`make bench BENCH=work`, 2026-01-31, m" in told


@pytest.mark.parametrize("text", ["[]", "no JSON"])
def test_a_file_of_something_else_is_told_before_minutes_are_spent(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(SystemExit, match="name another file"):
        record.read(file)
