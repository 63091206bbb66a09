"""prometheus.yml, and the dashboard against a real run that a real Prometheus scrapes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from alexnet_dist.monitoring.series import LABELS, PREFIX
from alexnet_dist.monitoring.server import PAGE_S
from alexnet_dist.runs import directory as run_directory
from support.alert_rules import alert_queries
from support.prometheus_server import CUDA_ONLY, MONITORING, PrometheusServer, dashboard, dashboard_queries
from support.training import TRAIN, settings

GLOBAL_BATCH, RANKS = 7, 4
TIMEOUT_S = 60  # for a loaded machine; every wait ends as soon as its condition holds


def test_prometheus_watches_the_runs_of_all_recipes() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert "static_configs" not in job
    files = {(MONITORING / file).resolve() for file in job["file_sd_configs"][0]["files"]}
    root = MONITORING.parents[1]
    for recipe in (root / "configs").glob("*.yaml"):  # those of ablations and variants are added by hand
        directory = yaml.safe_load(recipe.read_text()).get("run", {}).get("directory")
        assert directory is None or root / directory / run_directory.TARGETS in files, recipe.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_accepts_prometheus_yml() -> None:
    command = ["promtool", "check", "config", str(MONITORING / "prometheus.yml")]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "is valid prometheus config file syntax" in check.stdout


@dataclass(frozen=True)
class Training:
    """A run that continues until the tests end; output: the file with its stdout and stderr."""

    directory: Path
    agent: subprocess.Popen[bytes]
    output: Path

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; fail if the run ends or after TIMEOUT_S."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.agent.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT_S} s"
            time.sleep(0.05)

    def step(self) -> int:
        """Return the last step in metrics.jsonl, 0 before the first."""
        log = self.directory / run_directory.METRICS
        return log.read_text().count("\n") if log.exists() else 0  # one line per step

    def endpoints(self) -> list[str]:
        """Return the addresses of the ranks' metrics, by rank."""
        groups = json.loads((self.directory / run_directory.TARGETS).read_text())
        return [address for group in groups for address in group["targets"]]


@pytest.fixture(scope="module")
def training(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """Run 2 replicas x 2 towers under torchrun until the tests end."""
    home = tmp_path_factory.mktemp("monitored")
    directory, output = home / "runs" / "mine", home / "output"
    # A low learning rate keeps the loss above zero however long the tests take. Evaluations are rare: they take time.
    arguments = settings(
        shards, directory, "run.steps=1000000", "run.save_every=1000000", "run.evaluate_every=4",
        "run.record_samples=false", "optim.learning_rate=0.001", "data.workers=0",
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    with output.open("wb") as file:
        agent = subprocess.Popen(
            [*command, str(TRAIN), *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file
        )
    try:
        yield Training(directory, agent, output)
    finally:
        agent.terminate()  # the ranks save and exit; if the agent dies, they exit too
        try:
            agent.wait(20)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def test_every_expression_of_the_dashboard_and_the_alerts_has_data(training: Training, tmp_path: Path) -> None:
    # It starts together with the run: Prometheus looks for new targets only every five seconds.
    with PrometheusServer(tmp_path / "prometheus", [training.directory / run_directory.TARGETS]) as server:
        training.until((training.directory / run_directory.TARGETS).exists, "targets.json")
        server.wait_for(f"sum({PREFIX}running)", RANKS, TIMEOUT_S)
        queries = [query for query in dashboard_queries(dashboard()) if query.panel not in CUDA_ONLY]
        server.wait_for_data([*queries, *alert_queries()], TIMEOUT_S)
        # A join of series may drop ranks; topk names one.
        by_rank = [query for query in queries if "rank" in query.legend_labels and "topk" not in query.expression]
        assert len(by_rank) >= 10
        for query in by_rank:
            training.until(partial(server.shows, query, "rank", RANKS), f"all ranks in {query.panel}")
        assert set(server.targets()) == set(training.endpoints())
        # The ranks show a node themselves, in one series: Prometheus must not rename it.
        info = server.query(f"{PREFIX}rank_info")
        assert [(sample.labels["node"], "exported_node" in sample.labels) for sample in info] == [
            (platform.node(), False)
        ] * RANKS
        offered: dict[str, Any] = {
            label: server.get(f"label/{label}/values", **{"match[]": f"{PREFIX}world_size"})
            for label in ("job", "node", *LABELS)
        }
        assert offered == {
            "job": ["alexnet"], "node": [platform.node()], "run": ["mine"], "rank": ["0", "1", "2", "3"],
            "replica": ["0", "1"], "tower": ["0", "1"],
        }  # fmt: skip


def scraped(endpoint: str) -> dict[str, float]:
    """Return the values that one rank exposes by sample name, without phases; check that all labels name one rank."""
    with build_opener(ProxyHandler({})).open(f"http://{endpoint}/metrics", timeout=10) as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len({sample.labels["rank"] for sample in samples if sample.name.startswith(PREFIX)}) == 1
    return {sample.name: sample.value for sample in samples if set(sample.labels) == set(LABELS)}


def bracketed(training: Training) -> tuple[list[float], int, int]:
    """Return the images counted by each rank, and the steps logged before and after the scrapes."""
    before = training.step()
    time.sleep(PAGE_S + 0.05)  # an older page may be served until then
    images = [scraped(endpoint)[f"{PREFIX}images_total"] for endpoint in training.endpoints()]
    return images, before, training.step()


def test_each_rank_counts_its_share_and_the_sum_is_the_runs(training: Training) -> None:
    training.until(lambda: training.step() >= 10, "10 steps")
    assert len(training.endpoints()) == RANKS
    first, *steps_first = bracketed(training)
    training.until(lambda: training.step() >= steps_first[1] + 30, "30 more steps")
    last, *steps_last = bracketed(training)
    for images, (before, after) in ((first, steps_first), (last, steps_last)):
        # A step is logged one step after it is finished, and other ranks may be one step further.
        assert (before - 1) * GLOBAL_BATCH <= sum(images) <= (after + 3) * GLOBAL_BATCH
    grown = [new - old for old, new in zip(first, last, strict=True)]
    steps = steps_last[0] - steps_first[1]
    assert all(images >= (steps - 2) * 1.5 for images in grown), grown
    # Replica 0 has three of the seven slots and replica 1 four; each rank counts half of its replica's.
    for counted, share in zip(last, (1.5, 1.5, 2.0, 2.0), strict=True):
        assert counted % share == 0
        assert (steps_last[0] - 1) * share <= counted <= (steps_last[1] + 3) * share


def test_phases_add_up_to_the_steps(training: Training) -> None:
    training.until(lambda: training.step() >= 20, "20 steps")
    with build_opener(ProxyHandler({})).open(f"http://{training.endpoints()[1]}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    values = {(sample.name, sample.labels.get("phase")): sample.value for sample in samples}
    phases = sum(value for (name, phase), value in values.items() if phase and name == f"{PREFIX}phase_seconds_total")
    assert phases == pytest.approx(values[f"{PREFIX}step_duration_seconds_sum", None], rel=0.02)
