"""The results of an experiment: what is read from a run's files, kept, and left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.paper.experiments.arms import ABLATIONS, Job
from alexnet_dist.paper.experiments.results import (
    RESULTS,
    Result,
    epochs_to,
    fingerprint,
    read_results,
    training_errors,
    write_result,
)

JOBS = [Job(ABLATIONS[0], 0), Job(ABLATIONS[1], 0)]
PRINTS = {job: fingerprint(job.config(Path("shards"), Path("out"))) for job in JOBS}


def result(job: Job, config: str | None = None, error: float | None = 0.25) -> Result:
    return Result(job.arm.name, job.seed, config or PRINTS[job], error, 0.2, 3.0, None, 1.0)


def test_results_of_other_configurations_are_left_out(tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    write_result(tmp_path, result(JOBS[1], config="another"))
    assert read_results(tmp_path, PRINTS) == ({JOBS[0]: result(JOBS[0])}, 1)


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_results(tmp_path, PRINTS) == ({}, 0)


@pytest.mark.parametrize("line", ["", "{", '{"arm": 1}', "3"])
def test_a_line_that_is_no_result_is_refused(line: str, tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    with (tmp_path / RESULTS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"{RESULTS}:2: not a result .*; remove the line"):
        read_results(tmp_path, PRINTS)


def test_the_error_of_an_epoch_is_the_mean_of_its_steps() -> None:
    lines = [{"epoch": step / 4, "top1_error": step / 100} for step in range(1, 11)]
    assert training_errors(lines) == pytest.approx([0.025, 0.065])
    assert training_errors(lines[:3]) == []
    assert training_errors([]) == []


def test_the_first_epoch_at_the_limit() -> None:
    assert epochs_to([0.5, 0.25, 0.3, 0.2], 0.25) == 2
    assert epochs_to([0.5], 0.25) is None
