"""A real HTTP server in a separate process, with fault injection: GET serves files by their absolute path.

It also answers an S3 client's GETs, with the first folder of the path as the bucket.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

GETS, FAULTS = "/-/gets", "/-/faults"


class Handler(BaseHTTPRequestHandler):
    """Serves files; tests send, for each path, the list of faults to inject into its next GETs."""

    protocol_version = "HTTP/1.1"
    gets: ClassVar[Counter[str]] = Counter()
    faults: ClassVar[dict[str, list[str]]] = {}

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_PUT(self) -> None:
        """Set the faults, path to list; `fault*` applies to all further GETs. Resets the request counts."""
        self.faults.clear()
        self.faults.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.gets.clear()
        self._answer(200, b"")

    def do_GET(self) -> None:
        """Serve a file, or the request counts."""
        if self.path == GETS:
            self._answer(200, json.dumps(self.gets).encode())
            return
        self.gets[self.path] += 1
        faults = self.faults.get(self.path, [])
        fault = "" if not faults else faults[0].rstrip("*") if faults[0].endswith("*") else faults.pop(0)
        path = Path(self.path)
        if fault == "redirect loop":
            self._answer(302, b"", Location=self.path)
            return
        if fault.isdigit() or not path.is_file():
            self._answer(int(fault or 404), b"<Error><Code>Injected</Code><Message>injected fault</Message></Error>")
            return
        self._serve(path.read_bytes(), fault)

    def _serve(self, content: bytes, fault: str) -> None:
        half = len(content) // 2
        if fault == "wrong":
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        elif fault == "longer":
            content += b"more"
        elif fault == "shorter":
            content = content[:half]
        elif fault == "endless":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            while True:
                self.wfile.write(content)
        if fault in ("truncated", "slow", "trickle"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:half])
            if fault == "slow":
                time.sleep(5)
            if fault == "trickle":  # one second for the second half
                for byte in range(20):
                    time.sleep(0.05)
                    self.wfile.write(content[half + byte : half + byte + 1] if byte < 19 else content[half + 19 :])
                return
            self.close_connection = True
            return
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self._answer(200, content)

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        """Serve a connection until either side closes it."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def finish(self) -> None:
        """Close a connection, which the client may have closed already."""
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True


class HttpServer:
    """The tests' interface to the running server."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def url(self, path: Path) -> str:
        """Return the URL of a file or folder."""
        return f"{self.endpoint}{path}"

    def fail(self, faults: dict[Path, list[str]]) -> None:
        """Set the faults of the next GETs of each path, in sequence, and reset the counts."""
        content = json.dumps({str(path): names for path, names in faults.items()}).encode()
        request = urllib.request.Request(self.endpoint + FAULTS, data=content, method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def gets(self) -> Counter[str]:
        """Return the number of GETs of each file since the last `fail`, by file name."""
        with urllib.request.urlopen(self.endpoint + GETS, timeout=10) as answer:
            return Counter({Path(path).name: count for path, count in json.load(answer).items()})


@pytest.fixture(scope="session")
def running_server() -> Iterator[HttpServer]:
    """Start the server once for all tests."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield HttpServer(int(server.stdout.readline()))
        finally:
            server.kill()


@pytest.fixture
def http_server(running_server: HttpServer) -> HttpServer:
    """Return the server without faults and with zero counts."""
    running_server.fail({})
    return running_server


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        print(listening.server_port, flush=True)
        listening.serve_forever()
