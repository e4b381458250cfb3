"""A TCP proxy that breaks and delays connections on demand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

from devstack.errors import StackError
from devstack.ports import free_port

HOST = "127.0.0.1"
CALL_SECONDS = 10.0
CHUNK_BYTES = 64 * 1024
QUEUED_CHUNKS = 256
HOOK_THREADS = 64

T = TypeVar("T")

log = logging.getLogger(__name__)


class Direction(StrEnum):
    """Which way the bytes go."""

    TO_SERVER = "to-server"
    TO_CLIENT = "to-client"


OnData = Callable[[Direction, bytes], bytes | None]


class Proxy:
    """Listens on a free loopback port, from construction until `close`, for one server.

    `on_data` is asked for every chunk of bytes that passes: it returns what to send on, or None
    to swallow the chunk. It runs on a thread of its own and may block, for a bounded time: it
    then holds up its connection in that direction, nothing else. It may be set and unset at any
    time, as may everything here, from any thread.
    """

    def __init__(self, target_host: str, target_port: int, on_data: OnData | None = None) -> None:
        self.port = free_port()
        self.on_data = on_data
        self.delay_seconds = 0.0
        self.target = (target_host, target_port)
        self.hooks = ThreadPoolExecutor(HOOK_THREADS, thread_name_prefix="proxy-hook")
        self.gates = {direction: asyncio.Event() for direction in Direction}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.restore()

    @property
    def address(self) -> str:
        """`host:port`, for clients."""
        return f"{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def cut(self) -> None:
        """Resets all connections, and refuses new ones until `restore`."""
        self._call(self._cut())

    def sever(self) -> None:
        """Resets all connections; new ones are welcome."""
        self._call(self._sever())

    def delay(self, seconds: float) -> None:
        """Every byte arrives that much later, each way; 0 ends it."""
        self.delay_seconds = seconds

    def stall(self, *directions: Direction) -> None:
        """Forwards nothing (both ways, or those named) while connections stay open, until
        `restore`. Nothing is lost: what was held is sent on then, unless the connection ends."""
        self._call(self._open(set(Direction) - set(directions or Direction)))

    def restore(self) -> None:
        """Undoes cut, delay and stall."""
        self.delay_seconds = 0.0
        self._call(self._restore())

    def close(self) -> None:
        """Cuts, and frees the port and the thread. Nothing works afterwards."""
        if self._loop.is_closed():
            return
        self._call(self._cut())
        self.hooks.shutdown(wait=False, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise StackError("the proxy is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._sever()

    async def _sever(self) -> None:
        while self._connections:
            for connection in list(self._connections):
                connection.reset()
            await asyncio.sleep(0.001)

    async def _open(self, directions: set[Direction]) -> None:
        for direction, gate in self.gates.items():
            if direction in directions:
                gate.set()
            else:
                gate.clear()

    async def _restore(self) -> None:
        await self._open(set(Direction))
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._listen())

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        return listener

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, writer)
        self._connections.add(connection)
        if self._server is None:
            # Accepted just before the cut.
            connection.reset()
        try:
            await connection.run(reader)
        finally:
            self._connections.discard(connection)


class _Connection:
    """A client's connection and the one to the server."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = [client]
        self._ended = asyncio.Event()

    def reset(self) -> None:
        """Both sides see a connection reset, and what was under way is lost."""
        for writer in self._writers:
            _reset(writer)
        self._ended.set()

    async def run(self, client: asyncio.StreamReader) -> None:
        work = asyncio.ensure_future(self._forward(client))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            ended.cancel()
            await asyncio.wait((work, ended))
            for writer in self._writers:
                writer.close()

    async def _forward(self, client: asyncio.StreamReader) -> None:
        try:
            server, to_server = await asyncio.open_connection(*self._proxy.target)
            self._writers.append(to_server)
            await asyncio.gather(
                self._pump(Direction.TO_SERVER, client, to_server),
                self._pump(Direction.TO_CLIENT, server, self._writers[0]),
            )
        except OSError:
            self.reset()
        except Exception:
            # A hook's mistake: it must be seen, and its connection must not hang.
            log.exception("on_data failed")
            self.reset()

    async def _pump(
        self, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        # Read ahead, so that a delay is a latency and not a limit of the throughput.
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        reading = asyncio.ensure_future(self._read(source, queue))
        try:
            await self._write(direction, queue, sink)
        finally:
            reading.cancel()

    async def _read(
        self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"?"
        with contextlib.suppress(OSError):
            while data:
                data = await source.read(CHUNK_BYTES)
                await queue.put((time.monotonic(), data))
            return
        self.reset()

    async def _write(
        self,
        direction: Direction,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
    ) -> None:
        while True:
            arrived, data = await queue.get()
            await asyncio.sleep(max(0.0, arrived + self._proxy.delay_seconds - time.monotonic()))
            await self._proxy.gates[direction].wait()
            if not data:
                return _end(sink)
            if kept := await self._filtered(direction, data):
                # A stall that began while the hook blocked holds this chunk, too.
                await self._proxy.gates[direction].wait()
                sink.write(kept)
                await sink.drain()

    async def _filtered(self, direction: Direction, data: bytes) -> bytes | None:
        hook = self._proxy.on_data
        if hook is None:
            return data
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._proxy.hooks, hook, direction, data)


def _end(writer: asyncio.StreamWriter) -> None:
    """Passes the end of a stream on; the other direction may still have something to say."""
    with contextlib.suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    # With a linger time of 0, closing sends RST instead of FIN.
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()
