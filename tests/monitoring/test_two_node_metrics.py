"""A run on two nodes, with Prometheus and Alertmanager on the first: every expression has data, the slow rank is named.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from alexnet_dist.monitoring.series import PREFIX
from alexnet_dist.runs.directory import METRICS, TARGETS
from support.alert_rules import alert_queries, faster, operands, write_faster_rules
from support.alertmanager import FIRING, Notice, Webhook, alertmanager, webhook
from support.namespaces import Node
from support.prometheus_server import CUDA_ONLY, PrometheusServer, Query, dashboard, dashboard_queries
from support.training import TRAIN, settings

RANKS, SLOW = 4, 2
SLOWER = 1.3
SLEEP_S, LONGER_SLEEP_S = 0.15, 0.3  # with two ranks the alert is nearer to its threshold
TIMEOUT_S = 120  # for a loaded machine; every wait ends as soon as its condition holds
PORT = 29506
# Panels that have no data in a run on CPUs.
MAY_BE_EMPTY = CUDA_ONLY


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
    """A run on two nodes, the Prometheus that scrapes it, and the webhook that is told of its alerts.

    agents: torchrun on each node, and the file with what it prints.
    """

    nodes: tuple[Node, Node]
    directory: Path
    server: PrometheusServer
    webhook: Webhook
    agents: Sequence[tuple[subprocess.Popen[bytes], Path]]

    def until(self, holds: Callable[[], bool], reason: Callable[[], object]) -> None:
        """Wait until something holds; fail with the reason if it is late, or with what torchrun says if that ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            for agent, output in self.agents:
                assert agent.poll() is None, output.read_text()
            assert time.monotonic() < deadline, reason()
            time.sleep(0.3)

    def values(self, expression: str, label: str = "rank") -> dict[str, float]:
        """Return the value of an expression by a label that tells its series apart."""
        samples = self.server.query(expression)
        values = {sample.labels[label]: sample.value for sample in samples}
        assert len(values) == len(samples)
        return values

    def per_step(self, name: str, matchers: str = "") -> dict[str, float]:
        """Return the seconds a step of a counter, by rank."""
        seconds = f"sum by (rank) (rate({PREFIX}{name}{matchers}[10s]))"
        return self.values(f"{seconds} / sum by (rank) (rate({PREFIX}steps_total[10s]))")


