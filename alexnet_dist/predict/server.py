"""A local page to try a net: drop an image, see what the net makes of it.

It listens on this machine alone, answers no page of another site, and reads at most MAX_BYTES of an image. One image is
computed at a time; others wait their turn, and more than WAITING of them are turned away.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore, Lock

from alexnet_dist.errors import UserError
from alexnet_dist.predict.explanation import explain
from alexnet_dist.runs.prediction import square_pixels
from alexnet_dist.runs.trained import TrainedNet

ADDRESS = "127.0.0.1"
MAX_BYTES = 32 << 20
WAITING = 64
TIMEOUT_S = 20.0  # for a client to send the next bytes of its request, or to read those of the answer
LENGTH_DIGITS = 15  # a longer Content-Length is no length
PAGE = Path(__file__).with_name("page.html")
NONCE, NAME, MAX = "NONCE", "RUN_NAME", "MAX_BYTES"  # in the page


class Page(ThreadingHTTPServer):
    """Serves the page of a net until it is shut down."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, net: TrainedNet, port: int) -> None:
        """Listen on a port of this machine, 0: any free one. Raises OSError."""
        self.net, self.computing, self.room = net, Lock(), BoundedSemaphore(WAITING)
        super().__init__((ADDRESS, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def handle_error(self, *_: object) -> None:
        """Say in a line what went wrong with a request; nothing if its client has left."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"a request failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """GET / is the page; POST /classify takes the contents of an image file."""

    server: Page
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal is the user's."""

    def do_GET(self) -> None:
        """Send the page."""
        if not self._is_own():
            return
        if self.path != "/":
            self._fail(HTTPStatus.NOT_FOUND, "there is no such page; open /")
            return
        nonce = secrets.token_urlsafe(16)
        name = json.dumps(self.server.net.loaded.directory.resolve().name).replace("<", "\\u003c")
        text = PAGE.read_text("utf-8").replace(NONCE, nonce).replace(NAME, name).replace(MAX, str(MAX_BYTES))
        policy = f"default-src 'none'; img-src data: blob:; connect-src 'self'; style-src 'nonce-{nonce}';"
        headers = {
            "Content-Security-Policy": f"{policy} script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
        }
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode(), headers)

    def do_POST(self) -> None:
        """Classify an image."""
        if not self._is_own():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/classify" or not (length.isdecimal() and len(length) <= LENGTH_DIGITS):
            self._fail(HTTPStatus.BAD_REQUEST, "expected the contents of an image, with their length, at /classify")
            return
        if int(length) > MAX_BYTES:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BYTES >> 20} MiB: use the command predict")
            return
        if not self.server.room.acquire(blocking=False):
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, "too many images at once; try again")
            return
        try:
            content = self.rfile.read(int(length))
            if len(content) == int(length):
                self._classify(content)
            else:
                self.close_connection = True
        finally:
            self.server.room.release()

    def _classify(self, content: bytes) -> None:
        try:
            with self.server.computing:
                explanation = explain(self.server.net, square_pixels(self.server.net.loaded, content))
        except UserError as error:
            self._fail(HTTPStatus.UNPROCESSABLE_ENTITY, str(error).removeprefix("image: "))
            return
        except (MemoryError, RuntimeError) as error:  # torch's, such as a GPU without memory
            print(f"an image was not classified: {error}", file=sys.stderr, flush=True)
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, "the net failed; the terminal of the command says why")
            return
        self._send(HTTPStatus.OK, "application/json", json.dumps(asdict(explanation)).encode())

    def _is_own(self) -> bool:
        """Return whether a request is from the page itself; a name that leads here from elsewhere is turned away."""
        origin = self.headers.get("Origin")
        own = self.headers.get("Host") in self.server.hosts
        if own and (origin is None or origin.removeprefix("http://") in self.server.hosts):
            return True
        self._fail(HTTPStatus.FORBIDDEN, f"open {self.server.url}")
        return False

    def _fail(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what the client still sends is not read
        self._send(status, "application/json", json.dumps({"error": reason}).encode(), {"Connection": "close"})

    def _send(self, status: HTTPStatus, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Content-Type-Options": "nosniff"}
        for name, value in {**own, "Cache-Control": "no-store", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
