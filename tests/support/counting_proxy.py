"""A TCP server that passes everything on to another one, and counts the bytes of both directions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Traffic:
    """The port of a proxy, and the bytes that have passed through it."""

    port: int = 0
    size_bytes: int = 0


@contextmanager
def counting_proxy(port: int) -> Iterator[Traffic]:
    """Serve a free port of this machine that leads to `port`, until the context ends."""
    traffic, started, stop = Traffic(), threading.Event(), asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):  # the other end may leave while data is on its way
            while chunk := await reader.read(1 << 16):
                traffic.size_bytes += len(chunk)
                writer.write(chunk)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError):  # the proxy ends before its clients
            await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    async def serve() -> None:
        async with await asyncio.start_server(connect, "127.0.0.1", 0, backlog=1024) as server:
            traffic.port = server.sockets[0].getsockname()[1]
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield traffic
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
