"""Made-up events, for the demo and for trying things out.

>>> events = sample_events(users=10, types={"page_view": 1}, seed=7)
>>> key, value = next(events)
>>> key
b'6'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from pipelines.user_events.producer import USER_EVENTS

Record = tuple[bytes, bytes]
"""A key and a value, as they go to Kafka."""

PAGES = ("/", "/products", "/cart", "/checkout", "/about", "/search")
CURRENCIES = ("EUR", "USD", "GBP")
TYPICAL_VIEW_SECONDS = 30.0


@dataclass(frozen=True)
class SampleEvents:
    """Makes endless streams of events; ``processor produce`` calls it and sends them.

    :param topic: where the events belong.
    :param types: how often each type comes, in proportion to the others.
    """

    topic: str = USER_EVENTS
    types: Mapping[str, float] = field(default_factory=lambda: {"page_view": 8, "purchase": 2})

    def __call__(
        self,
        users: int = 1_000,
        types: Mapping[str, float] | None = None,
        seed: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Iterator[Record]:
        """Start a stream; the same seed makes the same events, but for their time.

        :param users: how many there are, numbered from 1.
        :param types: other proportions; a type of any name can be asked for.
        :param clock: tells each event's time.
        :raises ValueError: when there is no user, or no type that ever comes.
        """
        proportions = dict(self.types if types is None else types)
        if users < 1:
            raise ValueError("at least one user is needed")
        if not proportions or min(proportions.values()) < 0 or not sum(proportions.values()) > 0:
            raise ValueError("the types need proportions of which one is above 0, none below")
        return _stream(Random(seed), users, proportions, clock)  # noqa: S311


sample_events = SampleEvents()


def _stream(
    random: Random, users: int, types: Mapping[str, float], clock: Callable[[], datetime]
) -> Iterator[Record]:
    names, weights = tuple(types), tuple(types.values())
    encode = msgspec.json.Encoder().encode
    while True:
        user = random.randint(1, users)
        name = random.choices(names, weights)[0]
        event = {
            "user_id": user,
            "event_type": name,
            "event_data": _data(name, random),
            "timestamp": clock(),
            "event_id": UUID(int=random.getrandbits(128), version=4),
        }
        yield b"%d" % user, encode(event)


def _data(event_type: str, random: Random) -> dict[str, Any]:
    if event_type == "page_view":
        duration = random.expovariate(1 / TYPICAL_VIEW_SECONDS)
        return {"page": random.choice(PAGES), "duration": round(duration, 1)}
    if event_type == "purchase":
        cents = random.randint(100, 20_000)
        return {
            "product_id": random.randint(1, 500),
            "quantity": random.randint(1, 3),
            "amount": f"{cents // 100}.{cents % 100:02}",
            "currency": random.choice(CURRENCIES),
        }
    return {"page": random.choice(PAGES)}
