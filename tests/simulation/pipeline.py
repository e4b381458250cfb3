"""The pipeline that is simulated: each run of a handler leaves its own mark in both stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table

from processor import Message, Output, Pipeline, Reject, Retry, Transaction

INPUT, OUTPUT = "in", "out"
PARTITIONS_OUT = 2

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("partition", Integer),
    Column("offset", BigInteger),
    Column("n", BigInteger),
    Column("run", BigInteger),
    Column("seen", BigInteger),
)
totals = Table(
    "totals",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("total", BigInteger, nullable=False),
)
once = Table("once", metadata, Column("n", BigInteger, primary_key=True))
TAKEN = 0
"""The row of ``once`` that is there from the start: another one fails only at the flush."""


class Act(msgspec.Struct, tag_field="type", tag="act"):
    """What a message asks for; ``do`` names one of :data:`DEEDS`."""

    n: int
    do: str = "write"
    outputs: int = 1


class Told(msgspec.Struct):
    """What an output says: of which message, by which run of its handler."""

    n: int
    run: int
    at: int


DEEDS = (
    *("write",) * 6,
    "silent",
    "shared",
    "reject",
    "clash",
    "retry",
    "slow",
    "asks",
)
BAD = frozenset({"reject", "clash"})
"""Those become dead letters, and nothing more."""
SHARED = -1
"""A row of ``totals`` that every partition writes to, so that workers wait for each other."""
UNSEEN = -2
"""What was asked for was refused, and the handler went on as if nothing had been."""


class Runs:
    """Counts the handlers' runs of one simulation, whichever process makes them."""

    def __init__(self, pause: Callable[[float], None]) -> None:
        self.count = 0
        self.retried: set[int] = set()
        self.mended: set[tuple[int, int]] = set()
        """Partitions and offsets of messages that fail no more."""
        self.pause = pause

    def next(self) -> int:
        self.count += 1
        return self.count


runs = Runs(lambda _: None)
"""Of the simulation that runs now."""


def begin(pause: Callable[[float], None]) -> Runs:
    """A simulation begins: nothing of an earlier one is left."""
    global runs
    runs = Runs(pause)
    return runs


pipeline = Pipeline("simulation", outputs=[OUTPUT])


parking = Pipeline("simulation", outputs=[OUTPUT], max_dead_letter_ratio=1)
"""Later messages of a key wait for the one that has failed."""


@parking.handler(INPUT, on_failure="park-key")
@pipeline.handler(INPUT)
def acted(act: Act, message: Message[Act], tx: Transaction) -> Iterator[Output]:
    run = runs.next()
    is_mended = (message.partition, message.offset) in runs.mended
    if act.do == "reject" and not is_mended:
        raise Reject("as it asks for")
    if act.do == "retry" and act.n not in runs.retried:
        runs.retried.add(act.n)
        raise Retry(after=0.05)
    if act.do == "slow":
        runs.pause(0.3)
    seen = asked(tx, message.partition) if act.do == "asks" else None
    place = {"partition": message.partition, "offset": message.offset}
    tx.insert(effects, {**place, "n": act.n, "run": run, "seen": seen})
    tx.upsert(totals, {"partition": message.partition, "total": 1}, add=["total"])
    if act.do == "shared":
        tx.upsert(totals, {"partition": SHARED, "total": 1}, add=["total"])
    if act.do == "clash" and not is_mended:
        tx.insert(once, {"n": TAKEN})
    if act.do != "silent":
        for at in range(act.outputs):
            told = Told(act.n, run, at)
            yield Output(OUTPUT, key=message.key, headers=message.headers, value=told)


def asked(tx: Transaction, partition: int) -> int:
    """How many messages of the partition have taken effect, as Postgres tells it."""
    try:
        row = tx.fetch_one("SELECT total FROM totals WHERE partition = %s", (partition,))
    except Exception:
        return UNSEEN
    return row[0] if row else 0
