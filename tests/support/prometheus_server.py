"""A real Prometheus for tests, run with our prometheus.yml; it listens on any free port of the loopback."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "launch" / "monitoring"
WINDOW = "5s"
"""What `$__rate_interval` is in tests: at least four scrapes of a second."""


@dataclass(frozen=True)
class Query:
    """One expression of the dashboard, with its variables filled in, and the labels that its legend shows."""

    panel: str
    expression: str
    legend_labels: frozenset[str]


@dataclass(frozen=True)
class Sample:
    """One series of an answer, at the moment of the query."""

    labels: dict[str, str]
    value: float


def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    model: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return model


def dashboard_queries(model: dict[str, Any]) -> list[Query]:
    """Return every expression of a dashboard, for all jobs, runs, replicas and ranks."""
    queries = []
    for panel in model["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$\w+", ".*", target["expr"].replace("$__rate_interval", WINDOW))
            labels = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            queries.append(Query(panel["title"], expression, labels))
    return queries


class PrometheusServer:
    """Prometheus on our prometheus.yml, scraping every second; use as a context manager, or start and stop."""

    def __init__(self, home: Path, targets_files: Sequence[Path]) -> None:
        """Prepare; home: a directory for its files. Skips the test where Prometheus is not installed.

        targets_files: the `targets.json` of the runs to watch, in place of those that prometheus.yml lists.
        """
        if shutil.which("prometheus") is None:
            pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
        home.mkdir(parents=True, exist_ok=True)
        self._home, self._log = home, home / "prometheus.log"
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "900ms"}
        (job,) = config["scrape_configs"]
        (discovery,) = job["file_sd_configs"]
        discovery |= {"refresh_interval": "1s", "files": [str(path.absolute()) for path in targets_files]}
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, timeout_s: float = 30) -> None:
        """Start it and wait until it answers."""
        command = ["prometheus", f"--config.file={self._home / 'prometheus.yml'}", "--web.listen-address=127.0.0.1:0"]
        command += [f"--storage.tsdb.path={self._home / 'data'}", "--storage.tsdb.retention.time=2h"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())):
            self._check(deadline)
        self.url = f"http://{found[1]}"
        while "ready to receive web requests" not in self._log.read_text():
            self._check(deadline)

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        assert time.monotonic() < deadline, self._log.read_text()
        time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> PrometheusServer:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; fails on an error."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(address, timeout=20) as answer:
            return json.load(answer)["data"]

    def targets(self) -> dict[str, str]:
        """Return the health (up, down, unknown) of the scraped addresses."""
        active = self.get("targets", state="active")["activeTargets"]
        return {target["discoveredLabels"]["__address__"]: target["health"] for target in active}

    def query(self, expression: str) -> list[Sample]:
        """Return an expression's value now: a sample a series."""
        result = self.get("query", query=expression)["result"]
        return [Sample(series["metric"], float(series["value"][1])) for series in result]

    def wait_for(self, expression: str, value: float, timeout_s: float = 60) -> None:
        """Wait until an expression is one number with this value."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.query(expression)
            if [sample.value for sample in found] == [value]:
                return
            assert time.monotonic() < deadline, f"{expression} is {found} and not {value} after {timeout_s} s"
            time.sleep(0.1)

    def unanswered(self, queries: Sequence[Query]) -> list[str]:
        """Return what is wrong with the answers: none, only NaN, or without a label that the legend shows."""
        problems = []
        for query in queries:
            found = self.query(query.expression)
            common = set.intersection(*({*sample.labels} for sample in found)) if found else set()
            where = f"{query.panel}: {query.expression}"
            if not found:
                problems.append(f"{where}: nothing")
            elif all(math.isnan(sample.value) for sample in found):
                problems.append(f"{where}: only NaN")
            elif missing := query.legend_labels - common:
                problems.append(f"{where}: no label {', '.join(sorted(missing))}")
        return problems

    def wait_until_answered(self, queries: Sequence[Query], timeout_s: float = 60) -> None:
        """Wait until every query is answered; the test fails with what is not."""
        deadline = time.monotonic() + timeout_s
        while problems := self.unanswered(queries):
            assert time.monotonic() < deadline, "\n".join(problems)
            time.sleep(0.2)
