"""An HTTP server for a page of this machine alone: it listens on 127.0.0.1 and answers no page of another site."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from alexnet_dist.errors import UserError

ADDRESS = "127.0.0.1"
TIMEOUT_S = 20.0  # for a client to send the next bytes of its request, or to read those of the answer


class LocalServer(ThreadingHTTPServer):
    """Serves a page until it is shut down."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[LocalHandler]) -> None:
        """Listen on a port of this machine, 0: any free one. Raises OSError."""
        super().__init__((ADDRESS, port), handler)
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


class LocalHandler(BaseHTTPRequestHandler):
    """What all pages of this machine have in common: whom they answer, and how."""

    server: LocalServer
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal is the user's."""

    def get(self) -> None:
        """Answer a GET of the page's own."""
        self.fail(HTTPStatus.NOT_FOUND, "there is no such page")

    def post(self) -> None:
        """Answer a POST of the page's own."""
        self.fail(HTTPStatus.METHOD_NOT_ALLOWED, "this page takes nothing")

    def do_GET(self) -> None:
        """Answer a GET."""
        if self._is_own():
            self.get()

    def do_POST(self) -> None:
        """Answer a POST."""
        if self._is_own():
            self.post()

    def _is_own(self) -> bool:
        """Return whether a request is from the page itself; a name that leads here from elsewhere is turned away."""
        origin = self.headers.get("Origin")
        own = self.headers.get("Host") in self.server.hosts
        if own and (origin is None or origin.removeprefix("http://") in self.server.hosts):
            return True
        self.fail(HTTPStatus.FORBIDDEN, f"open {self.server.url}")
        return False

    def fail(self, status: HTTPStatus, reason: str) -> None:
        """Answer with an error, and end the connection: what the client still sends is not read."""
        self.close_connection = True
        self.answer(status, "application/json", json.dumps({"error": reason}).encode(), {"Connection": "close"})

    def answer(self, status: HTTPStatus, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer of a content type."""
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Content-Type-Options": "nosniff"}
        for name, value in {**own, "Cache-Control": "no-store", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def answer_page(self, text: str, placeholder: str, values: Mapping[str, str] | None = None) -> None:
        """Send a page whose own styles and scripts alone are run: those with a nonce where the placeholder stands.

        values: what else replaces a text of the page, in this order, after the nonce.
        """
        nonce = secrets.token_hex(16)
        policy = f"default-src 'none'; img-src data: blob:; connect-src 'self'; style-src 'nonce-{nonce}';"
        headers = {
            "Content-Security-Policy": f"{policy} script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
        }
        text = text.replace(placeholder, nonce)
        for name, value in (values or {}).items():
            text = text.replace(name, value)
        self.answer(HTTPStatus.OK, "text/html; charset=utf-8", text.encode(errors="replace"), headers)


def serve(open_server: Callable[[int], LocalServer], port: int) -> None:
    """Open the server of a page at a port and serve until Ctrl-C. Raises UserError if the port cannot be opened."""
    try:
        server = open_server(port)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; choose another, or 0 for any free one") from None
    with server:
        print(f"open {server.url} in a browser of this machine; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
