"""prometheus.yml and the dashboard: true on paper, and true of a real run that a real Prometheus scrapes."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.monitoring.metrics import LABELS, PREFIX, Metrics
from alexnet_dist.monitoring.timeline import Times
from alexnet_dist.runs import directory as run_directory
from support.prometheus_server import MONITORING, PrometheusServer, dashboard, dashboard_queries
from support.training import TRAIN, settings

GLOBAL_BATCH, RANKS = 7, 4
PATIENCE_S = 60  # what a loaded machine may take; nothing waits longer than it must
KNOWN_LABELS = {*LABELS, "phase", "join"}


def exposed() -> set[str]:
    """Return the names of all samples that a rank shows once everything has happened."""
    metrics = Metrics(run="mine", rank=0, replica=0, tower="0", world_size=1, bad_sample_reasons=BAD_KINDS)
    metrics.restore(progress_images=0, step=0)
    metrics.observe_step(
        step=1,
        epoch=1,
        images_share=1,
        times=Times(1, {}, {"fc6 forward": 1}),
        link_bytes_sent=0,
        link_bytes_received=0,
        flops=0,
    )
    metrics.observe_log(1, 1, 1)
    metrics.observe_evaluation(1, 1, 1)
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def test_the_committed_dashboard_is_what_the_code_writes() -> None:
    model = runpy.run_path(str(MONITORING / "dashboard.py"))["dashboard"]()
    assert (MONITORING / "dashboard.json").read_text() == json.dumps(model, indent=1) + "\n", (
        "run: python launch/monitoring/dashboard.py"
    )


def test_the_dashboard_names_only_series_that_ranks_show() -> None:
    named = set(re.findall(rf"{PREFIX}\w+", json.dumps(dashboard())))
    assert len(named) > 10
    assert named <= exposed()


def test_panels_have_a_place_an_id_a_data_source_and_legends_of_labels_that_exist() -> None:
    panels = dashboard()["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        ), (one, other)  # fmt: skip
    for panel in panels:
        targets = panel.get("targets", [])
        assert bool(targets) == (panel["type"] != "row")
        references = [target["refId"] for target in targets]
        assert len(set(references)) == len(references)
        for holder in (panel, *targets) if targets else ():
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in targets:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= KNOWN_LABELS


def test_every_variable_is_declared_and_every_filter_offered() -> None:
    model = dashboard()
    declared = {variable["name"] for variable in model["templating"]["list"]}
    assert declared >= {"datasource", "run", "replica", "rank"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(model))) - {"__rate_interval", "__all"}
    assert used == declared


def test_prometheus_watches_the_runs_of_all_recipes() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert "static_configs" not in job
    files = {(MONITORING / file).resolve() for file in job["file_sd_configs"][0]["files"]}
    root = MONITORING.parents[1]
    for recipe in (root / "configs").rglob("*.yaml"):
        directory = yaml.safe_load(recipe.read_text()).get("run", {}).get("directory")
        assert directory is None or root / directory / run_directory.TARGETS in files, recipe.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's prometheus, is not installed")
def test_promtool_accepts_prometheus_yml() -> None:
    command = ["promtool", "check", "config", str(MONITORING / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "is valid prometheus config file syntax" in checked.stdout


@dataclass(frozen=True)
class Training:
    """A run that goes on."""

    directory: Path
    agent: subprocess.Popen[bytes]
    said: Path

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds; the test fails when the run ends or it takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.agent.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
            time.sleep(0.05)

    def step(self) -> int:
        """Return the last step in metrics.jsonl, 0 before the first."""
        log = self.directory / run_directory.METRICS
        return log.read_text().count("\n") if log.exists() else 0  # one line a step

    def endpoints(self) -> list[str]:
        """Return where the ranks say that their metrics are, by rank."""
        (group,) = json.loads((self.directory / run_directory.TARGETS).read_text())
        found: list[str] = group["targets"]
        return found


@pytest.fixture(scope="module")
def training(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """2 replicas x 2 towers under torchrun, until the tests are over."""
    home = tmp_path_factory.mktemp("monitored")
    directory, said = home / "runs" / "mine", home / "said"
    # A low rate: the loss is to stay away from zero however long the tests take. Evaluations are seldom: they cost.
    words = settings(
        shards, directory, "run.steps=1000000", "run.save_every=1000000", "run.evaluate_every=4",
        "run.record_samples=false", "optim.learning_rate=0.001", "data.workers=0",
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    with said.open("wb") as output:
        agent = subprocess.Popen(
            [*command, str(TRAIN), *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=output
        )
    try:
        yield Training(directory, agent, said)
    finally:
        agent.terminate()  # the ranks save and end; they also end with their agent, whatever becomes of it
        try:
            agent.wait(20)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def test_every_expression_of_the_dashboard_has_data(training: Training, tmp_path: Path) -> None:
    # Started at once with the run: Prometheus looks for new targets every five seconds only.
    with PrometheusServer(tmp_path / "prometheus", [training.directory / run_directory.TARGETS]) as server:
        training.until((training.directory / run_directory.TARGETS).exists, "targets.json")
        server.wait_for(f"sum({PREFIX}running)", RANKS, PATIENCE_S)
        server.wait_until_answered(dashboard_queries(dashboard()), PATIENCE_S)
        assert set(server.targets()) == set(training.endpoints())
        offered: dict[str, Any] = {
            label: server.get(f"label/{label}/values", **{"match[]": f"{PREFIX}world_size"})
            for label in ("job", *LABELS)
        }
        assert offered == {
            "job": ["alexnet"], "run": ["mine"], "rank": ["0", "1", "2", "3"], "replica": ["0", "1"],
            "tower": ["0", "1"],
        }  # fmt: skip


def scraped(endpoint: str) -> dict[str, float]:
    """Return what a rank shows: values by sample name, its own labels checked to be one rank's; phases left out."""
    with build_opener(ProxyHandler({})).open(f"http://{endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len({sample.labels["rank"] for sample in samples if sample.name.startswith(PREFIX)}) == 1
    return {sample.name: sample.value for sample in samples if set(sample.labels) == set(LABELS)}


def bracketed(training: Training) -> tuple[list[float], int, int]:
    """Return the images that each rank has counted, and the steps logged before and after asking."""
    before = training.step()
    images = [scraped(endpoint)[f"{PREFIX}images_total"] for endpoint in training.endpoints()]
    return images, before, training.step()


def test_each_rank_counts_its_share_and_the_sum_is_the_runs(training: Training) -> None:
    training.until(lambda: training.step() >= 10, "10 steps")
    assert len(training.endpoints()) == RANKS
    first, *steps_first = bracketed(training)
    training.until(lambda: training.step() >= steps_first[1] + 30, "30 more steps")
    last, *steps_last = bracketed(training)
    for images, (before, after) in ((first, steps_first), (last, steps_last)):
        # A step is logged one step after it is done, and the other ranks may be one further.
        assert (before - 1) * GLOBAL_BATCH <= sum(images) <= (after + 3) * GLOBAL_BATCH
    grown = [new - old for old, new in zip(first, last, strict=True)]
    steps = steps_last[0] - steps_first[1]
    assert all(one >= (steps - 2) * 1.5 for one in grown), grown
    # Replica 0 has three of the seven slots and replica 1 four; a replica's two ranks share alike.
    for counted, share in zip(last, (1.5, 1.5, 2.0, 2.0), strict=True):
        assert counted % share == 0
        assert (steps_last[0] - 1) * share <= counted <= (steps_last[1] + 3) * share


def test_phases_add_up_to_the_steps(training: Training) -> None:
    training.until(lambda: training.step() >= 20, "20 steps")
    with build_opener(ProxyHandler({})).open(f"http://{training.endpoints()[1]}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    values = {(one.name, one.labels.get("phase")): one.value for family in families for one in family.samples}
    phases = sum(value for (name, phase), value in values.items() if phase and name == f"{PREFIX}phase_seconds_total")
    # Read between two steps or in the middle of counting one: a step's part may be missing.
    assert phases == pytest.approx(values[f"{PREFIX}step_duration_seconds_sum", None], rel=0.15)
