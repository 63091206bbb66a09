"""The live page over HTTP: its drawings, what keeps them from being made, whom it refuses, and how it ends."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.report import live
from alexnet_dist.report.live import Live
from alexnet_dist.runs.directory import METRICS, TARGETS
from support.histories import metric_lines, write_lines, write_recorded_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_recorded_run(tmp_path)


@pytest.fixture
def served(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setattr(live, "LEAST_S", 0.0)
    with Live([run], ["mine"], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Live, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def state(server: Live) -> dict[str, str]:
    status, text, _ = ask(server, "GET", "/state")
    assert status == 200
    found: dict[str, str] = json.loads(text)
    return found


def test_the_drawings_follow_the_records(served: Live, run: Path) -> None:
    first = state(served)
    assert first["title"] == "Run mine"
    assert "4.00 of 90" in first["body"]
    assert first["body"].count('class="kernels"') == 2
    assert "the run is not active" in first["body"]
    write_lines(run / METRICS, metric_lines()[:10])
    (run / TARGETS).write_text(json.dumps([{"targets": ["127.0.0.1:1"]}]))
    second = state(served)["body"]
    assert "2.00 of 90" in second
    assert "No metrics from 127.0.0.1:1." in second


def test_a_checkpoint_is_read_once(served: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    state(served)
    monkeypatch.setattr(live, "net_pictures", lambda *_, **__: pytest.fail("read again"))
    assert state(served)["body"].count('class="kernels"') == 2


def test_a_broken_line_is_said_until_it_is_mended(served: Live, run: Path) -> None:
    content = (run / METRICS).read_text()
    (run / METRICS).write_text("{\n" + content)
    assert "metrics.jsonl:1: not a line of JSON" in state(served)["error"]
    (run / METRICS).write_text(content)
    assert "error" not in state(served)


def test_however_many_ask_it_is_read_once_a_second(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LEAST_S", 1000.0)
    with Live([run], ["mine"], 0) as server:
        first = server.state()
        (run / METRICS).write_text("")
        assert server.state() is first


def test_the_page_runs_no_script_but_its_own(served: Live) -> None:
    status, text, headers = ask(served, "GET", "/")
    assert status == 200
    nonce = headers["Content-Security-Policy"].split("script-src 'nonce-")[1].partition("'")[0]
    assert text.count(f'nonce="{nonce}"'.encode()) == 2
    assert b"NONCE" not in text
    assert b"STYLES" not in text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("POST", "/state", 405), ("PUT", "/", 501)])
def test_there_is_nothing_else(method: str, path: str, status: int, served: Live) -> None:
    assert ask(served, method, path)[0] == status


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
@pytest.mark.parametrize("path", ["/", "/state"])
def test_other_sites_are_turned_away(headers: dict[str, str], path: str, served: Live) -> None:
    assert ask(served, "GET", path, headers)[0] == 403


def test_the_command_serves_until_it_is_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "alexnet_dist.report", str(run), "--live", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{url}state", timeout=60) as answer:
                assert json.load(answer)["title"] == "Run run"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
