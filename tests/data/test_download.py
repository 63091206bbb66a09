"""Downloads: complete or failed, retried where that may help, with errors that name the URL."""

from __future__ import annotations

import hashlib
import resource
import time
from pathlib import Path

import pytest
import s3fs  # noqa: F401  # imported once, and not again in every child that downloads

from alexnet_dist.data import download as download_module
from alexnet_dist.data.download import RetryPolicy, download
from alexnet_dist.data.remote import in_child
from alexnet_dist.errors import RunError, UserError
from support.ranks import free_port
from support.remote_server import HttpServer

FAST_RETRIES = RetryPolicy(waits_s=(0.01, 0.01), stall_s=5.0)
# Shorter than the server's pause of 5 s, but long enough to start an S3 client on a busy machine.
NO_STALL = RetryPolicy(waits_s=(0.01, 0.01), stall_s=1.5)
CONTENT = bytes(range(256)) * 400


class MemorySink:
    """A sink in memory that knows the expected content."""

    def __init__(self) -> None:
        self.content, self.attempts = b"", 0

    def reset(self) -> None:
        self.content, self.attempts = b"", self.attempts + 1

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def problem(self) -> str | None:
        return None if self.content == CONTENT else f"{len(self.content)} unexpected bytes"


def received(url: str, retry_policy: RetryPolicy = FAST_RETRIES) -> tuple[str, int]:
    """Download a URL in a separate process, as the package does; return the sha256 and the number of attempts."""

    def download_once() -> tuple[str, int]:
        sink = MemorySink()
        download(url, len(CONTENT), sink, retry_policy)
        return hashlib.sha256(sink.content).hexdigest(), sink.attempts

    return in_child(download_once)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file.tar").write_bytes(CONTENT)
    return tmp_path / "file.tar"


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest, file: Path, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the file's URL on the same server for an HTTP and an S3 client."""
    if request.param == "http":
        return http_server.url(file)
    monkeypatch.setenv("AWS_ENDPOINT_URL", http_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3:/{file}"


TRANSIENT = ["500", "503", "429", "truncated", "shorter", "wrong", "longer", "slow", "endless"]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_may_pass_is_tried_again(url: str, file: Path, http_server: HttpServer, fault: str) -> None:
    http_server.fail({file: [fault]})
    retry_policy = NO_STALL if fault == "slow" else FAST_RETRIES
    assert received(url, retry_policy) == (hashlib.sha256(CONTENT).hexdigest(), 2)


def test_a_file_takes_one_request(url: str, http_server: HttpServer) -> None:
    assert received(url)[1] == 1
    assert http_server.gets() == {"file.tar": 1}


@pytest.mark.parametrize(
    ("fault", "error_type", "text"),
    [
        ("500", RunError, "500"),
        ("truncated", RunError, "tried 3 times"),
        ("reset", RunError, "tried 3 times"),
        ("shorter", UserError, "51200 unexpected bytes, 3 times"),
        ("wrong", UserError, "102400 unexpected bytes, 3 times"),
        ("longer", UserError, "more than the expected 102,400 bytes, 3 times"),
    ],
)
def test_what_does_not_pass_is_reported_with_its_url(
    url: str, file: Path, http_server: HttpServer, fault: str, error_type: type[Exception], text: str
) -> None:
    http_server.fail({file: [f"{fault}*"]})
    with pytest.raises(error_type) as caught:
        received(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert text in str(caught.value)


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


def test_redirections_in_a_circle_are_reported(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["redirect loop*"]})
    with pytest.raises(UserError, match=r"file\.tar: the server redirects endlessly; .*data\.root"):
        received(http_server.url(file))
    assert http_server.gets()["file.tar"] < 20  # one attempt


def test_a_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/shards/file.tar"
    with pytest.raises(RunError, match=rf"{url}: .*tried 3 times"):
        received(url)


def test_the_waits_grow(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["500", "500", "500"]})
    start_s = time.monotonic()
    assert received(http_server.url(file), RetryPolicy(waits_s=(0.1, 0.2, 0.4)))[1] == 4
    assert time.monotonic() - start_s > 0.7


def test_a_server_may_take_its_time_as_long_as_it_sends(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["trickle"]})
    assert received(http_server.url(file), RetryPolicy(waits_s=(), stall_s=0.8))[1] == 1


def test_a_server_that_drips_is_given_up(file: Path, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "MIN_BYTES_PER_S", 10**9)
    http_server.fail({file: ["trickle*"]})
    with pytest.raises(RunError, match="the server is too slow"):
        received(http_server.url(file), RetryPolicy(waits_s=(), stall_s=0.6))


def test_an_endless_answer_takes_no_memory(file: Path, http_server: HttpServer) -> None:
    http_server.fail({file: ["endless*"]})

    class DiscardingSink(MemorySink):
        def write(self, chunk: bytes) -> None:
            pass

    def memory_growth_kib() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match="more than the expected 50,000,000 bytes"):
            download(http_server.url(file), 50_000_000, DiscardingSink(), FAST_RETRIES)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    in_child(memory_growth_kib)
    assert in_child(memory_growth_kib) < 30_000
