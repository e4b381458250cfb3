"""The TCP proxy: what it passes, and the ways in which it fails on demand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack import Direction, Kafka, Proxy
from devstack.waiting import wait_until

QUIET_SECONDS = 0.2


class EchoServer:
    """Sends back what it gets, and the end of the stream after it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return


@pytest.fixture
def server() -> Iterator[EchoServer]:
    echo = EchoServer()
    yield echo
    echo.socket.close()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[Proxy]:
    proxy = Proxy("127.0.0.1", server.port)
    yield proxy
    proxy.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def assert_silent(client: socket.socket) -> None:
    client.settimeout(QUIET_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)


def test_passes_bytes_and_the_end_of_the_stream(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 40_000
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        assert receive(client, len(sent)) == sent
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, 10, "end of the connection")


def test_cut_resets_and_refuses_until_restored(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.cut()
        assert proxy.connections == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.restore()
    with connect(proxy) as client:
        assert ask(client, b"b") == b"b"


def test_sever_resets_and_welcomes_new_ones(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.sever()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert ask(client, b"b") == b"b"


def test_delay_is_a_latency_and_not_a_throughput_limit(proxy: Proxy) -> None:
    proxy.delay(0.1)
    with connect(proxy) as client:
        begun = time.monotonic()
        for _ in range(20):
            client.sendall(b"x")
            time.sleep(0.005)  # So that each is a chunk of its own.
        assert receive(client, 20) == b"x" * 20
        # Once each way; one after the other they would take 4 s.
        assert 0.2 <= time.monotonic() - begun < 2.0
        proxy.delay(0)
        begun = time.monotonic()
        assert ask(client, b"y") == b"y"
        assert time.monotonic() - begun < 0.1


def test_stall_holds_everything_and_loses_nothing(proxy: Proxy) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        proxy.stall()
        client.sendall(b"a")
        other.sendall(b"b")
        assert_silent(client)
        proxy.restore()
        assert receive(client, 1) == b"a"
        assert receive(other, 1) == b"b"


def test_stall_of_one_direction(proxy: Proxy) -> None:
    seen: list[tuple[Direction, bytes]] = []
    arrived = threading.Event()

    def watch(direction: Direction, data: bytes) -> bytes:
        seen.append((direction, data))
        arrived.set()
        return data

    proxy.on_data = watch
    with connect(proxy) as client:
        proxy.stall(Direction.TO_CLIENT)
        client.sendall(b"a")
        assert arrived.wait(10)
        assert_silent(client)
        assert seen == [(Direction.TO_SERVER, b"a")]
        proxy.restore()
        assert receive(client, 1) == b"a"


def test_a_hook_changes_swallows_and_holds_up_single_requests(proxy: Proxy) -> None:
    release = threading.Event()

    def hook(direction: Direction, data: bytes) -> bytes | None:
        if direction is Direction.TO_CLIENT:
            return data
        if data == b"hold":
            release.wait(10)
        return None if data == b"lose" else data.upper()

    proxy.on_data = hook
    with connect(proxy) as client, connect(proxy) as other:
        client.sendall(b"hold")
        assert ask(other, b"free") == b"FREE"
        other.sendall(b"lose")
        assert_silent(other)
        assert_silent(client)
        release.set()
        assert receive(client, 4) == b"HOLD"


def test_a_hook_that_fails_breaks_its_connection_only(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(direction: Direction, data: bytes) -> bytes:
        if data == b"bad":
            raise ValueError(data)
        return data

    proxy.on_data = hook
    with connect(proxy) as client, connect(proxy) as other:
        client.sendall(b"bad")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert ask(other, b"good") == b"good"
    assert "ValueError: b'bad'" in caplog.text


def test_a_server_that_is_away_means_a_reset(proxy: Proxy, server: EchoServer) -> None:
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    # It may come as early as in connect().
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)


def test_close_may_be_called_twice(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.close()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_kafka_clients_stay_behind_the_proxy(kafka: Kafka) -> None:
    """The metadata names the proxy's port, too: else clients would walk past it."""
    [proxy] = kafka.proxies
    settings = {"log_level": 0, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50}
    direct = AdminClient({**settings, "bootstrap.servers": kafka.bootstrap_servers})
    proxied = AdminClient({**settings, "bootstrap.servers": kafka.proxied_bootstrap_servers})
    brokers = proxied.list_topics(timeout=20).brokers.values()
    assert [f"{broker.host}:{broker.port}" for broker in brokers] == [proxy.address]
    proxy.cut()
    try:
        with pytest.raises(KafkaException):
            proxied.list_topics(timeout=0.5)
        assert direct.list_topics(timeout=20).brokers
    finally:
        proxy.restore()
    assert proxied.list_topics(timeout=20).brokers
