"""The comparison of arms, by hand: differences paired by seed, their standard error, the table and the picture."""

from __future__ import annotations

from math import sqrt

import pytest

from alexnet_dist.paper.experiments import ablations
from alexnet_dist.paper.experiments.arms import ABLATIONS, Arm, Job
from alexnet_dist.paper.experiments.results import Result

ARMS: dict[str, Arm] = {arm.name: arm for arm in ABLATIONS}


def results(errors: dict[str, dict[int, float | None]]) -> dict[Job, Result]:
    return {
        Job(ARMS[name], seed): Result(name, seed, "x", error, 0.5, 3.0, None, 1.0)
        for name, by_seed in errors.items()
        for seed, error in by_seed.items()
    }


FOUND = results(
    {
        "baseline": {0: 0.30, 1: 0.32, 2: 0.28},
        "no_norm": {0: 0.31, 1: 0.35, 3: 0.9},
        "tanh": {0: None},
        "no_conv3": {2: 0.3},
    }
)


def test_differences_are_paired_by_seed() -> None:
    rows = {row.arm.name: row for row in ablations.compare(ABLATIONS, FOUND)}
    assert rows["baseline"].error == pytest.approx(30)
    assert rows["baseline"].difference is None
    assert rows["no_norm"].difference == pytest.approx((1 + 3) / 2)  # seed 3 has no baseline
    assert rows["no_norm"].standard_error == pytest.approx(sqrt(2) / sqrt(2))
    assert rows["no_norm"].runs == 3
    assert rows["no_norm"].error == pytest.approx(52)
    assert rows["no_conv3"].difference == pytest.approx(2)
    assert rows["no_conv3"].standard_error is None
    assert (rows["tanh"].diverged, rows["tanh"].error, rows["tanh"].difference) == (1, None, None)


def test_the_table_has_the_papers_numbers_beside_ours() -> None:
    lines = ablations.table(ablations.compare(ABLATIONS, FOUND)).splitlines()
    (row,) = [line for line in lines if line.startswith("no_norm")]
    assert row.split() == ["no_norm", "3", "52.00", "%", "50.0", "%", "+2.00", "+-", "1.00", "+1.40", "§3.3"]
    (bound,) = [line for line in lines if line.startswith("no_conv3")]
    assert bound.endswith("about +2.00 §7")
    (diverged,) = [line for line in lines if line.startswith("tanh")]
    assert diverged.split()[:5] == ["tanh", "0,", "1", "diverged", "-"]


def test_the_picture_shows_arms_that_have_a_difference() -> None:
    figure = ablations.draw(ablations.compare(ABLATIONS, FOUND))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no norm", "no conv3"]
    assert [bar.get_bbox().width for bar in axes.patches] == pytest.approx([1.4, 2.0])  # type: ignore[attr-defined]
