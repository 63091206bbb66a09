"""A real Alertmanager for tests, run with our alertmanager.yml, and the webhook that it tells of alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from support.namespaces import Node
from support.prometheus_server import MONITORING

CONFIG = MONITORING / "alertmanager.yml"
FIRING, RESOLVED = "firing", "resolved"


@dataclass(frozen=True)
class Notice:
    """What a webhook was told of one alert: that it fires or is over. labels: with its name as `alertname`."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Webhook:
    """Where Alertmanager sends its messages, and what these have said so far."""

    def __init__(self, url: str, notices: list[Notice]) -> None:
        """Take where it listens, and the list to which its server appends."""
        self.url, self._notices = url, notices

    def told(self, status: str, run: str) -> dict[str, Notice]:
        """Return the last notice of each alert of a run that fires or is over, by the alert's name."""
        return {
            notice.labels["alertname"]: notice
            for notice in list(self._notices)
            if (notice.status, notice.labels.get("run")) == (status, run)
        }

    def wait_for(
        self,
        status: str,
        run: str,
        names: Collection[str],
        timeout_s: float,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait until it was told that alerts of a run fire or are over; alive: raises if that can happen no longer."""
        deadline = time.monotonic() + timeout_s
        while missing := {*names} - self.told(status, run).keys():
            alive()
            assert time.monotonic() < deadline, f"{run}: {missing} not {status} after {timeout_s} s: {self._notices}"
            time.sleep(0.05)


@contextmanager
def webhook(node: Node | None = None) -> Iterator[Webhook]:
    """Run a webhook on a free port of the loopback interface, of a node's if one is given."""
    notices: list[Notice] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            notices.extend(
                Notice(alert["status"], alert["labels"], alert["annotations"]) for alert in message["alerts"]
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with node.network() if node else nullcontext():
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield Webhook(f"http://127.0.0.1:{server.server_address[1]}/alerts", notices)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def alertmanager(home: Path, url: str, node: Node | None = None) -> Iterator[str]:
    """Run Alertmanager and yield its address; skip the test if it is not installed.

    url: of the webhook. node: where Alertmanager runs; None: in the network of this process.

    Its configuration is ours, but for the webhook's address and the seconds for which it collects alerts.
    """
    if shutil.which("prometheus-alertmanager") is None:
        pytest.skip("Alertmanager is not installed (Debian: apt-get install prometheus-alertmanager)")
    home.mkdir(parents=True)
    config = yaml.safe_load(CONFIG.read_text())
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    (receiver,) = [receiver for receiver in config["receivers"] if receiver["name"] == config["route"]["receiver"]]
    (receiver["webhook_configs"][0])["url"] = url
    (home / CONFIG.name).write_text(yaml.safe_dump(config))
    command = ["prometheus-alertmanager", f"--config.file={home / CONFIG.name}", f"--storage.path={home / 'data'}"]
    command += ["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="]
    log = home / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(node.command(command) if node else command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 30
        while not (match := re.search(r'msg="Listening on" address=(\S+)', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield match[1]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
