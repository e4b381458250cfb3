"""The processor's own share of a message's way, without servers: ``python -m bench.path``.

Processor time in microseconds a message, the best of some rounds, by work: decoding, the handler,
sealing, the outbox's payload, provenance, and the writes as text for COPY. Then the full work by
hand, and single parts of it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from time import process_time
from typing import Any

import msgspec

from bench.work import pipelines
from bench.work.events import Event, counters, done, event, rows
from processor.engine.batch import Partition, Slice, Source
from processor.engine.decoding import Decoding
from processor.engine.handling import Handling
from processor.engine.observer import NullObserver
from processor.engine.outbox import provenance, seal
from processor.engine.sealing import Rules, Sealer
from processor.engine.statements import bind_processors, copy_text, processed
from processor.engine.steps import Steps
from processor.engine.watchdog import Watchdog
from processor.message import Message, Output
from processor.pipeline import Pipeline
from processor.transaction import Transaction
from processor.writes import CopyWrite, UpsertWrite

PARTITIONS, MESSAGES, ROUNDS = 12, 2_040, 15
WORKS = ("transform", "full", "batch")


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
    handling = Handling(Decoding(pipeline.routes), sealer, store, steps, 16_000_000, 100, 100)
    given = slices()

    def work() -> None:
        for handled in handling.run(given):
            source = Source("t" * 22, handled.partition.number, "l" * 16, 0, handled.next)
            for _ in provenance(seal(1, source, handled.records)):
                pass

    return best(work)


def by_hand() -> float:
    """The full work without handlers, messages, checks, outbox and provenance."""
    decode, encode = msgspec.json.Decoder(Event).decode, msgspec.json.Encoder().encode
    messages = [raw for each in slices() for raw in each.messages]

    def work() -> None:
        sums: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        for raw in messages:
            event = decode(raw.value())
            f"0\t{raw.offset()}\t{event.user_id}\t{event.amount}\t{event.kind}\n".encode()
            total = sums[event.user_id]
            total[0] += 1
            total[1] += event.amount
            encode(done(event))

    return best(work)


def parts() -> dict[str, float]:
    """What single calls take."""
    decode, encode = msgspec.json.Decoder(Event).decode, msgspec.json.Encoder().encode
    raws = [raw for each in slices() for raw in each.messages]
    events = [decode(raw.value()) for raw in raws]
    messages = [Message("t", 0, number, b"k", each) for number, each in enumerate(events)]
    session: Any = Session()

    def insert() -> None:
        tx = Transaction(session)
        for message in messages:
            tx.insert(rows, pipelines.row(message.value, message))

    def upsert() -> None:
        tx = Transaction(session)
        for each in events:
            tx.upsert(counters, pipelines.counter(each), add=["messages", "amount"])

    return {
        "decode": best(lambda: [decode(raw.value()) for raw in raws]),
        "encode": best(lambda: [encode(done(each)) for each in events]),
        "Message": best(lambda: [Message("t", 0, 1, b"k", each, (), 5) for each in events]),
        "Output": best(lambda: [Output("t", key=b"k", value=each) for each in events]),
        "tx.insert": best(insert),
        "tx.upsert": best(upsert),
    }


def ratios(turns: int) -> dict[str, tuple[float, ...]]:
    """What the work by hand takes, through what ours does; for each work, once a turn."""
    found: dict[str, tuple[float, ...]] = defaultdict(tuple)
    for _ in range(turns):
        hand = by_hand()
        for name in WORKS:
            found[f"path: by hand / {name}"] += (hand / measure(getattr(pipelines, name)),)
    return dict(found)


def best(work: Callable[[], object]) -> float:
    """Microseconds a message, of the best round."""
    taken = []
    for _ in range(ROUNDS):
        began = process_time()
        work()
        taken.append(process_time() - began)
    return min(taken) / MESSAGES * 1e6


def main() -> int:
    for name in WORKS:
        print(f"{name:10} {measure(getattr(pipelines, name)):6.2f} µs a message")
    print(f"{'by hand':10} {by_hand():6.2f}")
    for name, micros in parts().items():
        print(f"  {name:10} {micros:4.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
