"""The last request of a transaction arrives late: the hazard that KIP-890 closes for new clients.

librdkafka sends EndTxn and TxnOffsetCommit again by itself, when its connection breaks or a
time-out has passed, and then says success. The original can arrive later than that, in the middle
of another transaction. Here it is taken off the wire, and sent over a connection of its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random

from devstack import Direction, Proxy, StackError
from devstack.waiting import wait_until
from tests.faults.chaos.nemesis import Heal, Nemesis
from tests.faults.chaos.stage import Stage

TXN_OFFSET_COMMIT, END_TXN = 28, 26
COMES_SECONDS = 6.0
ANSWER_SECONDS = 5.0
LONGEST_FRAME_BYTES = 1_000_000
RESENT_SECONDS = (0.05, 3.0)
PAST_TIMEOUT_SECONDS = (8.5, 12.0)
"""The engine's calls end after 8 s, librdkafka's requests after 10."""


class Catch:
    """Takes the first request of a kind off the wire."""

    def __init__(self, proxy: Proxy, api_key: int, caught: Callable[[], object]) -> None:
        """:param caught: what to do then; the connection stands still meanwhile."""
        self.proxy = proxy
        self.data: bytes | None = None
        self._api_key = api_key
        self._caught = caught
        self._lock = threading.Lock()
        proxy.on_data = self._passing

    def release(self) -> None:
        """Send it on, late; whatever the broker answers."""
        if self.data is None:
            return
        with suppress(OSError), socket.create_connection(self.proxy.target, ANSWER_SECONDS) as late:
            late.settimeout(ANSWER_SECONDS)
            late.sendall(self.data)
            late.recv(1_024)

    def end(self) -> None:
        self.proxy.on_data = None

    def _passing(self, direction: Direction, data: bytes) -> bytes | None:
        if direction is not Direction.TO_SERVER or self._api_key not in requests_in(data):
            return data
        with self._lock:
            if self.data is not None:
                return data
            self.data = data
        self._caught()
        return None


def requests_in(data: bytes) -> list[int]:
    """The API keys of the requests in a chunk; none when it is not made of whole ones."""
    found, at = [], 0
    while at + 6 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if not 0 < length < LONGEST_FRAME_BYTES:
            return []
        found.append(int.from_bytes(data[at + 4 : at + 6]))
        at += 4 + length
    return found if at == len(data) else []


def resent(api_key: int, stage: Stage, rng: Random) -> Heal | None:
    """The connection breaks, the client sends it again, the original arrives after that."""
    proxy = rng.choice(stage.stack.kafka.proxies)
    return _caught(Catch(proxy, api_key, lambda: None), proxy.sever)


def past_timeout(api_key: int, stage: Stage, rng: Random) -> Heal | None:
    """Nothing breaks; the connection stands still until the client has given up."""
    proxy = rng.choice(stage.stack.kafka.proxies)
    over = threading.Event()
    catch = Catch(proxy, api_key, lambda: over.wait(PAST_TIMEOUT_SECONDS[1]))
    heal = _caught(catch, lambda: None)
    if heal is None:
        return None

    def late() -> None:
        heal()
        over.set()

    return late


def _caught(catch: Catch, then: Callable[[], None]) -> Heal | None:
    with suppress(StackError):
        wait_until(lambda: catch.data is not None, COMES_SECONDS, "such a request")
    catch.end()
    if catch.data is None:
        return None
    then()
    return catch.release


TOUCHES = "connections to Kafka"
KINDS = [
    Nemesis(
        "EndTxn sent again, original late", partial(resent, END_TXN), RESENT_SECONDS, 2, TOUCHES
    ),
    Nemesis(
        "EndTxn later than the time-out",
        partial(past_timeout, END_TXN),
        PAST_TIMEOUT_SECONDS,
        1,
        TOUCHES,
    ),
    Nemesis(
        "offset commit sent again, original late",
        partial(resent, TXN_OFFSET_COMMIT),
        RESENT_SECONDS,
        1.5,
        TOUCHES,
    ),
]
