"""A graphed step up to its capture, on the CPU: it reads all that differs from step to step from memory that stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import UserError
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.training.build import check_graph
from alexnet_dist.training.graph import WARM_UP, Compute, GraphedStep, compute, new_inputs
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.step import train_step
from support.runs import context, settings
from support.steps import RATES, Source, batch, fresh

SCHEDULE = [Rates(0.01 / (1 + step), 0.02, {"conv1": 0.001 * step}) for step in range(WARM_UP + 4)]


def repeated(step: Compute) -> Compute:
    """Stand in for a capture: what is captured is what is done again."""
    return step


def done(step: Compute) -> Tensor:
    return step()


def test_graphed_steps_are_the_steps() -> None:
    plain, graphed, launch = fresh(), fresh(), GraphedStep(repeated, done)
    for step, rates in enumerate(SCHEDULE):
        samples = batch(8 * step, 8 * step + 8)
        expected = train_step(plain, Source([samples]), step, rates).read()
        source = Source([samples])
        found = launch(graphed, source, step, rates).read()
        assert source.events == ["take", "ahead"]
        assert (found.loss, found.wrong) == pytest.approx((expected.loss, expected.wrong), rel=1e-12)
        assert found.times.phase_s["graph"] > 0
        for tower in (0, 1):
            for name, weight in plain.weights[tower].items():
                torch.testing.assert_close(graphed.weights[tower][name], weight, rtol=1e-11, atol=1e-13)


def test_what_was_captured_reads_the_masks_and_rates_of_each_step() -> None:
    """One function, called again with nothing but other contents of the same memory."""
    engine, samples = fresh(), batch(0, 8)
    inputs = new_inputs(engine, samples, RATES)
    still = Rates(0.0, 0.0)

    def loss(step: int, rates: Rates) -> float:
        inputs.fill(samples, DropoutKey(engine.seed, step, samples.slots), rates)
        return float(compute(engine, inputs)[0])

    first = loss(0, still)
    assert loss(0, still) == first
    assert loss(1, still) != first
    before = engine.weights[0]["fc8.own.weight"].clone()
    assert loss(0, RATES) == first
    assert not torch.equal(engine.weights[0]["fc8.own.weight"], before)


def test_a_step_is_captured_once_and_again_for_batches_or_rates_of_other_shape() -> None:
    engine, captured = fresh(), list[int]()

    def counted(step: Compute) -> Compute:
        captured.append(len(captured))
        return step

    launch = GraphedStep(counted, done)
    programme: list[tuple[int, Rates]] = [(8, RATES)] * (WARM_UP + 3) + [(4, RATES)] * (WARM_UP + 2)
    programme += [(4, Rates(0.01, 0.02, {"conv1": 0.0}))] * (WARM_UP + 2)
    seen = []
    for number, (size, rates) in enumerate(programme):
        launch(engine, Source([batch(0, size)]), number, rates)
        seen.append(len(captured))
    changes = [index for index in range(1, len(seen)) if seen[index] != seen[index - 1]]
    assert changes == [WARM_UP, 2 * WARM_UP + 3, 3 * WARM_UP + 5]


@pytest.mark.parametrize(
    ("changes", "word", "message"),
    [
        ({"device": torch.device("cpu")}, "", "train.device is cpu; expected cuda"),
        ({"layout": "paired"}, "", "topology.layout is paired; expected fused"),
        ({"world_size": 2}, "", "the number of replicas is 2; expected 1"),
        ({}, "train.accumulate=2", "train.accumulate is 2; expected 1"),
        ({}, "run.on_divergence=skip", "run.on_divergence is skip"),
    ],
)
def test_a_run_whose_steps_cannot_be_a_graph_is_refused(changes: dict[str, Any], word: str, message: str) -> None:
    topology = replace(Topology(0, 1, 0, "fused", torch.device("cuda", 0)), **changes)
    words = ["train.cuda_graph=true", *([word] if word else [])]
    with pytest.raises(UserError, match=f"train.cuda_graph: {message}.*train.cuda_graph=false"):
        check_graph(context(settings(*words), topology=topology))


def test_a_run_without_a_graph_may_be_any() -> None:
    check_graph(context(settings("train.accumulate=2")))
