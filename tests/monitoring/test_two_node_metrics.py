"""A run on two nodes that a Prometheus on the first one scrapes: every expression has data, and the slow rank is named.

Each rank sleeps in each forward pass, as the compute of this tiny net is too short and too noisy on shared cores to
compare; the slow one sleeps 30 % longer. What the others do meanwhile, waiting for it, is real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from alexnet_dist.monitoring.metrics import PREFIX
from alexnet_dist.runs.directory import METRICS, TARGETS
from support.alert_rules import alert_queries, faster, operands, write_faster_rules
from support.namespaces import Node
from support.prometheus_server import PrometheusServer, Query, dashboard, dashboard_queries
from support.training import TRAIN, settings

RANKS, SLOW = 4, 2
SLEEP_S, SLOWER = 0.15, 1.3
TIMEOUT_S = 120  # for a loaded machine; every wait ends as soon as its condition holds
PORT = 29506
# Panels and alerts that may have no data or NaN in a run such as this one, with the reason.
MAY_BE_EMPTY: dict[str, str] = {}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('up{job="a == b and c"} == 0', ['up{job="a == b and c"}']),
        ("time() - max by (run) (a) > 9\nand max by (run) (b) == 1", ["time() - max by (run) (a)", "max by (run) (b)"]),
        ("max(last_over_time(a[30m])) == 1 unless on (run) b", ["max(last_over_time(a[30m]))", "b"]),
        ("(a / b) > on (run) group_left () 1.1 * quantile by (run) (0.5, a > 0)",
         ["a / b", "1.1 * quantile by (run) (0.5, a > 0)"]),
        ("(a) / (b) >= bool 3", ["(a) / (b)"]),
        ("(a < 3 * b or c{x!~\"d|e\"} < 0) and on () (vector(1))", ["a", "3 * b", 'c{x!~"d|e"}', "vector(1)"]),
        ("order_total != -1e3", ["order_total"]),
    ],
)  # fmt: skip
def test_the_operands_of_an_alert_are_found(expression: str, expected: list[str]) -> None:
    assert operands(expression) == expected


def test_a_minute_becomes_a_second() -> None:
    assert faster('a5m{b="c"}[1h:1m] offset 10m > 4 * 3600') == 'a5m{b="c"}[60000ms:1000ms] offset 10000ms > 4 * 3600'


@dataclass(frozen=True)
class Watched:
    """A run on two nodes, and the Prometheus that scrapes it."""

    nodes: tuple[Node, Node]
    directory: Path
    server: PrometheusServer

    def values(self, expression: str, label: str) -> dict[str, float]:
        """Return the value of an expression by a label that tells its series apart."""
        samples = self.server.query(expression)
        values = {sample.labels[label]: sample.value for sample in samples}
        assert len(values) == len(samples)
        return values

    def per_step(self, name: str, matchers: str = "") -> dict[str, float]:
        """Return the seconds a step of a counter, by rank."""
        seconds = f"sum by (rank) (rate({PREFIX}{name}{matchers}[10s]))"
        return self.values(f"{seconds} / sum by (rank) (rate({PREFIX}steps_total[10s]))", "rank")


@contextmanager
def running(node: Node, words: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run torchrun for two ranks on a node until the end; output: the file with what it prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", *words]
    with output.open("wb") as file:
        agent = subprocess.Popen(
            node.command(command), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file
        )
    try:
        yield agent
    finally:
        agent.terminate()
        try:
            agent.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
            agent.wait()


def queries() -> list[Query]:
    """Return all expressions of the dashboard and of the alerts that must have data."""
    every = [*dashboard_queries(dashboard()), *alert_queries()]
    assert {query.panel for query in every} >= MAY_BE_EMPTY.keys()
    return [query for query in every if query.panel not in MAY_BE_EMPTY]


@pytest.fixture(scope="module")
def watched(nodes: tuple[Node, Node], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Train 2 replicas x 2 towers, one replica a node, until the tests end."""
    home = tmp_path_factory.mktemp("two-nodes")
    directory, rules = home / "runs" / "mine", home / "alerts.yml"
    write_faster_rules(rules)
    arguments = settings(
        shards, directory, "run.steps=1000000", "run.save_every=20", "run.evaluate_every=4", "run.record_samples=false",
        "optim.learning_rate=0.001", "metrics.address=0.0.0.0",
    )  # fmt: skip
    for rank in range(RANKS):
        seconds = SLEEP_S * SLOWER if rank == SLOW else SLEEP_S
        arguments.append(f"--unsafe-fault=rank={rank},step=1,phase=forward,kind=sleep,seconds={seconds:.3f}")
    with ExitStack() as stack:
        outputs, agents = [home / node.host for node in nodes], []
        for number, (node, output) in enumerate(zip(nodes, outputs, strict=True)):
            rendezvous = [f"--node-rank={number}", f"--master-addr={nodes[0].address}", f"--master-port={PORT}"]
            agents.append(stack.enter_context(running(node, [*rendezvous, str(TRAIN), *arguments], output)))
        # It starts together with the run: Prometheus looks for new targets only every five seconds.
        server = PrometheusServer(home / "prometheus", [directory / TARGETS], rules, nodes[0])
        stack.enter_context(server)
        deadline = time.monotonic() + TIMEOUT_S
        while problems := server.problems(queries()):
            assert all(agent.poll() is None for agent in agents), "\n".join(path.read_text() for path in outputs)
            assert time.monotonic() < deadline, "\n".join(problems)
            time.sleep(0.5)
        yield Watched(nodes, directory, server)


