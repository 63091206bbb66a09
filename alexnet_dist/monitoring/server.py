"""An HTTP server for one page, which costs a run little whatever its clients do, over TLS if there is a certificate.

One thread, a bounded number of connections, a few seconds for each of them, and a page that is made at most once a
second, however many ask for it. The standard library's threading server, which prometheus_client starts, has a thread
and a descriptor for every client that connects and says nothing, without end; with TLS, one such client keeps it from
accepting any other.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from threading import Thread

from alexnet_dist.monitoring.access import ANYBODY, Access
from alexnet_dist.monitoring.channel import Channel, TlsChannel

CONNECTIONS = 64  # at once, about; fewer where few descriptors may be open
CONNECTION_S = 5.0  # from the connection to the last byte that a client has read
PAGE_S = 1.0
WAITING = 128  # connections that the kernel holds until they are accepted; they take no descriptor
# How long a last reader is waited for: intervals between the last two reads, but at least and at most so many seconds.
# Not longer: after an error the other ranks wait 15 s for rank 0 to report it.
LINGER_INTERVALS, LINGER_S, LINGER_MAX_S = 1.5, 7.5, 10.0
POLL_S = 0.05
PAUSE_S = 0.5  # before the next connection is accepted, where no descriptor is left
REQUEST_BYTES = 8192
PATHS = ("/", "/metrics")
CHALLENGE = 'Basic realm="metrics", charset="UTF-8"'
LAST_PORT = 65535
PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of prometheus_client.generate_latest


class PageServer:
    """Serves a page in a thread of its own, from its construction until it is closed."""

    def __init__(self, make_page: Callable[[], bytes], address: str, port: int, access: Access = ANYBODY) -> None:
        """Listen on an address of this machine, a name or a number; port 0: any free one. access: to whom it serves.

        Raises OSError, OverflowError or UnicodeError if that is not possible.
        """
        self._access = access
        self._make_page, self._page, self._page_s = make_page, b"", float("-inf")
        self._oldest_s = float("-inf")  # a page that was made before is made again
        # The rest of the descriptors is the run's: for its shards, its checkpoints and its links.
        self._most = max(2, min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._socket = _listen(address, port)
        self.port: int = self._socket.getsockname()[1]
        self._read_s: deque[float] = deque(maxlen=2)  # when the pages were made that clients have read last
        self._open: dict[asyncio.Task[None], None] = {}  # in the order in which they began
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def wait_for_reader(self, stopped: Callable[[float], bool]) -> None:
        """Wait until a client has read what the page says now, at most 7.5 to 10 s; not at all if nobody reads it.

        stopped: waits for at most so many seconds and returns whether to wait no longer.
        """
        read_s, began_s = list(self._read_s), time.monotonic()
        interval_s = read_s[-1] - read_s[0] if read_s else 0.0
        limit_s = min(max(LINGER_INTERVALS * interval_s, LINGER_S), LINGER_MAX_S)
        if not read_s or began_s - read_s[-1] > max(limit_s, LINGER_INTERVALS * interval_s):
            return
        self._oldest_s = began_s
        while self._read_s[-1] < began_s and time.monotonic() < began_s + limit_s:
            if stopped(POLL_S):
                return

    def close(self) -> None:
        """Stop listening, end the open connections and the thread."""
        with suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with self._socket, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.add_reader(self._socket, self._accept)
        await self._stop.wait()
        self._loop.remove_reader(self._socket)
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        """Begin to answer a client; drop the oldest one if there are too many."""
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone
            return
        except OSError:  # no descriptor is left
            self._loop.remove_reader(self._socket)
            self._loop.call_later(PAUSE_S, self._accept_again)
            return
        client.setblocking(False)
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._answer(client))
        self._open[task] = None
        # Here and not in the task, which may be cancelled before it begins.
        task.add_done_callback(lambda ended: self._disconnect(ended, client))

    def _accept_again(self) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(self._socket, self._accept)

    def _disconnect(self, task: asyncio.Task[None], client: socket.socket) -> None:
        self._open.pop(task, None)
        client.close()

    async def _answer(self, client: socket.socket) -> None:
        """Answer one request, and wait until the client has read the answer and closed the connection."""
        channel = Channel(self._loop, client)
        # The client's loss: it is slow, gone, or not a client. TimeoutError and ssl.SSLError are OSErrors.
        with suppress(OSError):
            async with asyncio.timeout(CONNECTION_S):
                if self._access.tls:
                    channel = await TlsChannel.open(self._loop, client, self._access.tls)
                request = b""
                while b"\r\n\r\n" not in request:
                    part = await channel.receive(REQUEST_BYTES)
                    request += part
                    if not part or len(request) > REQUEST_BYTES:
                        return
                response, is_page = self._response(request)
                made_s = self._page_s
                await channel.send_last(response)
                await self._loop.sock_recv(client, 1)
                if is_page and made_s > max(self._read_s, default=float("-inf")):
                    self._read_s.append(made_s)

    def _response(self, request: bytes) -> tuple[bytes, bool]:
        """Return the response to a request's head, and whether it has the page."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        status, kind, more = HTTPStatus.OK, PAGE_TYPE, ""
        if not self._access.admits(request.partition(b"\r\n\r\n")[0]):
            status, kind, body = HTTPStatus.UNAUTHORIZED, "text/plain", b"the metrics have a password\n"
            more = f"WWW-Authenticate: {CHALLENGE}\r\n"
        elif method not in (b"GET", b"HEAD"):
            status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET and HEAD\n"
        elif path not in PATHS:
            status, kind, body = HTTPStatus.NOT_FOUND, "text/plain", b"the metrics are at /metrics\n"
        else:
            body = self._current_page()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
            "Connection: close\r\n\r\n"
        )
        with_body = method != b"HEAD"
        return head.encode() + (body if with_body else b""), with_body and status is HTTPStatus.OK

    def _current_page(self) -> bytes:
        """Return the page, at most a second old."""
        now_s = time.monotonic()
        if now_s - self._page_s >= PAGE_S or self._page_s < self._oldest_s:
            self._page, self._page_s = self._make_page(), now_s
        return self._page


def _listen(address: str, port: int) -> socket.socket:
    """Return a non-blocking socket that listens on an address; on all IPv6 addresses: also on all IPv4 ones."""
    if port > LAST_PORT:
        raise OverflowError(f"port {port} is above {LAST_PORT}")
    found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, (host, *_) = found[0]
    is_all = family == socket.AF_INET6 and ipaddress.ip_address(host).is_unspecified
    both = is_all and socket.has_dualstack_ipv6()
    listening = socket.create_server((str(host), port), family=family, backlog=WAITING, dualstack_ipv6=both)
    listening.setblocking(False)
    return listening