@contextmanager
def running(node: Node, words: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run torchrun on a node until the end; output: the file with what it prints."""
    command = node.command([sys.executable, "-m", "torch.distributed.run", *words])
    with output.open("wb") as file:
        agent = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
    try:
        yield agent
    finally:
        agent.terminate()
        try:
            agent.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
            agent.wait()


@contextmanager
def watching(
    nodes: tuple[Node, Node], shards: Path, home: Path, sleeps_s: Sequence[float], *words: str
) -> Iterator[Watched]:
    """Train on both nodes until the end, half of the ranks on each, and scrape all from the first.

    sleeps_s: of each rank, in each forward pass. words: of the command line.
    """
    directory, rules = home / "runs" / "mine", home / "alerts.yml"
    write_faster_rules(rules)
    arguments = settings(
        shards, directory, "run.steps=1000000", "run.save_every=20", "run.evaluate_every=4", "run.record_samples=false",
        "optim.learning_rate=0.001", "metrics.address=0.0.0.0", *words,
    )  # fmt: skip
    for rank, sleep_s in enumerate(sleeps_s):
        arguments.append(f"--unsafe-fault=rank={rank},step=1,phase=forward,kind=sleep,seconds={sleep_s:.3f}")
    with ExitStack() as stack:
        # Prometheus starts together with the run: it looks for new targets only every five seconds.
        hook = stack.enter_context(webhook(nodes[0]))
        address = stack.enter_context(alertmanager(home / "alertmanager", hook.url, nodes[0]))
        server = PrometheusServer(home / "prometheus", [directory / TARGETS], rules, nodes[0], address)
        stack.enter_context(server)
        agents = []
        for number, node in enumerate(nodes):
            options = ["--nnodes=2", f"--nproc-per-node={len(sleeps_s) // 2}", f"--node-rank={number}"]
            options += [f"--master-addr={nodes[0].address}", f"--master-port={PORT + len(sleeps_s)}"]
            agent = stack.enter_context(running(node, [*options, str(TRAIN), *arguments], home / node.host))
            agents.append((agent, home / node.host))
        yield Watched(nodes, directory, server, hook, agents)


def queries() -> list[Query]:
    """Return all expressions of the dashboard and of the alerts that must have data."""
    every = [*dashboard_queries(dashboard()), *alert_queries()]
    assert {query.panel for query in every} >= MAY_BE_EMPTY.keys()
    return [query for query in every if query.panel not in MAY_BE_EMPTY]


def panel(title: str) -> str:
    """Return the expression of a panel with one."""
    (query,) = [query for query in queries() if query.panel == title]
    return query.expression


def assert_named(watched: Watched, slow: int, node: Node) -> dict[str, float]:
    """Wait until the alert fires, and check that it and the panels name the slow rank; return own compute by rank."""
    own = panel("Own compute by rank")

    def notices() -> dict[str, Notice]:
        return watched.webhook.told(FIRING, watched.directory.name)

    watched.until(lambda: "Straggler" in notices(), lambda: watched.server.query(own))
    firing = [labels for labels in watched.server.firing() if labels["alertname"] == "Straggler"]
    for labels in (notices()["Straggler"].labels, *firing):
        assert (labels["rank"], labels["node"]) == (str(slow), node.host)
    assert f"rank {slow} on {node.host} " in notices()["Straggler"].annotations["summary"]
    (slowest,) = watched.server.query(panel("Slowest rank"))
    assert (slowest.labels["rank"], slowest.labels["node"]) == (str(slow), node.host)
    # All steps are equally long: what tells the ranks apart is for how long they wait.
    steps = watched.per_step("step_duration_seconds_sum")
    assert max(steps.values()) < 1.1 * min(steps.values())
    waits = watched.per_step("phase_seconds_total", '{phase=~"link_wait|allreduce_wait"}')
    assert min(waits, key=waits.__getitem__) == str(slow)
    return watched.values(own)


@pytest.mark.slow
def test_the_slower_of_two_replicas_is_named(nodes: tuple[Node, Node], shards: Path, tmp_path: Path) -> None:
    """Of two ranks the median is the mean, to which one that is 30 % slower has 1.13 at most."""
    sleeps_s = (LONGER_SLEEP_S, LONGER_SLEEP_S * SLOWER)
    with watching(nodes, shards, tmp_path, sleeps_s, "topology.layout=fused") as watched:
        own = assert_named(watched, 1, nodes[1])
        assert 1.2 < own["1"] / own["0"] < 1.35


@pytest.fixture(scope="module")
def watched(nodes: tuple[Node, Node], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Train 2 replicas x 2 towers, one replica a node, until the tests end; wait until every query has data."""
    sleeps_s = [SLEEP_S * SLOWER if rank == SLOW else SLEEP_S for rank in range(RANKS)]
    with watching(nodes, shards, tmp_path_factory.mktemp("two-nodes"), sleeps_s) as watched:
        watched.until(
            lambda: not watched.server.problems(queries()), lambda: "\n".join(watched.server.problems(queries()))
        )
        yield watched


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
    names = {name for query in every for name in re.findall(rf"\b(?:{PREFIX}\w+|process_\w+|up)\b", query.expression)}
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
    watched.until(lambda: logged(watched.directory)[-1][0] > window_s + 5, lambda: "too few steps")
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


@pytest.mark.slow
def test_the_panel_and_the_alert_name_the_slow_rank(watched: Watched) -> None:
    own = assert_named(watched, SLOW, watched.nodes[SLOW // 2])
    assert len(own) == RANKS
    (slowest,) = watched.server.query(panel("Slowest rank"))
    assert 1.15 < slowest.value < 1.35
    assert not [labels for labels in watched.server.firing() if labels["severity"] == "critical"]
