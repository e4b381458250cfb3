"""Free loopback ports that no outgoing connection can take by chance.

Below the ephemeral range: a client that keeps connecting to a dead server on an ephemeral port
can be given that very port as its own source, and then talks to itself and holds the port.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from devstack.errors import StackError

LOWEST = 15_000
EPHEMERAL_START = 32_768

_given: set[int] = set()


def free_port() -> int:
    """A loopback port that is free now and that this process was not given before."""
    for _ in range(1_000):
        port = random.randrange(LOWEST, _highest())
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise StackError(f"no free loopback port between {LOWEST} and {_highest()}")


def _highest() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        start = int(text.split()[0])
    except OSError:
        return EPHEMERAL_START
    return start if LOWEST < start < EPHEMERAL_START else EPHEMERAL_START


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
