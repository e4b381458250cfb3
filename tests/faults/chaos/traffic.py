"""The numbers that come in: a thread that sends them at a steady rate, whatever is broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Producer

from tests.faults.chaos.pipeline import NUMBERS, bucket_of

TICK_SECONDS = 0.01
FLUSH_SECONDS = 120.0
MOST_AHEAD = 100_000
"""So many unhandled messages at most: a slow machine is not drowned."""
LARGEST_BATCH = 200
LARGEST_BURST = 1_000
"""Of one tick: what was held up is made up for, in steps."""
NUMBERED = b'{"n":%d}'


class Traffic:
    """Numbers 0, 1, 2, … go to the partitions in turn, by an idempotent producer.

    ``ends`` is where each partition's log ends, as far as Kafka has confirmed it.
    """

    def __init__(
        self, servers: str, partitions: int, rate: float, handled: Callable[[], int]
    ) -> None:
        """:param handled: how many are done, to hold on while too many are not."""
        self.sent = 0
        self.delivered = 0
        self.ends = dict.fromkeys(range(partitions), 0)
        self._failures: list[str] = []
        self._error: BaseException | None = None
        self._rate = rate
        self._handled = handled
        self._stop = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 20,
                # What waited for a broker comes in batches that a fetch has room for.
                "batch.num.messages": LARGEST_BATCH,
                "compression.type": "lz4",
                "reconnect.backoff.max.ms": 500,
                # Nothing is given up while brokers are away.
                "message.timeout.ms": 0,
                "log_level": 0,
                "error_cb": lambda _: None,
                "on_delivery": self._reported,
            }
        )
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what has ended the thread, if something has."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """On return Kafka has confirmed all that was sent.

        :raises RuntimeError: when it has not.
        """
        self._stop.set()
        self._thread.join()
        self.check()
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._failures:
            raise RuntimeError(f"{left} messages were not confirmed; {self._failures[:3]}")

    def abandon(self) -> None:
        """Stop sending, whatever becomes of what was sent."""
        self._stop.set()

    def _run(self) -> None:
        try:
            self._send_steadily()
        except BaseException as error:
            self._error = error

    def _send_steadily(self) -> None:
        credit, last = 0.0, time.monotonic()
        while not self._stop.wait(TICK_SECONDS):
            self._producer.poll(0)
            now = time.monotonic()
            credit += (now - last) * self._rate
            last = now
            room = MOST_AHEAD - (self.sent - self._handled())
            burst = min(int(credit), max(0, room), LARGEST_BURST)
            credit -= sum(self._send() for _ in range(burst))

    def _send(self) -> bool:
        """Whether there was room for the next number."""
        number, partition = self.sent, self.sent % len(self.ends)
        try:
            self._producer.produce(
                NUMBERS, NUMBERED % number, b"%d" % bucket_of(number), partition=partition
            )
        except BufferError:
            return False
        self.sent += 1
        return True

    def _reported(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failures.append(str(error))
            return
        self.delivered += 1
        partition = message.partition()
        self.ends[partition] = max(self.ends[partition], message.offset() + 1)
