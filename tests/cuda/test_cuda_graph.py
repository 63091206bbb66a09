"""A step as one CUDA graph is the step: same numbers, new masks and learning rates at each replay, same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_dist.training.graph import WARM_UP, GraphedStep
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.step import train_step
from support.ranks import Ranks
from support.steps import Source, batch, fresh
from support.training import losses, settings, train_here, weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STEPS = WARM_UP + 5
RATES = [Rates(0.01 / (1 + step), 0.02, {"conv1": 0.001 * step}) for step in range(STEPS)]


def test_replayed_steps_are_the_steps() -> None:
    """In float64, through the warm-up, the capture and replays, each with its own batch, rates and masks."""
    plain, graphed, launch = fresh(device="cuda"), fresh(device="cuda"), GraphedStep()
    for step, rates in enumerate(RATES):
        samples = batch(8 * step, 8 * step + 8)
        images, labels, slots = (each.cuda() for each in (samples.images, samples.labels, samples.slots))
        samples = replace(samples, images=images, labels=labels, slots=slots)
        expected = train_step(plain, Source([samples]), step, rates).read()
        found = launch(graphed, Source([samples]), step, rates).read()
        assert found.loss == pytest.approx(expected.loss, rel=1e-11)
        assert found.wrong == expected.wrong
        for tower in (0, 1):
            for name, weight in plain.weights[tower].items():
                torch.testing.assert_close(graphed.weights[tower][name], weight, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_never_waits_for_a_replay() -> None:
    engine, launch = fresh(device="cuda"), GraphedStep()
    samples = batch(0, 8)
    images, labels, slots = (each.cuda() for each in (samples.images, samples.labels, samples.slots))
    samples = replace(samples, images=images, labels=labels, slots=slots)
    for step in range(WARM_UP + 1):
        launch(engine, Source([samples]), step, RATES[0]).read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = launch(engine, Source([samples]), STEPS, RATES[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 < pending.read().loss < 20


def run(directory: Path, shards: Path, run_ranks: Ranks, *changes: str) -> list[float]:
    arguments = settings(
        shards, directory, "train.device=cuda", "train.deterministic=true", "topology.layout=fused", *changes
    )
    run_ranks(1, train_here, [Path(arguments[1])], arguments[2:])
    return losses(directory)


def test_a_graphed_run_resumes_with_the_same_bits(shards: Path, tmp_path: Path, run_ranks: Ranks) -> None:
    graphed = ("train.cuda_graph=true", "run.save_every=7")
    whole = run(tmp_path / "whole", shards, run_ranks, "run.steps=20", *graphed)
    run(tmp_path / "parts", shards, run_ranks, "run.steps=7", *graphed)
    assert run(tmp_path / "parts", shards, run_ranks, "run.steps=20", *graphed) == whole
    assert weights(tmp_path / "parts", 20) == weights(tmp_path / "whole", 20)
    launched = run(tmp_path / "launched", shards, run_ranks, "run.steps=20", "train.cuda_graph=false")
    assert whole == pytest.approx(launched, rel=1e-3)
