"""The processor's own share of a message's way, without servers: ``python -m bench.path``.

Processor time in microseconds a message, the best of some rounds, by work: decoding, the handler,
sealing, the outbox's payload, provenance, and the writes as text for COPY.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import process_time
from typing import Any

import msgspec

from bench.work import pipelines
from bench.work.events import event
from processor.engine.batch import Partition, Slice, Source
from processor.engine.handling import Handling
from processor.engine.observer import NullObserver
from processor.engine.outbox import provenance, seal
from processor.engine.sealing import Rules, Sealer
from processor.engine.statements import bind_processors, copy_text, processed
from processor.engine.steps import Steps
from processor.engine.watchdog import Watchdog
from processor.pipeline import Pipeline
from processor.writes import CopyWrite, UpsertWrite

PARTITIONS, MESSAGES, ROUNDS = 12, 2_040, 15


class Raw:
    """A message as the client hands it over."""

    def __init__(self, partition: int, offset: int, value: bytes) -> None:
        key, stamp = f"{partition}-{offset}".encode(), (1, 1_700_000_000_000)
        self.value: Callable[[], bytes] = lambda: value
        self.key: Callable[[], bytes] = lambda: key
        self.offset: Callable[[], int] = lambda: offset
        self.timestamp: Callable[[], tuple[int, int]] = lambda: stamp
        self.headers: Callable[[], Any] = lambda: None
        self.leader_epoch: Callable[[], int] = lambda: 0


class Session:
    """Takes writes as far as the bytes that would be sent."""

    failure = None

    def copy(self, write: CopyWrite) -> None:
        copy_text(None, write)  # type: ignore[arg-type]

    def upsert(self, write: UpsertWrite) -> None:
        processed(write.rows, bind_processors(write.table, write.columns))


class Store:
    """A store that keeps nothing."""

    def __init__(self) -> None:
        self.session = Session()

    def settle(self) -> None:
        pass


def slices() -> list[Slice]:
    encode = msgspec.json.Encoder().encode
    each = range(MESSAGES // PARTITIONS)
    return [
        Slice(
            Partition(pipelines.INPUT, number),
            0,
            [Raw(number, offset, encode(event(offset, 200))) for offset in each],
        )
        for number in range(PARTITIONS)
    ]


def measure(pipeline: Pipeline) -> float:
    """Microseconds a message."""
    store: Any = Store()
    rules = {name: Rules(False, None, 3_600_000) for name in pipeline.outputs}
    sealer = Sealer(pipeline.outputs, dict.fromkeys(pipeline.outputs, 1_000_000), {}, rules)
    steps = Steps(Watchdog(), NullObserver())
    handling = Handling(pipeline.routes, sealer, store, steps, 16_000_000, 100, 100)
    given = slices()
    taken = []
    for _ in range(ROUNDS):
        began = process_time()
        for handled in handling.run(given):
            source = Source("t" * 22, handled.partition.number, "l" * 16, 0, handled.next)
            for _ in provenance(seal(1, source, handled.records)):
                pass
        taken.append(process_time() - began)
    return min(taken) / MESSAGES * 1e6


def main() -> int:
    for name in sys.argv[1:] or ("transform", "full", "batch"):
        print(f"{name:10} {measure(getattr(pipelines, name)):6.2f} µs a message")
    return 0


if __name__ == "__main__":
    sys.exit(main())
