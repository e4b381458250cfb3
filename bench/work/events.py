"""The messages of the benchmarks, what they become, and the tables that they are written to.

A message's key names it, ``partition-offset``; outputs keep the key, so that an audit can count
them one by one.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

SCHEMA = "bench"
USERS = 1_000

metadata = MetaData(schema=SCHEMA)

rows = Table(
    "rows",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
)
"""One for each message."""

counters = Table(
    "counters",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("messages", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    postgresql_with={"fillfactor": "50"},
)
"""One for each user."""


class Event(Struct, omit_defaults=True):
    """The input; those that come twice have an order, and their first one the same."""

    user_id: int
    kind: str
    amount: int
    note: str
    order: int | None = None


class Done(Struct):
    """The output; ``note`` makes it as large as the input."""

    user_id: int
    kind: str
    doubled: int
    note: str


def event(number: int, size: int) -> Event:
    """The number-th message of a partition, about ``size`` bytes long in JSON."""
    overhead = 60
    return Event(number % USERS, "purchase", number % 100, note(number, max(1, size - overhead)))


EVERY = 5
"""Of messages with orders every fifth is a duplicate."""
BACK = (1, 13, 1_203, 60_001)
"""How many messages before, of all partitions, the first of its order came."""


def order(number: int, partition: int, partitions: int) -> int:
    """Of the number-th message of a partition: most duplicates come on another one."""
    at = number * partitions + partition
    back = BACK[at // EVERY % len(BACK)]
    return at - back if at % EVERY == EVERY - 1 and at >= back else at


WORDS = [f"{word}{number}" for number in range(50) for word in ("red", "green", "blue", "grey")]


def note(number: int, length: int) -> str:
    """Text that compresses as text does, three to one; the same for the same number."""
    text, at = "", number
    while len(text) < length:
        at = (at * 1_103_515_245 + 12_345) % 2_147_483_648
        text += WORDS[(at >> 8) % len(WORDS)] + " "
    return text[:length]


def done(event: Event) -> Done:
    """What every contender makes of it."""
    return Done(event.user_id, event.kind, 2 * event.amount, event.note)
