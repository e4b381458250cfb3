"""Messages per second, by work and by what is varied; each figure is audited before it counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from bench.contenders import BOUND, Contender, Running, floor, processor
from bench.gauge import Gauge, Speed
from bench.ground import Ground, Shape
from bench.results import Result, rounds
from bench.trial import Trial

WARM_SECONDS, SECONDS = 3.0, 3.0
"""Its spare worker has started by then, which takes a second of a core."""
SHORT_SECONDS = 2.0
"""Where one factor is varied, and many cases are measured."""
OWN = "itself"
UNIT = "messages/s"
COPY = "COPY alone"


@dataclass(frozen=True)
class Case:
    """A contender over a topic of some shape."""

    contender: Contender
    shape: Shape


def measure(ground: Ground, case: Case, seconds: float = SECONDS) -> Speed:
    """:raises SystemExit: when anything was lost or doubled."""
    return watched(ground, case, seconds)[0]


def watched(
    ground: Ground,
    case: Case,
    seconds: float = SECONDS,
    before_end: Callable[[Running], None] = lambda _: None,
) -> tuple[Speed, int]:
    """Run it over the messages that wait for it, then count what it has done.

    :param before_end: has a look at the contender while it is at work.
    :returns: its speed when it was warm, and how many messages it has done in all.
    :raises SystemExit: when anything was lost or doubled.
    """
    shape = case.shape
    trial = Trial(ground, case.contender, ground.filled(shape), shape.partitions)
    try:
        processes = {OWN: trial.running.pid, **ground.processes}
        gauge = Gauge(trial.committed, processes, trial.running.check)
        warm = case.contender.warm_seconds or WARM_SECONDS
        try:
            speed = gauge.measure(warm, seconds, shape.total)
        except SystemExit as error:
            raise SystemExit(f"{case.contender.name}: {error}{trial.running.log_tail()}") from None
        before_end(trial.running)
        done = trial.end()
    finally:
        trial.kill()
    used = ", ".join(f"{who} {speed.micros(who):.1f}" for who in speed.cpu)
    print(f"  {case.contender.name}: {speed.per_second:,.0f}/s; CPU µs: {used}", file=sys.stderr)
    return speed, done


FULL = Shape(2_000_000)
"""Longer than what anybody does in the time of a measurement."""
BOUNDS = (1, 10, 100, 1_000, 5_000)


def work(ground: Ground, count: int) -> Result:
    """By work, beside the loops that a user would write by hand."""
    contenders = [
        processor("transform"),
        floor("raw", tables=False),
        processor("full"),
        processor("batch"),
        floor("at-least-once"),
        floor("per-message"),
    ]
    cases = {each.name: Case(each, FULL) for each in contenders}
    result = Result("work", f"By work, up to {BOUND:,} messages a batch", UNIT)
    result.series = rounds(
        count,
        [*cases, COPY],
        lambda name: copied(ground) if name == COPY else measure(ground, cases[name]).per_second,
    )
    result.ratio("processor, transform", "raw loop", 0.85)
    result.ratio("processor, full", "at-least-once loop", 0.90)
    result.ratio("processor, batch", "at-least-once loop", 0.90)
    result.ratio("processor, full", "per-message loop", 25)
    result.ratio("processor, full", COPY)
    return result


def guarded(ground: Ground, count: int) -> Result:
    """The two ratios that matter most, in short."""
    contenders = [
        processor("transform"),
        floor("raw", tables=False),
        processor("full"),
        floor("at-least-once"),
    ]
    cases = {each.name: Case(each, FULL) for each in contenders}
    result = compared("guarded", "Guarded ratios", ground, count, cases)
    result.ratio("processor, transform", "raw loop")
    result.ratio("processor, full", "at-least-once loop")
    return result


def bounds(ground: Ground, count: int) -> Result:
    """By how many messages a batch may have, the loop with the same bound beside it."""
    cases = {}
    for bound in BOUNDS:
        cases[f"full, {bound:,}"] = Case(processor("full", batch_max_messages=bound), FULL)
        cases[f"at-least-once, {bound:,}"] = Case(floor("at-least-once", bound=bound), FULL)
    result = compared("bounds", "By messages a batch", ground, count, cases)
    for bound in BOUNDS:
        result.ratio(f"full, {bound:,}", f"at-least-once, {bound:,}")
    return result


def partitions(ground: Ground, count: int) -> Result:
    """By partitions of the input, on one worker."""
    shapes = {number: Shape(1_000_000, number) for number in (1, 12, 100, 1_000)}
    cases = {f"{n:,} partitions": Case(processor("full"), shape) for n, shape in shapes.items()}
    result = compared("partitions", "By partitions, row + counter + output", ground, count, cases)
    for name in ("1 partitions", "100 partitions"):
        result.ratio(name, "12 partitions")
    result.ratio("1,000 partitions", "12 partitions", 0.5)
    forget(ground, shapes.values())
    return result


def sizes(ground: Ground, count: int) -> Result:
    """By bytes a message, the loop without any guarantee beside it."""
    shapes = {
        "200 B": FULL,
        "2 kB": Shape(300_000, bytes=2_000),
        "50 kB": Shape(24_000, bytes=50_000),
    }
    cases = {}
    for name, shape in shapes.items():
        cases[f"full, {name}"] = Case(processor("full"), shape)
        cases[f"at-least-once, {name}"] = Case(floor("at-least-once"), shape)
    result = compared("sizes", "By size of a message", ground, count, cases)
    for name in shapes:
        result.ratio(f"full, {name}", f"at-least-once, {name}")
    forget(ground, [each for each in shapes.values() if each != FULL])
    return result


def workers(ground: Ground, count: int) -> Result:
    """By workers of one service; broker and database share the machine's cores with them."""
    cases = {f"{n} workers": Case(processor("full", workers=n), FULL) for n in (1, 2)}
    result = compared("workers", "By workers", ground, count, cases)
    result.ratio("2 workers", "1 workers", 1.0)
    return result


