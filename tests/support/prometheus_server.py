"""A real Prometheus server for tests, run with our prometheus.yml on a free port of a loopback interface."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

from support.namespaces import Node

MONITORING = Path(__file__).parents[2] / "launch" / "monitoring"
# The panels that have no data in a run on a CPU, and the series that only a CUDA device has: its allocator's and, if
# its data sheet is known, its peak.
CUDA_ONLY = {
    "Device memory by rank": "device_memory_peak_bytes",
    "Share of the peak by rank": "device_peak_flops",
}
WINDOW = "5s"
"""The value of `$__rate_interval` in tests: at least four scrape intervals of one second."""


@dataclass(frozen=True)
class Query:
    """One expression of the dashboard with its variables substituted, and the labels in its legend."""

    panel: str
    expression: str
    legend_labels: frozenset[str]


@dataclass(frozen=True)
class Sample:
    """The value of one series at the time of the query."""

    labels: dict[str, str]
    value: float


def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    model: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return model


def substituted(expression: str, **values: str) -> str:
    """Return an expression of the dashboard with its variables replaced: by the values, otherwise by all."""
    known = {"__rate_interval": WINDOW} | values
    return re.sub(r"\$(\w+)", lambda match: known.get(match[1], ".*"), expression)


def dashboard_queries(model: dict[str, Any]) -> list[Query]:
    """Return every expression of a dashboard, for all jobs, runs, nodes, replicas, towers and ranks.

    One with a variable of fixed choices, of which 0 is none, is returned once for each other choice.
    """
    choices = {
        variable["name"]: [option["value"] for option in variable["options"] if option["value"] != "0"]
        for variable in model["templating"]["list"]
        if variable["type"] == "custom"
    }
    queries = []
    for panel in model["panels"]:
        for target in panel.get("targets", []):
            labels = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            used = [name for name in choices if f"${name}" in target["expr"]]
            for values in product(*(choices[name] for name in used)):
                expression = substituted(target["expr"], **dict(zip(used, values, strict=True)))
                queries.append(Query(panel["title"], expression, labels))
    return queries


class PrometheusServer:
    """Prometheus on our prometheus.yml, scraping every second; use as a context manager, or start and stop."""

    def __init__(
        self,
        home: Path,
        targets_files: Sequence[Path],
        rules: Path = MONITORING / "alerts.yml",
        node: Node | None = None,
        alertmanager: str = "",
        client: Mapping[str, Any] | None = None,
    ) -> None:
        """Write its configuration into the directory `home`; skip the test if Prometheus is not installed.

        targets_files: the `targets.json` of the runs to scrape, instead of those that prometheus.yml lists. rules: the
        alerts, evaluated every second. node: where the server runs; None: in the network of this process.
        alertmanager: host:port of the one that is told of alerts; empty: none is. client: what the
        job has besides, such as `basic_auth`.
        """
        if shutil.which("prometheus") is None:
            pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
        home.mkdir(parents=True, exist_ok=True)
        self._home, self._log, self._node = home, home / "prometheus.log", node
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"}
        config["rule_files"] = [str(rules)]
        config["alerting"] = {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
        }
        (job,) = config["scrape_configs"]
        job |= client or {}
        (discovery,) = job["file_sd_configs"]
        discovery |= {"refresh_interval": "1s", "files": [str(path.absolute()) for path in targets_files]}
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, timeout_s: float = 30) -> None:
        """Start the server and wait until it accepts requests."""
        command = ["prometheus", f"--config.file={self._home / 'prometheus.yml'}", "--web.listen-address=127.0.0.1:0"]
        command += [f"--storage.tsdb.path={self._home / 'data'}", "--storage.tsdb.retention.time=2h"]
        if self._node:
            command = self._node.command(command)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout_s
        while not (match := re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())):
            self._check(deadline)
        self.url = f"http://{match[1]}"
        while "ready to receive web requests" not in self._log.read_text():
            self._check(deadline)

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        assert time.monotonic() < deadline, self._log.read_text()
        time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server and wait until its process has ended."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> PrometheusServer:
        """Start the server."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response of the HTTP API; raise on an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self._node.network() if self._node else nullcontext(), direct.open(url, timeout=20) as response:
            return json.load(response)["data"]

    def targets(self) -> dict[str, str]:
        """Return the health (up, down, unknown) of each scraped address."""
        active = self.get("targets", state="active")["activeTargets"]
        return {target["discoveredLabels"]["__address__"]: target["health"] for target in active}

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire, with their names as `alertname`."""
        return [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]

    def query(self, expression: str) -> list[Sample]:
        """Return the current value of an expression: one sample a series."""
        result = self.get("query", query=expression)["result"]
        return [Sample(series["metric"], float(series["value"][1])) for series in result]

    def wait_for(self, expression: str, value: float, timeout_s: float = 60) -> None:
        """Wait until an expression has one series with this value."""
        deadline = time.monotonic() + timeout_s
        while True:
            samples = self.query(expression)
            if [sample.value for sample in samples] == [value]:
                return
            assert time.monotonic() < deadline, f"{expression} is {samples}, not {value}, after {timeout_s} s"
            time.sleep(0.1)

    def shows(self, query: Query, label: str, count: int) -> bool:
        """Return whether the result of a query has a number of values of a label."""
        return len({sample.labels[label] for sample in self.query(query.expression)}) == count

    def problems(self, queries: Sequence[Query]) -> list[str]:
        """Return the problems of the results: no data, NaN, or a label of the legend is missing."""
        problems = []
        for query in queries:
            samples = self.query(query.expression)
            common = set.intersection(*({*sample.labels} for sample in samples)) if samples else set()
            prefix = f"{query.panel}: {query.expression}"
            if not samples:
                problems.append(f"{prefix}: no data")
            elif any(math.isnan(sample.value) for sample in samples):
                problems.append(f"{prefix}: NaN")
            elif missing := query.legend_labels - common:
                problems.append(f"{prefix}: no label {', '.join(sorted(missing))}")
        return problems

    def wait_for_data(self, queries: Sequence[Query], timeout_s: float = 60) -> None:
        """Wait until every query has data; otherwise fail with the problems."""
        deadline = time.monotonic() + timeout_s
        while problems := self.problems(queries):
            assert time.monotonic() < deadline, "\n".join(problems)
            time.sleep(0.2)
