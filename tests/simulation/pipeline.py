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
)
BAD = frozenset({"reject", "clash"})
"""Those become dead letters, and nothing more."""
SHARED = -1
"""A row of ``totals`` that every partition writes to, so that workers wait for each other."""


class Runs:
    """Counts the handlers' runs of one simulation, whichever process makes them."""

    def __init__(self, pause: Callable[[float], None]) -> None:
        self.count = 0
        self.retried: set[int] = set()
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


@pipeline.handler(INPUT)
def acted(act: Act, message: Message[Act], tx: Transaction) -> Iterator[Output]:
    run = runs.next()
    if act.do == "reject":
        raise Reject("as it asks for")
    if act.do == "retry" and act.n not in runs.retried:
        runs.retried.add(act.n)
        raise Retry(after=0.05)
    if act.do == "slow":
        runs.pause(0.3)
    tx.insert(
        effects,
        {"partition": message.partition, "offset": message.offset, "n": act.n, "run": run},
    )
    tx.upsert(totals, {"partition": message.partition, "total": 1}, add=["total"])
    if act.do == "shared":
        tx.upsert(totals, {"partition": SHARED, "total": 1}, add=["total"])
    if act.do == "clash":
        tx.insert(once, {"n": TAKEN})
    if act.do != "silent":
        for at in range(act.outputs):
            yield Output(OUTPUT, key=message.key, value=Told(act.n, run, at))
