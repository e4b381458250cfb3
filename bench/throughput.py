"""Messages per second, by work and by what is varied; each figure is audited before it counts."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.audit import audit_outputs, audit_tables
from bench.contenders import Contender, Running, floor, processor
from bench.gauge import Committed, Gauge, Speed
from bench.ground import Ground, Shape
from bench.results import Result, rounds

WARM_SECONDS, SECONDS = 1.0, 3.0
BOUND = 2_000
OWN = "itself"


@dataclass(frozen=True)
class Case:
    """A contender over a topic of some shape."""

    contender: Contender
    shape: Shape


def measure(ground: Ground, case: Case, seconds: float = SECONDS) -> Speed:
    """Run it over the messages that wait for it, then count what it has done.

    :raises SystemExit: when anything was lost or doubled.
    """
    contender, shape = case.contender, case.shape
    topics = (ground.filled(shape), ground.topic("output"))
    group = ground.name("group")
    if contender.tables:
        ground.empty_tables()
    committed = Committed(ground.servers, group, topics[0], shape.partitions)
    running = Running(contender, ground.stack.environment, topics, group, ground.log(group))
    try:
        processes = {OWN: running.pid, **ground.processes}
        gauge = Gauge(committed, processes, running.check)
        speed = gauge.measure(WARM_SECONDS, seconds, shape.total)
        running.end()
    except SystemExit as error:
        raise SystemExit(f"{contender.name}: {error}; its log: {running.log}") from None
    finally:
        running.kill()
    done = committed.by_partition()
    committed.close()
    faults = audit(ground, contender, topics[1], done)
    if faults:
        raise SystemExit(f"{contender.name} over {shape}: {'; '.join(faults[:5])}: no figure")
    ground.drop(topics[1])
    used = ", ".join(f"{who} {speed.micros(who):.1f}" for who in speed.cpu)
    print(f"  {contender.name}: {speed.per_second:,.0f}/s; CPU µs: {used}", file=sys.stderr)
    return speed


def audit(ground: Ground, contender: Contender, output: str, done: dict[int, int]) -> list[str]:
    faults = audit_outputs(ground.servers, output, done)
    if contender.tables:
        with ground.connect() as connection:
            faults += audit_tables(connection, done)
    return faults


def compared(ground: Ground, count: int, cases: dict[str, Case]) -> Result:
    result = Result("", "", "messages/s")
    result.series = rounds(count, list(cases), lambda name: measure(ground, cases[name]).per_second)
    return result


TRANSFORM = Shape(1_200_000)
FULL = Shape(1_200_000)


def work(ground: Ground, count: int) -> Result:
    """By work, beside the loops that a user would write by hand."""
    contenders = [
        processor("transform", batch_max_messages=BOUND),
        floor("raw", tables=False, bound=BOUND),
        processor("full", batch_max_messages=BOUND),
        processor("batch", batch_max_messages=BOUND),
        floor("at-least-once", bound=BOUND),
        floor("per-message"),
    ]
    result = compared(ground, count, {each.name: Case(each, FULL) for each in contenders})
    result.name, result.title = "work", f"By work, up to {BOUND:,} messages a batch"
    result.ratio("processor, transform", "raw loop", 0.85)
    result.ratio("processor, full", "at-least-once loop", 0.90)
    result.ratio("processor, batch", "at-least-once loop", 0.90)
    result.ratio("processor, full", "per-message loop", 25)
    return result
