"""A client's connection to the broker, with the log lines that librdkafka writes about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from processor.testing.kafka.broker import SERVER, Broker
from processor.testing.kafka.errors import Refused
from processor.testing.network import Network, RequestLost, RequestTimedOut

T = TypeVar("T")
SOCKET_TIMEOUT_SECONDS = 60.0
RECONNECT_SECONDS = 0.05, 0.3


class Connection:
    """Requests of one client. When the connection breaks, all of them are lost at once."""

    def __init__(
        self,
        broker: Broker,
        network: Network,
        logger: logging.Logger | None = None,
        socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    ) -> None:
        self.time = network.time
        self.broker = broker
        self._network = network
        self._logger = logger
        self._socket_timeout_seconds = socket_timeout_seconds
        self._lines: list[str] = []
        self._breaks = 0
        self._restarts = broker.restarts

    def call(self, name: str, serve: Callable[[], T], timeout_seconds: float) -> T:
        """One request, once.

        :raises RequestLost: the connection broke; a line that begins with FAIL tells of it.
        :raises RequestTimedOut: told of by a REQTMOUT line only if the socket's own time-out, and
            not the caller's, is over.
        :raises Refused: the broker's answer is an error.
        """
        broker, breaks = self.broker, self._breaks + self.broker.restarts
        limit = min(timeout_seconds, self._socket_timeout_seconds)

        def served() -> T | Refused:
            if not broker.up:
                raise RequestLost(name)
            try:
                return serve()
            except Refused as refusal:
                return refusal  # an answer like others: it may be lost, too

        try:
            answer = self._network.call(SERVER, name, served, limit)
        except RequestLost:
            self._broken(name)
            raise
        except RequestTimedOut:
            if limit == self._socket_timeout_seconds:
                self._lines.append(f"REQTMOUT [thrd:broker]: Timed out {name}Request in flight")
                self._broken(name)
            raise
        if self._breaks + broker.restarts != breaks:
            raise RequestLost(name)
        if isinstance(answer, Refused):
            raise answer
        return answer

    def spawn(self, call: Callable[[], None], after: float = 0.0) -> None:
        """A task of the client, in the process that runs now; its bugs are kept for the harness."""

        def guarded() -> None:
            try:
                call()
            except Exception as error:
                self.broker.failures.append(error)
                raise

        self.time.spawn(self.time.process, guarded, after)

    def reconnect(self) -> None:
        """Wait as long as a new connection takes."""
        self.time.pause(self.time.random.uniform(*RECONNECT_SECONDS))

    def tell(self) -> None:
        """Hand the log lines over; the client does so when it is polled."""
        if self._restarts != self.broker.restarts:
            self._restarts = self.broker.restarts
            self._lines.append("FAIL [thrd:broker]: Disconnected: the broker went away")
        lines, self._lines = self._lines, []
        if self._logger is not None:
            for line in lines:
                self._logger.info(line)

    def _broken(self, name: str) -> None:
        self._breaks += 1
        self._lines.append(f"FAIL [thrd:broker]: Disconnected while {name} was in flight")
