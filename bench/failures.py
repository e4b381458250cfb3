"""What bad messages cost the good ones, and what it costs to be ready for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import process_time
from typing import Any

from bench import path
from bench.contenders import Contender, processor
from bench.ground import Ground
from bench.results import Ratio, Result, Series, rounds
from bench.throughput import FULL, Case, short
from bench.work import pipelines
from bench.work.bad import EVERY, is_bad
from processor.engine.batch import Handled, Partition, Slice
from processor.engine.decoding import Decoding
from processor.engine.handling import Handling
from processor.engine.intake import Arrived, Intake
from processor.engine.limits import Limits
from processor.engine.messages import step_past
from processor.engine.observer import NullObserver
from processor.engine.parking import Parking
from processor.engine.partitions import Partitions
from processor.engine.replays import Replays
from processor.engine.sealing import Rules, Sealer
from processor.engine.steps import Steps
from processor.engine.triage import Triage
from processor.engine.watchdog import Watchdog
from processor.transaction import Session, Transaction

CLEAN, RAISED, COPIED, MERGED = (
    "nothing fails",
    "handlers raise",
    "Postgres refuses a COPY",
    "Postgres refuses an upsert",
)
PAIRS = 15
READY = "ready for failures / not ready"
RUNS = 12
"""Of a pair: batches that are handled by turns, of which the fastest counts."""


def failures(ground: Ground, count: int) -> Result:
    """Messages a second, with one bad one of a hundred and with none; the same work otherwise."""
    contenders = {
        CLEAN: processor("full"),
        RAISED: _failing("raising"),
        COPIED: _failing("refused"),
        MERGED: _failing("refused_upsert"),
    }
    cases = {name: Case(each, FULL) for name, each in contenders.items()}
    title = f"With 1 bad message of {EVERY}: row + counter + output"
    result = Result("failures", title, "messages/s")
    result.series = rounds(count, list(cases), lambda case: short(ground, cases[case]))
    result.ratio(RAISED, CLEAN, 0.5)
    result.ratio(COPIED, CLEAN, 0.2)
    result.ratio(MERGED, CLEAN, 0.2)
    ready = overheads(PAIRS)
    result.ratios.append(Ratio(READY, Series(tuple(ready)), 1.02, at_most=True))
    result.notes += [
        f"{READY}: processor time of a batch's handlers, sealing and writes where nothing fails,",
        f"{PAIRS} interleaved pairs, without servers. Not ready: no triage, no intake, and a loop",
        "that catches no message that cannot be decoded.",
    ]
    return result


def _failing(work: str) -> Contender:
    return replace(processor(work), is_bad=is_bad)


class NoTriage(Triage):
    """Counts nothing."""

    def ended(self, handled: Handled) -> None:
        pass


class Unready(Handling):
    """The plain loop: an exception of any kind ends it."""

    def ask(
        self,
        slices: Sequence[Slice],  # noqa: ARG002
        session: Session | None = None,  # noqa: ARG002
        *,
        careful: bool,  # noqa: ARG002
    ) -> Mapping[Partition, Arrived]:
        return {}

    def close(self, arrived: Mapping[Partition, Arrived]) -> None:
        pass

    def _run_messages(self, each: Slice, handled: Handled, tx: Transaction, limits: Limits) -> None:
        decode, keep = self.decoding.decoder(each.partition), self.calling.keep
        to_message = self.decoding.to_message
        last = None
        for index, raw in enumerate(each.messages):
            if index and limits.reached(handled):
                handled.rest = each.messages[index:]
                break
            handler, event = decode(raw.value())
            message = to_message(each.partition, raw, event) if handler.needs_message else None
            result = handler.call(event, message, tx)
            handled.handled += 1
            if result is not None:
                keep(result, raw, handled)
            last = raw
        if last is not None:
            step_past(last, handled)


def overheads(pairs: int) -> list[float]:
    """What a batch takes that is ready for failures, through what it takes unready; by pair."""
    given = path.slices()
    ready, unready = _handling(Handling, given), _handling(Unready, given)
    found = []
    for _ in range(pairs):
        took: dict[Handling, list[float]] = {ready: [], unready: []}
        for number in range(RUNS):
            for each in (ready, unready) if number % 2 else (unready, ready):
                began = process_time()
                each.run(given)
                took[each].append(process_time() - began)
        found.append(min(took[ready]) / min(took[unready]))
    print(f"  {READY}: {', '.join(f'{each:.3f}' for each in found)}", file=sys.stderr)
    return found


def _handling(kind: type[Handling], given: Sequence[Slice]) -> Handling:
    """Of the full work, as an engine that owns these partitions has it."""
    pipeline, store = pipelines.full, path.Store()
    untyped: Any = store
    rules = {name: Rules(False, None, 3_600_000) for name in pipeline.outputs}
    sealer = Sealer(pipeline.outputs, dict.fromkeys(pipeline.outputs, 1_000_000), {}, rules)
    steps, decoding = Steps(Watchdog(), NullObserver()), Decoding(pipeline.routes)
    partitions = Partitions()
    partitions.replace([each.partition for each in given])
    intake = Intake(decoding, steps, None, Parking(partitions), Replays("bench"))
    triage = Triage(0.5) if kind is Handling else NoTriage()
    return kind(
        decoding,
        sealer,
        untyped,
        steps,
        16_000_000,
        100,
        100,
        triage=triage,
        intake=intake,
        replays_topic="bench.replays",
    )
