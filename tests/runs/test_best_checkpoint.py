"""The best checkpoint: which one it is, that it is kept beside the newest, and that it can be asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint, load
from alexnet_dist.runs import directory as run_directory
from support.runs import write_run


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        for tower in (0, 1):
            checkpoint.write_tower(tmp_path, step, tower, {"conv1.weight": torch.zeros(2)})
        checkpoint.commit(tmp_path, step, {})
    checkpoint.delete_old(tmp_path, 40, 2, best=10)
    assert sorted(checkpoint.finished_steps(tmp_path)) == [10, 30, 40]
    checkpoint.delete_old(tmp_path, 40, 1, best=40)
    assert sorted(checkpoint.finished_steps(tmp_path)) == [40]


def test_the_best_step_has_the_lowest_error_of_those_that_are_there(tmp_path: Path) -> None:
    assert run_directory.best_step(tmp_path, [1, 2]) is None
    errors = {10: 0.5, 20: 0.3, 30: 0.3, 40: 0.1}
    lines = [json.dumps({"step": step, "top1_error": error}) + "\n" for step, error in errors.items()]
    (tmp_path / "evaluations.jsonl").write_text("".join(lines))
    assert run_directory.best_step(tmp_path, [30, 10, 20, 35]) == 20
    assert run_directory.best_step(tmp_path, [35]) is None
    assert run_directory.best_step(tmp_path, []) is None


@pytest.mark.parametrize(
    "line", ["{}", '{"step": 3}', '{"step": "3", "top1_error": 0}', '{"step": 3, "top1_error": null}']
)
def test_lines_that_are_no_evaluations_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({"step": 1, "top1_error": 0.5}) + f"\n{line}\n")
    with pytest.raises(UserError, match=r"evaluations\.jsonl:2: expected numbers as step and top1_error; remove the"):
        run_directory.best_step(tmp_path, [1, 3])


def test_the_best_checkpoint_is_found_by_its_evaluation(tmp_path: Path) -> None:
    directory, nets = write_run(tmp_path, (3, 6, 9))
    with pytest.raises(UserError, match=r"none of its checkpoints was evaluated \(steps 3, 6, 9\); expected the"):
        load.load_run(directory, "best")
    lines = [{"step": 3, "top1_error": 0.4}, {"step": 6, "top1_error": 0.2}, {"step": 7, "top1_error": 0.1}]
    (directory / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load.load_run(directory, "best")
    assert run.step == 6
    with pytest.raises(UserError, match="step: found 'bset', expected the step of a checkpoint, or 'best'"):
        load.load_run(directory, "bset")  # type: ignore[arg-type]
    images = torch.zeros(1, 3, run.config.data.crop, run.config.data.crop)
    assert torch.equal(run.model(images), nets[6](images))
    (directory / "checkpoints" / "step-00000006" / "tower-0.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no valid checkpoint of step 6"):
        load.load_run(directory, "best")
