"""The results of an experiment: what is read from a run's files, kept, and left out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from alexnet_dist import config
from alexnet_dist.data import manifest
from alexnet_dist.errors import UserError
from alexnet_dist.paper.experiments.arms import ABLATIONS, Job
from alexnet_dist.paper.experiments.results import (
    RESULTS,
    Result,
    check_own,
    epochs_to,
    fingerprint,
    read_results,
    shard_hashes,
    training_errors,
    write_result,
)
from support.runs import write_run

JOBS = [Job(ABLATIONS[0], 0), Job(ABLATIONS[1], 0)]
SHARDS = ("a" * 64, "b" * 64)
PRINTS = {job: fingerprint(job.config(Path("shards"), Path("out")), SHARDS) for job in JOBS}


def result(job: Job, config_hash: str | None = None, error: float | None = 0.25) -> Result:
    return Result(job.arm.name, job.seed, config_hash or PRINTS[job], error, 0.2, 3.0, None, 1.0)


def test_results_of_other_configurations_are_left_out(tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    write_result(tmp_path, result(JOBS[1], config_hash="another"))
    assert read_results(tmp_path, PRINTS) == ({JOBS[0]: result(JOBS[0])}, 1)


def test_results_of_other_shards_are_left_out(tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    for shards in (("c" * 64, SHARDS[1]), (SHARDS[0], "c" * 64)):
        prints = {job: fingerprint(job.config(Path("shards"), Path("out")), shards) for job in JOBS}
        assert read_results(tmp_path, prints) == ({}, 1)


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_results(tmp_path, PRINTS) == ({}, 0)


BAD = {
    "empty": "",
    "half": "{",
    "keys": '{"arm": 1}',
    "number": "3",
    "text for a number": json.dumps(asdict(result(JOBS[0])) | {"top1_error": "0.3"}),
    "list for a text": json.dumps(asdict(result(JOBS[0])) | {"arm": ["x"]}),
    "not a number": json.dumps(asdict(result(JOBS[0])) | {"top1_error": float("nan")}),
    "another key": json.dumps(asdict(result(JOBS[0])) | {"more": 1}),
    "binary": "\x00\x01",
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_no_result_is_refused(name: str, tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    with (tmp_path / RESULTS).open("a") as file:
        file.write(f"{BAD[name]}\n")
    with pytest.raises(UserError, match=rf"{RESULTS}:2: .*; remove the line"):
        read_results(tmp_path, PRINTS)


def test_a_result_after_half_a_line_is_a_line_of_its_own(tmp_path: Path) -> None:
    write_result(tmp_path, result(JOBS[0]))
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"arm": "half_net", "se')
    write_result(tmp_path, result(JOBS[1]))
    assert read_results(tmp_path, PRINTS) == ({job: result(job) for job in JOBS}, 0)


def test_a_run_of_another_configuration_or_of_other_shards_is_not_taken_for_the_jobs(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path)
    own = config.load([run / "config.yaml"], []).config
    shards = (manifest.load(run / "train.manifest.json").sha256, "b" * 64)
    check_own(run, own, shards)
    check_own(run, own.model_copy(update={"run": own.run.model_copy(update={"log_every": 77})}), shards)
    check_own(tmp_path / "none", own, shards)
    other = own.model_copy(update={"optim": own.optim.model_copy(update={"weight_decay": 0.1})})
    with pytest.raises(UserError, match=r"run: was trained with another configuration; move it away"):
        check_own(run, other, shards)
    with pytest.raises(UserError, match=r"with another configuration and other shards"):
        check_own(run, other, SHARDS)


def test_both_splits_are_needed(shards: Path, tmp_path: Path) -> None:
    assert len(set(shard_hashes(shards))) == 2
    (tmp_path / "train.manifest.json").write_text("garbage")
    with pytest.raises(UserError, match=r"no packed val split; expected the folder that alexnet_dist\.pack wrote"):
        shard_hashes(tmp_path)
    (tmp_path / "val.manifest.json").write_text("garbage")
    with pytest.raises(UserError, match=r"train\.manifest\.json"):
        shard_hashes(tmp_path)


def test_the_error_of_an_epoch_is_the_mean_of_its_lines() -> None:
    lines = [{"epoch": step / 4, "top1_error": step / 100} for step in range(1, 11)]
    assert training_errors(lines) == {1: pytest.approx(0.025), 2: pytest.approx(0.065)}
    assert training_errors(lines[:3]) == {}
    assert training_errors([]) == {}


def test_an_epoch_without_lines_does_not_move_the_others() -> None:
    lines = [{"epoch": epoch, "top1_error": epoch / 100} for epoch in (2.5, 5.0, 7.5, 10.0)]
    assert training_errors(lines) == {3: 0.025, 5: 0.05, 8: 0.075, 10: 0.1}


def test_the_first_epoch_at_the_limit() -> None:
    assert epochs_to({1: 0.5, 4: 0.25, 5: 0.3, 6: 0.2}, 0.25) == 4
    assert epochs_to({1: 0.5}, 0.25) is None


def test_a_result_is_a_line_of_its_fields(tmp_path: Path) -> None:
    write_result(tmp_path, replace(result(JOBS[0]), diverged=True))
    assert json.loads((tmp_path / RESULTS).read_text())["diverged"] is True
