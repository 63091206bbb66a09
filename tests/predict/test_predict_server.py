"""The page to try a net, over HTTP: the same probabilities as predict, and what it does with hostile requests."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.predict import server
from alexnet_dist.predict.server import MAX_BYTES, Page
from alexnet_dist.runs.prediction import Guess
from alexnet_dist.runs.trained import TrainedNet
from support.folders import encoded, photo
from support.pages import net_fixture, page_fixture
from support.runs import CLASSES

__all__ = ["net_fixture", "page_fixture"]


def ask(
    page: Page, method: str, path: str, content: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=60)
    try:
        connection.request(method, path, content, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def classify(page: Page, content: bytes) -> tuple[int, Any]:
    status, text, _ = ask(page, "POST", "/classify", content)
    return status, json.loads(text)


def test_an_image_has_the_probabilities_that_predict_prints(page: Page, net: TrainedNet) -> None:
    content = encoded(photo(3, 30, 40))
    status, found = classify(page, content)
    assert status == 200
    for key, views in (("classes", 1), ("ten_views", 10)):
        guesses = [Guess(**guess) for guess in found[key]]
        expected = net.predict(content, views)
        assert [guess.index for guess in guesses] == [guess.index for guess in expected]
        assert [guess.probability for guess in guesses] == pytest.approx(
            [guess.probability for guess in expected], rel=1e-5
        )
    assert [view["name"] for view in found["views"]][4:6] == ["centre", "top left, mirrored"]
    assert found["views"][4]["guess"]["index"] == found["classes"][0]["index"]
    crop = net.loaded.config.data.crop
    for view in found["views"]:
        assert Image.open(io.BytesIO(decoded(view["picture"]))).size == (crop, crop)
    towers = net.model.net.towers
    assert [len(kernels) for kernels in found["kernels"]] == [len(found["kernels"][0])] * towers
    assert all(kernel["activation"] >= 0 for kernels in found["kernels"] for kernel in kernels)
    assert [join["into"] for join in found["joins"]] == [
        name for name, layer in net.model.net.layers.items() if layer.reads == "both"
    ]
    assert all(len(join["pictures"]) == towers and join["size_bytes"] > 0 for join in found["joins"])


def decoded(address: str) -> bytes:
    import base64

    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(content)


def test_the_page_runs_no_script_but_its_own(page: Page, net: TrainedNet) -> None:
    status, text, headers = ask(page, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert text.count(b"<script") == text.count(f'<script nonce="{nonce}">'.encode()) == 1
    assert nonce not in ask(page, "GET", "/")[1].decode()
    assert json.dumps(net.loaded.directory.name).encode() in text
    for word in (b"http://", b"https://", b"innerHTML", b"NONCE", b"RUN_NAME", b"MAX_BYTES"):
        assert word not in text


BAD = {
    "text": (b"not an image", 422, "not a whole image in a format that Pillow reads"),
    "empty": (b"", 422, "empty file"),
    "damaged": (encoded(photo(1))[:400], 422, "damaged or truncated JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_said(name: str, page: Page) -> None:
    content, status, reason = BAD[name]
    found = classify(page, content)
    assert found[0] == status
    assert found[1]["error"].startswith(reason)


def test_a_bomb_is_turned_away(page: Page) -> None:
    content = io.BytesIO()
    Image.fromarray(np.zeros((11_000, 11_000), np.uint8)).save(content, "PNG")
    status, found = classify(page, content.getvalue())
    assert (status, found["error"][:15]) == (422, "11000 x 11000 p")


def test_a_file_of_100_megabytes_is_turned_away_unread(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=10) as client:
        lines = [
            "POST /classify HTTP/1.1", f"Host: 127.0.0.1:{page.server_port}", f"Content-Length: {100 << 20}", "", ""
        ]  # fmt: skip
        client.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"more than {MAX_BYTES >> 20} MiB: use the command predict".encode() in answer
    assert classify(page, encoded(photo(3)))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "example.org"}, {"Host": "example.org:80"}, {"Origin": "http://example.org"}, {"Origin": "null"}],
)
def test_other_sites_are_turned_away(headers: dict[str, str], page: Page) -> None:
    assert ask(page, "GET", "/", headers=headers)[0] == 403
    assert ask(page, "POST", "/classify", encoded(photo(3)), headers)[0] == 403


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("POST", "/", 400), ("PUT", "/", 501)])
def test_there_is_nothing_else(method: str, path: str, status: int, page: Page) -> None:
    assert ask(page, method, path, b"x")[0] == status


def test_fifty_images_at_once_are_all_classified(page: Page) -> None:
    contents = [encoded(photo(number % 5)) for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda content: classify(page, content), contents))
    assert [status for status, _ in found] == [200] * 50
    for number, (_, answer) in enumerate(found):
        assert answer == found[number % 5][1]


def test_more_than_there_is_room_for_are_turned_away(page: Page) -> None:
    with ExitStack() as room:
        for _ in range(server.WAITING):  # also that of a request that has just been answered
            room.enter_context(page.room)
        status, found = classify(page, encoded(photo(3)))
    assert (status, found["error"]) == (503, "too many images at once; try again")


def test_a_client_that_sends_less_than_it_says_leaves_the_others_alone(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=10) as client:
        client.sendall(
            f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\nContent-Length: 9\r\n\r\nx".encode()
        )
        assert classify(page, encoded(photo(3)))[0] == 200
        assert client.recv(100) == b""


def test_a_port_that_is_taken(page: Page, net: TrainedNet) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        Page(net, page.server_port)


def test_it_listens_on_this_machine_alone(page: Page) -> None:
    assert page.server_address[0] == "127.0.0.1"


def test_the_file_of_the_page_is_in_the_package() -> None:
    assert server.PAGE.parent == Path(server.__file__).parent
    assert server.PAGE.read_text().startswith("<!doctype html>")


def test_the_command_serves_until_it_is_interrupted(net: TrainedNet, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("".join(f"class-{label} word {label}\n" for label in range(CLASSES)))
    command = [sys.executable, "-m", "alexnet_dist.predict", str(net.loaded.directory), "--serve", "--port=0"]
    with subprocess.Popen([*command, f"--words={words}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{url}classify", encoded(photo(3)), timeout=60) as answer:
                assert all(guess["name"].startswith("word ") for guess in json.load(answer)["classes"])
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
