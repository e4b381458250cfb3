"""The events that come in: a thread that sends them at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from pipelines.user_events import UserEventProducer, sample_events

TYPES = {"page_view": 75, "purchase": 15, "search": 6, "add_to_cart": 3, "sign_up": 1}
"""The last three have no handler of their own."""

UNDECODABLE_EVERY = 5_000
UNDECODABLE = ("purchase", {"amount": "a fair price"})
"""An amount that is no number: the handler cannot be called, the message is set aside."""

USERS = 1_000
TICK_SECONDS = 0.01
JOIN_SECONDS = 10.0
ABANDON_SECONDS = 1.0

Event = tuple[int, str, dict[str, Any]]


class Traffic:
    """Sends until told to stop. `hold` makes it pause, so that a slow machine is not drowned.

    with Traffic(bootstrap_servers, rate=1_000) as traffic:
        ...
        traffic.stop()
    traffic.delivered
    """

    def __init__(self, bootstrap_servers: str, rate: float) -> None:
        self.rate = rate
        self.hold = False
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._producer = UserEventProducer(bootstrap_servers)
        # A daemon: when Kafka is gone its flush waits for long, which must not hold up the exit.
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    @property
    def delivered(self) -> int:
        """How many events Kafka has confirmed."""
        return self._producer.delivered

    def check(self) -> None:
        """Raises what has ended the thread, if something has."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop sending; on return all that was sent is delivered.

        :raises TimeoutError: when it is not, within a limit.
        """
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        self.check()
        if self._thread.is_alive():
            raise TimeoutError(f"Kafka did not confirm all events within {JOIN_SECONDS:.0f} s")

    def _run(self) -> None:
        try:
            with self._producer:
                self._send_steadily()
        except BaseException as error:
            self._error = error

    def _send_steadily(self) -> None:
        events = made_up()
        credit, last = 0.0, time.monotonic()
        while not self._stop.wait(TICK_SECONDS):
            now = time.monotonic()
            # Time spent on hold earns nothing: no burst follows it.
            credit += 0.0 if self.hold else (now - last) * self.rate
            last = now
            for _ in range(int(credit)):
                self._producer.send_user_event(*next(events))
            credit %= 1.0

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ABANDON_SECONDS)


def made_up(seed: int | None = None) -> Iterator[Event]:
    """Endless events of a site's users; now and then one that no handler can take."""
    samples = sample_events(users=USERS, types=TYPES, seed=seed)
    for number, (_, value) in enumerate(samples, start=1):
        event = msgspec.json.decode(value)
        kind, data = event["event_type"], event["event_data"]
        if number % UNDECODABLE_EVERY == 0:
            kind, data = UNDECODABLE
        yield event["user_id"], kind, data
