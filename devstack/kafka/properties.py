"""A node's server.properties: one machine, quick restarts, real transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = STDOUT
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = {level}
rootLogger.appenderRef.stdout.ref = STDOUT
"""


@dataclass(frozen=True)
class Ports:
    """Where a node listens, and where clients behind the proxy believe that it does."""

    client: int
    controller: int
    proxied: int | None = None
    advertised: int | None = None


def server_properties(
    node: int, ports: Sequence[Ports], data: Path, extra: Mapping[str, str]
) -> str:
    """The text of the file for one of the nodes, numbered from 0; node.id counts from 1."""
    replicas = min(len(ports), 3)
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(node + 1),
        "controller.quorum.voters": ",".join(
            f"{number}@{HOST}:{each.controller}" for number, each in enumerate(ports, start=1)
        ),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        **_listeners(ports[node]),
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        # A broker that was killed can register again only when its old session is over.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
        "group.initial.rebalance.delay.ms": "0",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(max(1, replicas - 1)),
        "offsets.topic.replication.factor": str(replicas),
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(max(1, replicas - 1)),
        "transaction.state.log.num.partitions": "4",
        # Each file is preallocated and mapped; the default of 10 MB fills small disks.
        "log.index.size.max.bytes": str(1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        **extra,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _listeners(ports: Ports) -> dict[str, str]:
    listeners = {"CLIENT": ports.client, "CONTROLLER": ports.controller}
    advertised = {"CLIENT": ports.client}
    if ports.proxied is not None and ports.advertised is not None:
        listeners["PROXIED"] = ports.proxied
        advertised["PROXIED"] = ports.advertised
    return {
        "listeners": _join(listeners),
        "advertised.listeners": _join(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
    }


def _join(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())