def compared(name: str, title: str, ground: Ground, count: int, cases: dict[str, Case]) -> Result:
    series = rounds(count, list(cases), lambda case: short(ground, cases[case]))
    return Result(name, title, UNIT, series)


def compared_whole(
    name: str, title: str, ground: Ground, count: int, cases: dict[str, Case]
) -> Result:
    """To the end of the topic."""
    series = rounds(count, list(cases), lambda case: measure(ground, cases[case], inf).per_second)
    return Result(name, title, UNIT, series)


def short(ground: Ground, case: Case) -> float:
    return measure(ground, case, SHORT_SECONDS).per_second


def forget(ground: Ground, shapes: Iterable[Shape]) -> None:
    for shape in shapes:
        ground.forget(shape)


def copied(ground: Ground) -> float:
    """Rows a second by COPY alone, as many a transaction as a batch has."""
    ground.empty_tables()
    contender = floor("copy")
    running = Running(
        contender, ground.stack.environment, ("", ""), "", ground.log(ground.name("copy"))
    )
    try:
        speed = Gauge(lambda: last_number(running.log), {}, running.check).measure(
            WARM_SECONDS, SECONDS, sys.maxsize
        )
        running.end()
    finally:
        running.kill()
    with ground.connect() as connection:
        [[found]] = connection.execute("SELECT count(*) FROM bench.rows").fetchall()
    if found != last_number(running.log):
        raise SystemExit(f"COPY alone: {found:,} rows: no figure")
    print(f"  COPY alone: {speed.per_second:,.0f}/s", file=sys.stderr)
    return speed.per_second


def last_number(log: Path) -> int | None:
    lines = log.read_text().split() if log.exists() else []
    return int(lines[-1]) if lines else None
