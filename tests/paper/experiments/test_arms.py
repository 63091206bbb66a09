"""The arms of the experiments: every one is a configuration of its own, in an order that survives an early end."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.config import geometry
from alexnet_dist.nn.geometry import parameter_count
from alexnet_dist.paper.experiments.arms import ABLATIONS, BASELINE, FIGURE1, RATES, Arm, Job, jobs_of
from alexnet_dist.paper.experiments.results import fingerprint

DATA, OUT, SHARDS = Path("shards"), Path("out"), ("a" * 64, "b" * 64)


@pytest.mark.parametrize("arms", [ABLATIONS, FIGURE1])
def test_every_arm_is_a_configuration_of_its_own(arms: tuple[Arm, ...]) -> None:
    prints = [fingerprint(job.config(DATA, OUT), SHARDS) for job in jobs_of(arms, 2)]
    assert len(set(prints)) == 2 * len(arms)
    moved = [fingerprint(job.config(Path("elsewhere"), Path("else")), SHARDS) for job in jobs_of(arms, 2)]
    assert moved == prints


def test_arms_have_the_size_of_the_baseline_where_they_should() -> None:
    sizes = {arm.name: parameter_count(geometry(Job(arm, 0).config(DATA, OUT))) for arm in ABLATIONS}
    assert sizes[BASELINE] == 93_674
    same = {"no_norm", "no_overlap", "no_crops_and_flips", "no_colour_noise", "no_dropout", "tanh"}
    assert {name for name, size in sizes.items() if size == sizes[BASELINE]} == {BASELINE, *same}
    assert abs(sizes["no_links"] / sizes[BASELINE] - 1) < 0.04


def test_each_seed_of_every_arm_comes_before_the_next_seed() -> None:
    names = [job.name for job in jobs_of(ABLATIONS, 2)]
    assert names[0] == "baseline/seed-0"
    assert names[len(ABLATIONS)] == "baseline/seed-1"
    assert len(set(names)) == len(names) == 2 * len(ABLATIONS)


def test_figure_1_begins_in_the_middle_of_its_rates() -> None:
    assert [arm.name for arm in FIGURE1[:2]] == ["relu-0.002", "tanh-0.002"]
    assert len(FIGURE1) == 2 * len(RATES)
    settings = Job(FIGURE1[1], 3).config(DATA, OUT)
    assert (settings.model.activation, settings.optim.learning_rate, settings.run.seed) == ("tanh", 0.002, 3)
    assert settings.optim.weight_decay == 0  # "no regularization of any kind"
    assert not settings.data.flip
    assert settings.data.colour_noise == 0
    assert not any(layer.norm or layer.dropout for layer in settings.model.layers.values())
