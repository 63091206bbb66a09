"""What a server reads from a client and writes to it, plain or over TLS, without ever blocking its thread."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

RECORD_BYTES = 1 << 14  # of a TLS record

Result = TypeVar("Result")


class Channel:
    """A connected client, whose socket the caller closes. All that it awaits may raise OSError."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
        """Take a non-blocking socket."""
        self._loop, self._client = loop, client

    async def receive(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes; nothing if no more will come."""
        return await self._loop.sock_recv(self._client, size)

    async def send_last(self, content: bytes) -> None:
        """Send what is the last: the client then sees the end."""
        await self._loop.sock_sendall(self._client, content)
        self._client.shutdown(socket.SHUT_WR)


class TlsChannel(Channel):
    """TLS over a socket, record by record in memory: a client that stops in mid-handshake only makes a task wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: socket.socket, context: ssl.SSLContext) -> None:
        """Begin with no handshake."""
        super().__init__(loop, client)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @classmethod
    async def open(cls, loop: asyncio.AbstractEventLoop, client: socket.socket, context: ssl.SSLContext) -> TlsChannel:
        """Shake hands with a client."""
        channel = cls(loop, client, context)
        await channel._exchange(channel._tls.do_handshake)
        return channel

    async def receive(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes; nothing if no more will come."""
        try:
            return await self._exchange(lambda: self._tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    async def send_last(self, content: bytes) -> None:
        """Send what is the last: the client then sees the end.

        Without TLS's own mark of it: a client that closes with that unread resets the connection, as if it had read
        nothing. The length in the response's head shows whether it is complete.
        """
        self._tls.write(content)
        await super().send_last(self._outgoing.read())

    async def _exchange(self, work: Callable[[], Result]) -> Result:
        """Do something that may need more of the client first; send what it makes."""
        while True:
            try:
                return work()
            except ssl.SSLWantReadError:
                await self._flush()
                part = await self._loop.sock_recv(self._client, RECORD_BYTES)
                if part:
                    self._incoming.write(part)
                else:
                    self._incoming.write_eof()
            finally:  # also after an error, which has an alert that tells the client why
                await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._client, self._outgoing.read())
