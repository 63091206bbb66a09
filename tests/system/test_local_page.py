"""The server of a local page: whom it answers, and what a port that is taken does."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.system.local_page import LocalHandler, LocalServer, serve


class Greeting(LocalHandler):
    """A page of one word."""

    def get(self) -> None:
        self.answer_page("<p>NONCE A</p>", "NONCE", {"A": "NONCE"})


@pytest.fixture
def port() -> Iterator[int]:
    with LocalServer(0, Greeting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, method: str, headers: dict[str, str]) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, "/", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Content-Security-Policy", "")
    finally:
        connection.close()


def test_the_nonce_is_new_each_time_and_not_put_into_values(port: int) -> None:
    pages = {ask(port, "GET", {})[1] for _ in range(2)}
    assert len(pages) == 2
    assert all(page.endswith(b" NONCE</p>") for page in pages)
    status, page, policy = ask(port, "GET", {})
    assert status == 200
    assert f"script-src 'nonce-{page.split()[0].removeprefix(b'<p>').decode()}'" in policy


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "null"}, {"Origin": "http://evil.example"}])
def test_other_sites_are_turned_away(method: str, headers: dict[str, str], port: int) -> None:
    assert ask(port, method, headers)[0] == 403


def test_a_page_takes_nothing_unless_it_says_so(port: int) -> None:
    assert ask(port, "POST", {})[0] == 405
    assert ask(port, "GET", {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"})[0] == 200


def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose another, or 0"):
        serve(lambda number: LocalServer(number, Greeting), port)
