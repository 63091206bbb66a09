"""The metrics over TLS and with a password, beside clients that never finish a handshake."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from alexnet_dist.distributed.control import Control
from alexnet_dist.monitoring import metrics as metrics_module
from alexnet_dist.monitoring import server
from alexnet_dist.monitoring.access import Access, open_access
from alexnet_dist.monitoring.server import PageServer
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.train import open_metrics
from support.certificates import Certificate, write_password
from support.prometheus_server import PrometheusServer
from support.runs import context, settings

CREDENTIALS = b"prometheus:a b:c"
RIGHT = {"Authorization": f"Basic {b64encode(CREDENTIALS).decode()}"}
WRONG = {"Authorization": f"Basic {b64encode(b'prometheus:x').decode()}"}
PAGE = b"".join(b"steps_total %d\n" % number for number in range(10_000))  # several records


@pytest.fixture
def access(certificate: Certificate) -> Access:
    return Access(open_access(str(certificate.cert), str(certificate.key), None).tls, CREDENTIALS)


@pytest.fixture
def port(access: Access) -> Iterator[int]:
    with closing(PageServer(lambda: PAGE, "127.0.0.1", 0, access)) as served:
        yield served.port


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.cert)


def requested(port: int, context: ssl.SSLContext, headers: dict[str, str]) -> tuple[int, bytes]:
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)) as connection:
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


def client_hello(certificate: Certificate) -> bytes:
    """Return what a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = trusting(certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


def test_the_page_is_whole_over_tls_for_who_has_the_password(port: int, certificate: Certificate) -> None:
    context = trusting(certificate)
    assert requested(port, context, RIGHT) == (200, PAGE)
    for headers in (WRONG, {}):
        assert requested(port, context, headers) == (401, b"the metrics have a password\n")


def test_the_challenge_names_the_scheme(certificate: Certificate, port: int) -> None:
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=trusting(certificate))) as connection:
        connection.request("GET", "/nothing-here")  # nothing is told without the password
        response = connection.getresponse()
        assert (response.status, response.headers["WWW-Authenticate"]) == (
            401,
            'Basic realm="metrics", charset="UTF-8"',
        )


@pytest.mark.parametrize("said", ["nothing", "half a hello", "a hello and no more", "a word"])
def test_clients_in_mid_handshake_keep_nobody_out(
    said: str, port: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = client_hello(certificate)
    sent = {"nothing": b"", "half a hello": hello[: len(hello) // 2], "a hello and no more": hello, "a word": b"\x16"}
    monkeypatch.setattr(server, "CONNECTION_S", 30.0)
    with ExitStack() as clients:
        for _ in range(8):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(sent[said])
        began_s = time.monotonic()
        assert requested(port, trusting(certificate), RIGHT) == (200, PAGE)
        assert time.monotonic() - began_s < 10


def test_a_client_in_mid_handshake_is_closed_in_time(
    port: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(client_hello(certificate))
        began_s = time.monotonic()
        while client.recv(65536):  # the server's part of the handshake, then the end
            pass
        assert time.monotonic() - began_s < 10


@pytest.mark.parametrize(
    "said", [b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\0" * 99]
)
def test_what_is_no_handshake_harms_nothing(said: bytes, port: int, certificate: Certificate) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            assert b"200" not in client.recv(65536)
    assert requested(port, trusting(certificate), RIGHT) == (200, PAGE)


def test_an_old_version_is_refused(port: int, certificate: Certificate) -> None:
    context = trusting(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError, match=r"(?i)version|alert|protocol|eof"):
        requested(port, context, RIGHT)


def sleep(limit_s: float) -> bool:
    time.sleep(limit_s)
    return False


def test_a_reader_over_tls_is_one_that_is_waited_for_and_one_without_the_password_is_none(
    access: Access, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.3)
    with closing(PageServer(lambda: PAGE, "127.0.0.1", 0, access)) as served:
        requested(served.port, trusting(certificate), WRONG)
        began_s = time.monotonic()
        served.wait_for_reader(sleep)
        assert time.monotonic() - began_s < 0.2
        requested(served.port, trusting(certificate), RIGHT)
        deadline = time.monotonic() + 20
        while not served._read_s:  # a moment after the client has read it
            assert time.monotonic() < deadline
            time.sleep(0.001)
        began_s = time.monotonic()
        served.wait_for_reader(sleep)
        assert time.monotonic() - began_s >= 0.3


def test_a_run_says_what_its_address_shows(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_module, "is_loopback", lambda _: False)  # it still listens on loopback only
    run = context(settings("metrics.port=0", f"run.directory={tmp_path}"))
    for each, warned in ((Access(), "without a password"), (Access(credentials=b"a:b"), "without TLS"), (access, "")):
        open_metrics(run, Control(None), each).close()
        said = capsys.readouterr()
        assert f"metrics: {each.scheme}://127.0.0.1:" in said.out
        assert warned in said.err
        assert (said.err.count("warning") == 1) == bool(warned)


def test_a_prometheus_scrapes_over_tls_with_the_password(certificate: Certificate, tmp_path: Path) -> None:
    password = write_password(tmp_path / "password")
    words = (f"metrics.tls_cert={certificate.cert}", f"metrics.tls_key={certificate.key}")
    run = context(settings("metrics.port=0", f"run.directory={tmp_path}", *words, f"metrics.password_file={password}"))
    secret = tmp_path / "prometheus-password"
    secret.write_text("a b:c")
    client = {
        "basic_auth": {"username": "prometheus", "password_file": str(secret)},
        "tls_config": {"ca_file": str(certificate.cert)},
    }
    section = run.config.metrics
    opened = open_access(section.tls_cert, section.tls_key, section.password_file)
    with closing(open_metrics(run, Control(None), opened)) as metrics:
        (group,) = json.loads((tmp_path / run_directory.TARGETS).read_text())
        assert group["labels"]["__scheme__"] == "https"
        with PrometheusServer(tmp_path / "prometheus", [tmp_path / run_directory.TARGETS], client=client) as prometheus:
            prometheus.wait_for("sum(alexnet_train_world_size)", 1)
            assert set(prometheus.targets().values()) == {"up"}
            (info,) = prometheus.query("alexnet_train_rank_info")
            assert "__scheme__" not in info.labels
            assert metrics._server is not None
            assert metrics._server._read_s  # a reader, whose last scrape is waited for
