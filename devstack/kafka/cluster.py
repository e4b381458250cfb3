"""A cluster of one or three nodes."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devstack.errors import StackError
from devstack.kafka.node import Node
from devstack.kafka.properties import HOST, Ports
from devstack.ports import free_port
from devstack.proxy import Proxy
from devstack.waiting import wait_until

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

READY_SECONDS = 60.0
METADATA_SECONDS = 2.0


class Kafka:
    """Real Apache Kafka (KRaft): child processes with their data below `data_dir`.

    Nodes are numbered from 0 (their node.id is one more). `broker_config` adds to or overrides
    the server.properties of every node, `format_arguments` go to Kafka's storage tool (e.g.
    `--add-scram`). With `proxied=True` each node has a second listener behind a `Proxy`, and
    clients of `proxied_bootstrap_servers` reach the nodes through `proxies` only.

        with Kafka(folder, 3) as kafka:
            kafka.kill(1)
            kafka.restart(1)
    """

    def __init__(
        self,
        data_dir: Path,
        nodes: int = 1,
        *,
        broker_config: Mapping[str, str] | None = None,
        proxied: bool = False,
        heap: str = "256m",
        log_level: str = "WARN",
        format_arguments: Sequence[str] = (),
        archive: Path | None = None,
    ) -> None:
        self.proxies: list[Proxy] = []
        self._format_arguments = format_arguments
        ports = [self._ports(proxied) for _ in range(nodes)]
        self.nodes = [
            Node(
                number,
                data_dir.absolute() / f"node-{number}",
                ports,
                broker_config=broker_config or {},
                heap=heap,
                log_level=log_level,
                archive=archive,
            )
            for number in range(nodes)
        ]
        self._admin: AdminClient | None = None

    @property
    def bootstrap_servers(self) -> str:
        """For clients that reach the nodes directly."""
        return ",".join(f"{HOST}:{node.ports.client}" for node in self.nodes)

    @property
    def proxied_bootstrap_servers(self) -> str:
        """For clients that reach the nodes through `proxies`."""
        return ",".join(proxy.address for proxy in self.proxies)

    def start(self) -> None:
        """Formats (the first time) and starts all nodes, and waits until they serve."""
        self._format()
        for node in self.nodes:
            node.start()
        self.wait_ready()

    def stop(self) -> None:
        """Stops all nodes in an orderly way, within a bound; nothing happens if none runs."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Node.stop, self.nodes))

    def kill(self, node: int = 0) -> None:
        """SIGKILL, as if the machine had lost power but for what the disk's cache holds."""
        self.nodes[node].kill()

    def pause(self, node: int = 0) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self.nodes[node].child.pause()

    def resume(self, node: int = 0) -> None:
        """SIGCONT."""
        self.nodes[node].child.resume()

    def restart(self, node: int = 0) -> None:
        """Starts a node again (stopping it first if it runs), and waits until it serves."""
        self.nodes[node].stop()
        self.nodes[node].start()
        self.wait_ready()

    def close(self) -> None:
        """Kills all nodes, whose data is no longer wanted, and closes the proxies; final.

        A start that is under way on another thread then fails.
        """
        for node in self.nodes:
            node.close()
        for proxy in self.proxies:
            proxy.close()

    def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Waits until every running node is a registered broker and all partitions have leaders.

        StackError with the log's tail as soon as a node dies.
        """
        wait_until(self._is_ready, timeout_seconds, f"Kafka at {self.bootstrap_servers}")

    def check(self) -> None:
        """StackError with the log's tail if a node that was started has ended by itself."""
        for node in self.nodes:
            node.check()

    def _is_ready(self) -> bool:
        running = [node for node in self.nodes if node.started]
        if not running:
            raise StackError("Kafka is not running")
        self.check()
        if not all(_listens(node.ports.client) for node in running):
            return False
        return _serves(self._metadata(), {node.number + 1 for node in running})

    def _metadata(self) -> ClusterMetadata | None:
        from confluent_kafka import KafkaException

        try:
            return self._client().list_topics(timeout=METADATA_SECONDS)
        except KafkaException:
            return None

    def _client(self) -> AdminClient:
        # Kept: it hands out what it learnt last, and takes seconds to end on a dead broker.
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            # A broker that is not there yet is no news: neither logged nor waited for.
            settings: dict[str, Any] = {
                "bootstrap.servers": self.bootstrap_servers,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "log_level": 0,
                "error_cb": lambda _: None,
            }
            self._admin = AdminClient(settings)
        return self._admin

    def _ports(self, proxied: bool) -> Ports:
        if not proxied:
            return Ports(free_port(), free_port())
        listener = free_port()
        proxy = Proxy(HOST, listener)
        self.proxies.append(proxy)
        return Ports(free_port(), free_port(), listener, proxy.port)

    def _format(self) -> None:
        first, *others = self.nodes
        if not first.formatted:
            first.format(self._format_arguments)
        for node in others:
            if not node.formatted:
                node.format_like(first)

    def __enter__(self) -> Kafka:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=METADATA_SECONDS).close()
    except OSError:
        return False
    return True


def _serves(metadata: ClusterMetadata | None, node_ids: set[int]) -> bool:
    if metadata is None or not node_ids <= set(metadata.brokers):
        return False
    return all(
        partition.leader in metadata.brokers
        for topic in metadata.topics.values()
        for partition in topic.partitions.values()
    )
