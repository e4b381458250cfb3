"""What is sent, at a steady rate, by an idempotent producer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, Producer

from tests.faults.poison.plan import Sent

BURST = 20
FLUSH_SECONDS = 60.0


class Traffic:
    """Sends in a thread; ``ends``: where each log ends by what Kafka has confirmed."""

    def __init__(self, servers: str) -> None:
        self.delivered = 0
        self.ends: dict[tuple[str, int], int] = {}
        self._failures: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "on_delivery": self._reported,
            }
        )

    def start(self, messages: Iterable[Sent], rate: float) -> None:
        self._thread = threading.Thread(target=self._send, args=(messages, rate), daemon=True)
        self._thread.start()

    @property
    def is_sending(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def finish(self) -> None:
        """On return Kafka has confirmed all that was sent.

        :raises RuntimeError: when it has not.
        """
        if self._thread is not None:
            self._thread.join()
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._failures:
            raise RuntimeError(f"{left} messages were not confirmed; {self._failures[:3]}")

    def abandon(self) -> None:
        """Stop sending, whatever becomes of what was sent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _send(self, messages: Iterable[Sent], rate: float) -> None:
        began = time.monotonic()
        for number, each in enumerate(messages):
            if number % BURST == 0:
                ahead = number / rate - (time.monotonic() - began)
                if self._stop.wait(max(0.0, ahead)):
                    return
                self._producer.poll(0)
            self._producer.produce(each.topic, each.value, each.key, partition=each.partition)

    def _reported(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failures.append(str(error))
            return
        self.delivered += 1
        place = message.topic(), message.partition()
        self.ends[place] = max(self.ends.get(place, 0), message.offset() + 1)
