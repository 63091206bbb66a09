"""The server of a page, with clients that say nothing, too little, too much, or do not listen."""

from __future__ import annotations

import gc
import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from alexnet_dist.monitoring import server
from alexnet_dist.monitoring.server import PageServer

PAGE = b"steps_total 3\n"
HEAD = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def serving(make_page: Callable[[], bytes] = lambda: PAGE) -> Iterator[int]:
    """Serve a page during a with block, and yield the port."""
    with closing(PageServer(make_page, "127.0.0.1", 0)) as served:
        yield served.port


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def requested(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()


def send_slowly(client: socket.socket, seconds: float) -> None:
    """Send a byte now and then."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < seconds:
        client.sendall(b"x")
        time.sleep(0.05)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def seconds_until_closed(client: socket.socket) -> float:
    began_s = time.monotonic()
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began_s


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/metrics", (200, PAGE)),
        ("GET", "/", (200, PAGE)),
        ("GET", "/metrics?name[]=x", (200, PAGE)),
        ("HEAD", "/metrics", (200, b"")),
        ("POST", "/metrics", (405, b"only GET and HEAD\n")),
        ("GET", "/favicon.ico", (404, b"the metrics are at /metrics\n")),
        ("GET", "/metrics/../etc", (404, b"the metrics are at /metrics\n")),
    ],
)
def test_requests_are_answered(method: str, path: str, expected: tuple[int, bytes]) -> None:
    with serving() as port:
        assert requested(port, method, path) == expected


def test_a_page_is_made_once_for_all_who_ask_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make_page() -> bytes:
        made.append(len(made))
        return b"%d\n" % len(made)

    monkeypatch.setattr(server, "PAGE_S", 100.0)
    with serving(make_page) as port:
        assert {requested(port) for _ in range(5)} == {(200, b"1\n")}
        monkeypatch.setattr(server, "PAGE_S", 0.0)
        assert requested(port) == (200, b"2\n")
    assert len(made) == 2


@pytest.mark.parametrize("said", [b"", b"GET ", HEAD], ids=["nothing", "a word", "no end"])
def test_clients_that_say_too_little_are_closed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.3)
    began_s = time.monotonic()
    with serving() as port, connected(port) as client:
        client.sendall(said)
        seconds_until_closed(client)
        assert 0.3 <= time.monotonic() - began_s < 10


def test_a_client_that_sends_a_byte_now_and_then_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.4)
    with serving() as port, connected(port) as client:
        with pytest.raises(ConnectionError):
            send_slowly(client, 20)
        assert requested(port) == (200, PAGE)


def test_a_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.3)
    large = b"x" * 2**25
    with serving(lambda: large) as port, connected(port) as client:
        client.sendall(HEAD + b"\r\n")
        time.sleep(3.0)
        received = 0
        while chunk := client.recv(2**20):
            received += len(chunk)
        assert received < len(large)


@pytest.mark.parametrize("said", [b"\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"a" * 20_000])
def test_what_is_no_request_harms_nothing(said: bytes) -> None:
    with serving() as port:
        with connected(port) as client:
            client.sendall(said)
            seconds_until_closed(client)
        assert requested(port) == (200, PAGE)


def test_idle_clients_take_few_descriptors_and_one_thread_and_a_scraper_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 16)
    gc.collect()
    threads, before = threading.active_count(), descriptors()
    with serving() as port, ExitStack() as clients:
        own = 200
        for _ in range(own):
            clients.enter_context(connected(port))
        for _ in range(5):
            assert requested(port) == (200, PAGE)
        assert threading.active_count() == threads + 1
        # The server's own: its socket, its loop's three, and the connections, of which one is just being accepted.
        assert descriptors() - before - own <= 4 + 16 + 1
    assert threading.active_count() <= threads
    assert descriptors() <= before


def test_few_connections_are_open_where_few_descriptors_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (24, 24))
    monkeypatch.setattr(server, "CONNECTION_S", 30.0)
    with serving() as port, ExitStack() as clients:
        first, *_ = [clients.enter_context(connected(port)) for _ in range(4)]
        assert seconds_until_closed(first) < 20
        assert requested(port) == (200, PAGE)


def test_a_client_waits_until_a_descriptor_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE_S", 0.1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as port, ExitStack() as files, socket.socket() as client:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, limits[1]))
        try:
            with suppress(OSError):  # until too many files are open
                while True:
                    files.enter_context(Path("/dev/null").open())
            client.connect(("127.0.0.1", port))
            client.sendall(HEAD + b"\r\n")
            client.settimeout(0.5)
            began_s = time.process_time()
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert time.process_time() - began_s < 0.25  # the server does not try without a pause
            files.close()
            client.settimeout(20)
            assert b"200 OK" in client.recv(65536)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_page_says_what_it_is() -> None:
    with serving() as port, connected(port) as client:
        client.sendall(HEAD + b"\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in client.recv(65536)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_are_those_of_both_versions() -> None:
    with closing(PageServer(lambda: PAGE, "::", 0)) as served:
        assert requested(served.port) == (200, PAGE)
        with socket.create_connection(("::1", served.port), timeout=20) as client:
            client.sendall(HEAD + b"\r\n")
            assert b"200 OK" in client.recv(65536)


def test_closing_does_not_wait_for_clients() -> None:
    served = PageServer(lambda: PAGE, "127.0.0.1", 0)
    with connected(served.port) as client:
        client.sendall(HEAD)
        began_s = time.monotonic()
        served.close()
        assert time.monotonic() - began_s < 2
        assert seconds_until_closed(client) < 2
    with pytest.raises(ConnectionError):
        connected(served.port)
    with closing(PageServer(lambda: PAGE, "127.0.0.1", served.port)) as again:
        assert requested(again.port) == (200, PAGE)


def sleep(limit_s: float) -> bool:
    time.sleep(limit_s)
    return False


def read(served: PageServer) -> None:
    """Request the page, and wait until the server has seen that it was read, which is a moment later."""
    before = list(served._read_s)
    assert requested(served.port)[0] == 200
    while list(served._read_s) == before:
        time.sleep(0.001)


def waited_s(served: PageServer, stopped: Callable[[float], bool] = sleep) -> float:
    began_s = time.monotonic()
    served.wait_for_reader(stopped)
    return time.monotonic() - began_s


def test_the_last_page_is_kept_until_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAGE_S", 100.0)
    said = [b"running\n"]
    with closing(PageServer(lambda: said[0], "127.0.0.1", 0)) as served:
        read(served)
        said[0] = b"ended\n"
        pages: list[bytes] = []
        reader = threading.Timer(0.3, lambda: pages.append(requested(served.port)[1]))
        reader.start()
        assert 0.25 < waited_s(served) < 7
        reader.join()
        assert pages == [b"ended\n"]  # although the page before was still young


@pytest.mark.parametrize(("method", "path"), [(None, ""), ("HEAD", "/metrics"), ("GET", "/favicon.ico")])
def test_a_page_that_nobody_reads_is_not_kept(method: str | None, path: str) -> None:
    with closing(PageServer(lambda: PAGE, "127.0.0.1", 0)) as served:
        if method:
            requested(served.port, method, path)
        assert waited_s(served) < 0.05


def test_a_reader_that_has_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.2)
    with closing(PageServer(lambda: PAGE, "127.0.0.1", 0)) as served:
        read(served)
        assert 0.2 <= waited_s(served) < 5  # it may still come
        time.sleep(0.3)
        assert waited_s(served) < 0.05


def test_a_wait_for_a_reader_lasts_one_and_a_half_intervals_and_ends_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PAGE_S", 0.0)
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    monkeypatch.setattr(server, "LINGER_MAX_S", 1.5)
    with closing(PageServer(lambda: PAGE, "127.0.0.1", 0)) as served:
        read(served)
        time.sleep(0.6)
        read(served)
        assert 0.9 <= waited_s(served) < 5
        read(served)
        assert waited_s(served, lambda _: True) < 0.05
