"""The comparison of arms, by hand: differences paired by seed, their standard error, the table and the picture."""

from __future__ import annotations

from math import pi, sqrt, tan

import pytest

from alexnet_dist.paper.experiments import ablations
from alexnet_dist.paper.experiments.arms import ABLATIONS, Arm, Job
from alexnet_dist.paper.experiments.results import Result

ARMS: dict[str, Arm] = {arm.name: arm for arm in ABLATIONS}


def results(errors: dict[str, dict[int, float | None]]) -> dict[Job, Result]:
    return {
        Job(ARMS[name], seed): Result(name, seed, "x", error, 0.5, 3.0, None, 1.0, diverged=error is None)
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
    # Student's t for two values, at 97.5 %, is tan(0.475 pi).
    assert rows["no_norm"].interval == pytest.approx(tan(0.475 * pi) * sqrt(2) / sqrt(2), rel=1e-4)
    assert rows["no_norm"].pairs == 2
    assert rows["no_norm"].runs == 3
    assert rows["no_norm"].error == pytest.approx(52)
    assert rows["no_conv3"].difference == pytest.approx(2)
    assert rows["no_conv3"].interval is None
    assert (rows["tanh"].diverged, rows["tanh"].error, rows["tanh"].difference) == (1, None, None)


def test_the_table_has_the_papers_numbers_beside_ours() -> None:
    lines = ablations.table(ablations.compare(ABLATIONS, FOUND)).splitlines()
    (row,) = [line for line in lines if line.startswith("no_norm")]
    assert row.split() == ["no_norm", "3", "52.00%", "50.0%", "+2.00", "+-", "12.71", "(2", "of", "them)",
                           "+1.40", "§3.3"]  # fmt: skip
    (bound,) = [line for line in lines if line.startswith("no_conv3")]
    assert bound.endswith("about +2.00 §7")
    (diverged,) = [line for line in lines if line.startswith("tanh")]
    assert diverged.split()[:5] == ["tanh", "0,", "1", "diverged", "-"]


def test_the_picture_shows_every_arm() -> None:
    figure = ablations.draw(ablations.compare(ABLATIONS, FOUND))
    assert figure is not None
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("\n")[0].replace(" ", "_") for label in labels] == [arm.name for arm in ABLATIONS[1:]]
    assert "no conv3\n(paper: about +2.00)" in labels
    reasons = [text.get_text().strip() for text in axes.texts]
    assert reasons.count("not finished") == len(ABLATIONS) - 4
    assert reasons.count("diverged") == 1
    published = [arm.published for arm in ABLATIONS if arm.published is not None]
    widths = [bar.get_bbox().width for bar in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx(published)


def test_one_seed_has_no_interval_and_no_difference_no_picture() -> None:
    rows = ablations.compare(ABLATIONS, results({"baseline": {0: 0.3}, "tanh": {0: 0.35}}))
    figure = ablations.draw(rows)
    assert figure is not None
    assert any("One seed has no interval" in text.get_text().replace("\n", " ") for text in figure.texts)
    assert ablations.draw(ablations.compare(ABLATIONS, results({"baseline": {0: 0.3}}))) is None


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (11, 2.228), (40, 2.228)])
def test_intervals_are_students(count: int, quantile: float) -> None:
    values = [float(value) for value in range(count)]
    spread = sqrt(sum((value - (count - 1) / 2) ** 2 for value in values) / (count - 1) / count)
    assert ablations.interval(values) == pytest.approx(quantile * spread)
