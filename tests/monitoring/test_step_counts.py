"""Steps that wait to be counted: each is counted once, with its own time, and few wait."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client import generate_latest

from alexnet_dist.monitoring import metrics
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.timeline import Times

LABELS = {"run": "demo", "rank": "3", "replica": "1", "tower": "1"}


def rank_3() -> Metrics:
    return Metrics(run="demo", rank=3, replica=1, tower=1, world_size=4, bad_sample_reasons=())


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"alexnet_train_{name}", LABELS)


def take_step(metrics: Metrics, number: int = 1, images: float = 6.5) -> None:
    metrics.observe_step(
        step=number, epoch=number / 10, images_share=images, times=Times(0.3, {"forward": 0.3}, {}),
        link_bytes_sent=100, link_bytes_received=200, flops=1e9,
    )  # fmt: skip


def test_steps_that_nobody_scrapes_are_counted_and_do_not_pile_up() -> None:
    rank = rank_3()
    for number in range(2 * metrics.MOST_STEPS + 5):
        take_step(rank, number + 1)
    assert len(rank._steps) == 5
    assert value(rank, "steps_total") == 2 * metrics.MOST_STEPS + 5
    assert len(rank._steps) == 0


def test_each_step_is_counted_once_whoever_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_STEPS", 3)
    rank, steps, stop = rank_3(), 2000, threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            generate_latest(rank.registry)

    readers = [threading.Thread(target=scrape) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(steps):
        take_step(rank, number + 1, images=2)
    stop.set()
    for reader in readers:
        reader.join()
    assert (value(rank, "steps_total"), value(rank, "images_total")) == (steps, 2 * steps)
    assert (value(rank, "step"), value(rank, "progress_images")) == (steps, 2 * steps)


def test_a_step_has_the_time_of_its_end_and_not_of_its_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = rank_3()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    take_step(rank)
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    assert value(rank, "last_step_timestamp_seconds") == 1000
