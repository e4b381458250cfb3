"""The network between processes and servers: the one door through which requests go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple, TypeVar

from processor.testing.scheduler import Process, Time

T = TypeVar("T")
LATENCY_SECONDS = 0.0003, 0.0015
"""Of one way."""


class Fate(Enum):
    """What becomes of one request."""

    ARRIVES = auto()
    LOST = auto()
    """The connection breaks before it arrives."""
    REPLY_LOST = auto()
    """It is served; the connection breaks before the answer arrives."""
    STRAY = auto()
    """The connection breaks, and it is served a little later all the same."""
    HELD = auto()
    """It is served; the connection breaks ``Network.held_seconds`` later, without an answer."""
    LATE = auto()
    """It is served after whoever sent it has given up."""
    SLOW = auto()
    """It arrives and is answered, with a delay of ``Network.slow_seconds``."""


class Request(NamedTuple):
    """What the network is told of a request."""

    process: Process
    server: str
    name: str
    """The protocol's name of it: ``EndTxn``, ``COMMIT``."""


class RequestLost(Exception):
    """The connection broke. Nobody knows whether the request was served."""


class RequestTimedOut(Exception):
    """No answer in time. The request may be served even now, or later."""


class Network:
    """Carries requests; ``fates`` decides what becomes of each, and counts as one's bad luck.

    A request is served at once when it arrives, by ``serve``: that must neither pause nor wait.
    """

    slow_seconds = 1.0

    def __init__(self, time: Time) -> None:
        self.time = time
        self.fates: Callable[[Request], Fate] = lambda _: Fate.ARRIVES
        self.cut: set[tuple[str, str]] = set()
        """Names of processes and servers between which nothing passes."""
        self.late: Callable[[Request], float] = lambda _: 1.0
        """How long a stray request is under way, or a late one beyond its time-out (seconds)."""
        self.held_seconds: Callable[[], float] = lambda: 1.0

    def call(self, server: str, name: str, serve: Callable[[], T], timeout: float) -> T:
        """One request of the running process, and its answer.

        :raises RequestLost: see there.
        :raises RequestTimedOut: see there.
        """
        time = self.time
        request = Request(time.process, server, name)
        time.pause(time.random.uniform(*LATENCY_SECONDS))
        if (request.process.name, server) in self.cut:
            time.pause(timeout)
            raise RequestTimedOut(name)
        fate = self.fates(request)
        answer = serve() if fate is Fate.ARRIVES else self._struck(fate, request, serve, timeout)
        time.pause(time.random.uniform(*LATENCY_SECONDS))
        return answer

    def _struck(self, fate: Fate, request: Request, serve: Callable[[], T], timeout: float) -> T:
        """One that does not simply arrive."""
        time, name = self.time, request.name
        if fate is Fate.LOST:
            raise RequestLost(name)
        if fate is Fate.STRAY:
            time.later(self.late(request), lambda: _served(serve))
            raise RequestLost(name)
        if fate is Fate.LATE:
            time.later(timeout + self.late(request), lambda: _served(serve))
            time.pause(timeout)
            raise RequestTimedOut(name)
        if fate is Fate.SLOW:
            time.pause(min(self.slow_seconds, timeout))
        answer = serve()
        if fate is Fate.HELD:
            time.pause(min(self.held_seconds(), timeout))
        if fate in (Fate.REPLY_LOST, Fate.HELD):
            raise RequestLost(name)
        return answer


def _served(serve: Callable[[], object]) -> None:
    """Late, and nobody hears the answer."""
    with suppress(Exception):
        serve()