@pytest.mark.slow
def test_prometheus_scrapes_all_ranks_and_each_has_its_node(watched: Watched) -> None:
    first, second = watched.nodes
    up = watched.server.query('up{job="alexnet"}')
    hosts = {first.address: first.host, second.address: second.host}
    found = sorted((sample.labels["instance"].partition(":")[0], sample.labels["node"], sample.value) for sample in up)
    assert found == sorted((address, host, 1.0) for address, host in hosts.items() for _ in range(2))
    assert set(watched.server.targets()) == {sample.labels["instance"] for sample in up}
    for series in (f"{PREFIX}world_size", f"{PREFIX}rank_info"):
        nodes = {sample.labels["rank"]: sample.labels["node"] for sample in watched.server.query(series)}
        assert nodes == {"0": first.host, "1": first.host, "2": second.host, "3": second.host}


@pytest.mark.slow
def test_every_expression_has_data_and_a_renamed_series_is_noticed(watched: Watched) -> None:
    watched.server.wait_for_data(queries(), TIMEOUT_S)
    every = queries()
    names = {name for query in every for name in re.findall(rf"\b(?:{PREFIX}\w+|up)\b", query.expression)}
    assert len(names) > 20
    for name in sorted(names):
        renamed = [
            replace(query, expression=re.sub(rf"\b{name}\b", f"{name}_renamed", query.expression))
            for query in every
            if re.search(rf"\b{name}\b", query.expression)
        ]
        assert watched.server.problems(renamed), name


def logged(directory: Path) -> list[tuple[float, int]]:
    """Return (training seconds, images) of each logged step."""
    lines = (directory / METRICS).read_text().splitlines()
    return [(line["time_s"], line["images"]) for line in map(json.loads, lines)]


@pytest.mark.slow
def test_images_per_second_are_those_of_the_log(watched: Watched) -> None:
    window_s = 20
    while logged(watched.directory)[-1][0] < window_s + 5:
        time.sleep(0.2)
    (rate,) = watched.server.query(f"sum(rate({PREFIX}images_total[{window_s}s]))")
    steps = logged(watched.directory)
    steps = [step for step in steps if step[0] > steps[-1][0] - window_s]
    (first_s, first), (last_s, last) = steps[0], steps[-1]
    assert rate.value == pytest.approx((last - first) / (last_s - first_s), rel=0.05)


@pytest.mark.slow
def test_phases_add_up_to_the_step_on_each_rank(watched: Watched) -> None:
    phases, steps = watched.per_step("phase_seconds_total"), watched.per_step("step_duration_seconds_sum")
    assert len(phases) == RANKS
    assert phases == pytest.approx(steps, rel=0.02)
    assert min(steps.values()) > SLEEP_S * SLOWER  # the others wait for the slow rank


def panel(title: str) -> Query:
    """Return the expression of a panel with one."""
    (query,) = [query for query in queries() if query.panel == title]
    return query


@pytest.mark.slow
def test_the_panel_and_the_alert_name_the_slow_rank(watched: Watched) -> None:
    host = watched.nodes[SLOW // 2].host
    deadline = time.monotonic() + TIMEOUT_S
    while not (firing := [labels for labels in watched.server.firing() if labels["alertname"] == "Straggler"]):
        assert time.monotonic() < deadline, watched.server.query(panel("Own compute by rank").expression)
        time.sleep(0.2)
    assert [(labels["rank"], labels["node"]) for labels in firing] == [(str(SLOW), host)]
    ranks = watched.values(panel("Own compute, relative to the median rank").expression, "rank")
    assert len(ranks) == RANKS
    (slowest,) = watched.server.query(panel("Slowest rank").expression)
    assert (slowest.labels["rank"], slowest.labels["node"]) == (str(SLOW), host)
    assert 1.15 < slowest.value < 1.35
    # All steps are equally long: what tells the ranks apart is for how long they wait.
    steps = watched.per_step("step_duration_seconds_sum")
    assert max(steps.values()) < 1.1 * min(steps.values())
    waits = watched.per_step("phase_seconds_total", '{phase=~"link_wait|allreduce_wait"}')
    assert min(waits, key=waits.__getitem__) == str(SLOW)
    print(
        ranks,
        steps,
        waits,
        watched.per_step("phase_seconds_total", '{phase!~"data_wait|link_wait|allreduce_wait"}'),
        watched.server.firing(),
    )
    assert not [labels for labels in watched.server.firing() if labels["severity"] == "critical"]
