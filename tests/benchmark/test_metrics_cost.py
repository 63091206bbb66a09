"""The contenders of ``metrics``: what they call, and what their figures say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from alexnet_dist.benchmark.contenders import metrics_cost
from alexnet_dist.benchmark.contenders.__main__ import TASKS
from alexnet_dist.benchmark.rounds import Result
from alexnet_dist.benchmark.suites import metrics
from alexnet_dist.monitoring import server


@pytest.fixture(autouse=True)
def _unchanged_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process of the tests as it was: its threads, its allocator."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(metrics_cost, "prepare_process", lambda settings: torch.set_num_threads(settings.threads))
    yield
    torch.set_num_threads(threads)


def test_the_calls_of_a_step_are_measured_beside_it() -> None:
    figures = metrics_cost.measure_calls("demo", batch=2, steps=2, threads=1)
    assert 0 < figures["calls_us"] < 1000 * figures["step_ms"]
    assert figures["share_percent"] == pytest.approx(figures["calls_us"] / (1000 * figures["step_ms"]) * 100)


def test_a_scrape_is_measured_of_a_rank_that_waits_and_of_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (server, metrics_cost):
        monkeypatch.setattr(module, "PAGE_S", 0.05)
    figures = metrics_cost.measure_scrape(scrapes=2, threads=1)
    assert all(value > 0 for value in figures.values())
    assert figures["page_ms"] < figures["scrape_ms"]


def test_the_metrics_that_are_measured_have_the_waits_of_a_pair() -> None:
    samples = [sample for family in metrics_cost.rank_metrics().registry.collect() for sample in family.samples]
    waits = {sample.labels["join"] for sample in samples if sample.name == "alexnet_train_link_wait_seconds_total"}
    assert waits == set(metrics_cost.JOINS)


def test_ratios() -> None:
    assert all(contender.task in TASKS for contender in metrics.contenders(32, 4, 2))
    results = [
        Result(metrics.DEMO, ({"share_percent": 0.01}, {"share_percent": 0.02}, {"share_percent": 0.05})),
        Result(metrics.PAPER, (), "not here"),
        Result(metrics.SCRAPE, ({"scrape_ms": 2.0, "busy_scrape_ms": 8.0},)),
    ]
    assert metrics.ratios(results) == {"step_vs_calls_demo": pytest.approx(5000), "busy_scrape_vs_scrape": 4.0}
