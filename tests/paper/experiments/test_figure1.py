"""Figure 1: when a run is decided, which rate is best, and what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_dist.paper.experiments import figure1
from alexnet_dist.paper.experiments.arms import FIGURE1, Job
from alexnet_dist.paper.experiments.results import Result

JOBS = {arm.name: Job(arm, 0) for arm in FIGURE1}


def write_run(directory: Path, name: str, errors: list[float]) -> tuple[Job, Path]:
    """Write a run whose epochs, of two steps, have these training errors."""
    run = directory / JOBS[name].name
    run.mkdir(parents=True)
    lines = [{"epoch": epoch + half / 2, "top1_error": e} for epoch, e in enumerate(errors) for half in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return JOBS[name], run


def result(name: str, epochs: int | None, error: float | None = 0.2) -> Result:
    return Result(name, 0, "x", 0.3, error, 9.0, epochs, 1.0)


def test_a_run_is_decided_at_a_quarter_or_when_it_can_no_longer_be_the_best(tmp_path: Path) -> None:
    assert not figure1.is_decided(JOBS["relu-0.001"], tmp_path / "relu-0.001" / "seed-0")
    slow = write_run(tmp_path, "tanh-0.001", [0.6, 0.5, 0.4])
    assert not figure1.is_decided(*slow)
    assert figure1.is_decided(*write_run(tmp_path, "relu-0.002", [0.5, 0.25]))
    assert not figure1.is_decided(*slow)  # another activation
    assert not figure1.is_decided(*write_run(tmp_path, "relu-0.004", [0.5]))
    assert figure1.is_decided(*write_run(tmp_path, "relu-0.0005", [0.6, 0.5]))


def test_the_best_rate_of_each_arm_and_their_ratio() -> None:
    found = [
        result("relu-0.001", 5),
        result("relu-0.002", 4),
        result("tanh-0.001", 22),
        result("tanh-0.002", None, 0.31),
        replace(result("tanh-0.004", None, None), diverged=True),
    ]
    results = {JOBS[each.arm]: each for each in found}
    assert {key: job.arm.name for key, job in figure1.best(results).items()} == {
        ("relu", 0): "relu-0.002",
        ("tanh", 0): "tanh-0.001",
    }
    lines = figure1.table(list(JOBS.values()), results).splitlines()
    assert lines[-1] == (
        "tanh takes 5.5 times as many epochs as ReLU so far, with 9 of 14 runs left; the paper: 6 times"
    )
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:-1]}
    assert rows["tanh-0.002/seed-0"] == "more than 9, 31.00% by then"
    assert rows["tanh-0.004/seed-0"] == "diverged"
    assert rows["relu-0.004/seed-0"] == "not finished"


def test_each_seed_has_a_ratio_of_its_own() -> None:
    epochs = {("relu-0.001", 0): 4, ("tanh-0.001", 0): 16, ("relu-0.001", 1): 5, ("relu-0.016", 1): 3,
              ("tanh-0.001", 1): 18}  # fmt: skip
    arms = {arm.name: arm for arm in FIGURE1}
    results = {Job(arms[name], seed): result(name, count) for (name, seed), count in epochs.items()}
    lines = figure1.table(list(results), results).splitlines()
    assert lines[-2] == "tanh takes 5.0 times as many epochs as ReLU (2 seeds: 4.0, 6.0); the paper: 6 times"
    assert lines[-1] == "relu-0.016/seed-1 has the largest rate that was tried; the best one may be beyond it"


def test_without_both_arms_there_is_no_ratio() -> None:
    found = {JOBS["relu-0.001"]: result("relu-0.001", 5)}
    text = figure1.table(list(found), found)
    assert text.splitlines()[-1] == "no ratio: tanh has not reached 25 % training error"
    assert figure1.draw(Path("nowhere"), [], {}) is None


def test_the_picture_shows_the_best_run_of_each_arm(tmp_path: Path) -> None:
    write_run(tmp_path, "relu-0.002", [0.5, 0.3, 0.25])
    write_run(tmp_path, "tanh-0.001", [0.7, 0.6])
    results = {JOBS["relu-0.002"]: result("relu-0.002", 3), JOBS["tanh-0.001"]: result("tanh-0.001", 2)}
    figure = figure1.draw(tmp_path, list(JOBS.values()), results)
    assert figure is not None
    assert "so far, with 12 of 14 runs left" in figure.texts[1].get_text().replace("\n", " ")
    (axes,) = figure.axes
    lines = [list(map(float, line.get_ydata())) for line in axes.get_lines()]  # type: ignore[arg-type]
    assert lines[0] == pytest.approx([0.5, 0.3, 0.25])
    assert lines[1] == pytest.approx([0.7, 0.6])
