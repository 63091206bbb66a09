"""A download: whole or not at all, tried again where that may help, and every failure in words that name the URL."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_dist.data import download as download_module
from alexnet_dist.data.download import RetryPolicy, download
from alexnet_dist.data.remote import in_child
from alexnet_dist.errors import RunError, UserError
from support.ranks import free_port
from support.remote_server import HttpServer

HASTE = RetryPolicy(waits_s=(0.01, 0.01), stall_s=5.0)
# Shorter than the server's pause of 5 s, and long enough to start an S3 client on a busy machine.
NO_STALL = RetryPolicy(waits_s=(0.01, 0.01), stall_s=1.5)
CONTENT = bytes(range(256)) * 400
Give = Callable[[str], str]


class Memory:
    """A sink that knows what is to come."""

    def __init__(self) -> None:
        self.content, self.begun = b"", 0

    def begin(self) -> None:
        self.content, self.begun = b"", self.begun + 1

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def problem(self) -> str | None:
        return None if self.content == CONTENT else f"{len(self.content)} bytes that are not it"


def received(url: str, patience: RetryPolicy = HASTE) -> tuple[str, int]:
    """Return the hash of what is under a URL, and the number of tries; in a process of its own, as in the package."""

    def work() -> tuple[str, int]:
        sink = Memory()
        download(url, len(CONTENT), sink, patience)
        return hashlib.sha256(sink.content).hexdigest(), sink.begun

    return in_child(work)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file.tar").write_bytes(CONTENT)
    return tmp_path / "file.tar"


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest, file: Path, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the file's URL, of the same server, for either client."""
    if request.param == "http":
        return http_server.url(file)
    monkeypatch.setenv("AWS_ENDPOINT_URL", http_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3:/{file}"


ONCE = ["500", "503", "429", "truncated", "shorter", "wrong", "longer", "slow", "endless"]


@pytest.mark.parametrize("fault", ONCE)
def test_what_may_pass_is_tried_again(url: str, file: Path, http_server: HttpServer, fault: str) -> None:
    http_server.fail({file: [fault]})
    patience = NO_STALL if fault == "slow" else HASTE
    assert received(url, patience) == (hashlib.sha256(CONTENT).hexdigest(), 2)


def test_a_file_takes_one_request(url: str, http_server: HttpServer) -> None:
    assert received(url)[1] == 1
    assert http_server.gets() == {"file.tar": 1}


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("500", RunError, "500"),
        ("truncated", RunError, "tried 3 times"),
        ("reset", RunError, "tried 3 times"),
        ("shorter", UserError, "51200 bytes that are not it, 3 times"),
        ("wrong", UserError, "102400 bytes that are not it, 3 times"),
        ("longer", UserError, "more than the expected 102,400 bytes, 3 times"),
    ],
)
def test_what_does_not_pass_is_told_with_its_url(
    url: str, file: Path, http_server: HttpServer, fault: str, kind: type[Exception], said: str
) -> None:
    http_server.fail({file: [f"{fault}*"]})
    with pytest.raises(kind) as caught:
        received(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert said in str(caught.value)


def test_a_server_that_stops_sending_is_noticed(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["slow*"]})
    with pytest.raises(RunError, match=r"file\.tar: the server is too slow, or has stopped sending; tried 2 times"):
        received(http_server.url(file), RetryPolicy(waits_s=(0.01,), stall_s=0.5))


@pytest.mark.parametrize("status", ["404", "403", "401"])
def test_a_refusal_is_final(file: Path, http_server: HttpServer, status: str) -> None:
    http_server.fail({file: [f"{status}*"]})
    with pytest.raises(UserError, match=rf"file\.tar: .*{status}.*check data\.root"):
        received(http_server.url(file))
    assert http_server.gets() == {"file.tar": 1}


def test_redirections_in_a_circle_are_told(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["circle*"]})
    with pytest.raises(UserError, match=r"file\.tar: the server redirects again and again, to no file; .*data\.root"):
        received(http_server.url(file))
    assert http_server.gets()["file.tar"] < 20  # one try


def test_a_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/shards/file.tar"
    with pytest.raises(RunError, match=rf"{url}: .*tried 3 times"):
        received(url)


def test_the_waits_grow(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["500", "500", "500"]})
    began_s = time.monotonic()
    assert received(http_server.url(file), RetryPolicy(waits_s=(0.1, 0.2, 0.4)))[1] == 4
    assert time.monotonic() - began_s > 0.7


def test_a_server_may_take_its_time_as_long_as_it_sends(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["trickle"]})
    assert received(http_server.url(file), RetryPolicy(waits_s=(), stall_s=0.8))[1] == 1


def test_a_server_that_drips_is_given_up(file: Path, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "LEAST_BYTES_PER_S", 10**9)
    http_server.fail({file: ["trickle*"]})
    with pytest.raises(RunError, match="the server is too slow"):
        received(http_server.url(file), RetryPolicy(waits_s=(), stall_s=0.6))


def test_an_endless_answer_takes_no_memory(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["endless*"]})

    class Nothing(Memory):
        def write(self, chunk: bytes) -> None:
            pass

    def work() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match="more than the expected 50,000,000 bytes"):
            download(http_server.url(file), 50_000_000, Nothing(), HASTE)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    in_child(work)
    assert in_child(work) < 30_000  # KiB
