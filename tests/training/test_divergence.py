"""What a run does after numbers that are not finite: it stops, skips the step, or goes back without the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.directory import CHECKPOINTS, SKIPPED
from alexnet_dist.training import feed
from alexnet_dist.training.feed import Batch, Preparation
from alexnet_dist.training.run_plan import BatchSpec
from support.training import settings, torchrun, train_here

STEPS, SAVE_EVERY = 24, 5
WORDS = (f"run.steps={STEPS}", f"run.save_every={SAVE_EVERY}", "topology.timeout_s=30")
prepare = feed.prepare


def poison(batches: tuple[int, ...]) -> None:
    """Make the images of some batches not a number in this process; batch 0 is that of step 1."""

    def poisoned(spec: BatchSpec, rows: Any, preparation: Preparation) -> Batch:
        batch = prepare(spec, rows, preparation)
        if spec.train and spec.step in batches:
            batch.images.mul_(float("nan"))
        return batch

    feed.prepare = poisoned


def train_poisoned(files: list[Path], words: list[str], batches: tuple[int, ...]) -> str:
    """Return what ended the training in this rank."""
    poison(batches)
    try:
        train_here(files, words)
    except UserError as error:
        return str(error)
    return ""


def logged(directory: Path) -> list[int]:
    lines = run_directory.read_lines(directory / "metrics.jsonl")
    assert all(line["loss"] < 10 for line in lines)
    return [line["step"] for line in lines]


def test_skipped_steps_change_nothing_and_are_counted(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    words = settings(shards, tmp_path / "run", *WORDS, "run.on_divergence=skip", "run.max_skipped=2")
    errors, _ = run_ranks(4, train_poisoned, [Path(words[1])], words[2:], (12, 20)), None
    assert errors == [""] * 4
    assert logged(tmp_path / "run") == [step for step in range(1, STEPS + 1) if step not in (13, 21)]
    found, complaints = checkpoint.find(tmp_path / "run" / CHECKPOINTS)
    assert complaints == []
    assert found is not None
    assert (found.step, found.state["unchanged"]) == (STEPS, 2)
    before, _ = checkpoint.find(tmp_path / "run" / CHECKPOINTS, 20)
    assert before is not None
    assert before.state["unchanged"] == 1


def test_one_step_too_many_ends_the_run(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    words = settings(shards, tmp_path / "run", *WORDS, "run.on_divergence=skip", "run.max_skipped=1")
    errors = run_ranks(2, train_poisoned, [Path(words[1])], words[2:], (2, 3))
    assert set(errors) == {errors[0]}
    assert "step 4: the gradients are not finite, after 1 skipped steps: training has diverged" in errors[0]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from training.test_divergence import poison
poison({batches})
from alexnet_dist.train import run
run()
"""


@pytest.mark.parametrize(("ranks", "limit"), [(4, 10), (2, 1)])
def test_a_rollback_leaves_the_batch_out_and_goes_on(
    ranks: int, limit: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1]), batches=(8, 20)))
    monkeypatch.setattr("support.training.TRAIN", script)
    words = settings(shards, run, *WORDS, "run.on_divergence=rollback", f"run.max_skipped={limit}")
    process = torchrun(ranks, words)
    said, _ = process.communicate(timeout=120)
    warning = "warning: step {0}: the loss is nan at a learning rate of 0.02: resuming from the last checkpoint"
    assert f"{warning.format(9)} without the batch of step 8 and 9\n" in said, said
    assert "resuming from step 5 " in said
    noted = [line["steps"] for line in run_directory.read_lines(run / SKIPPED)]
    if limit == 1:
        assert "step 21: the loss is nan at a learning rate of 0.02: training has diverged" in said
        assert (process.returncode, noted) == (1, [[7, 8]])
        return
    assert process.returncode == 0, said
    assert noted == [[7, 8], [20]]  # step 20 is saved: its weights are finite
    assert f"{warning.format(21)} without the batch of step 21\n" in said
    assert "resuming from step 20 " in said
    assert logged(run) == [step for step in range(1, STEPS + 1) if step not in (8, 9, 21)]
    found, _ = checkpoint.find(run / CHECKPOINTS)
    assert found is not None
    assert (found.step, found.state["position"]["skipped"]) == (STEPS, [7, 8, 20])


def test_what_is_skipped_is_read_again_and_a_damaged_list_is_refused(tmp_path: Path) -> None:
    assert run_directory.skipped_batches(tmp_path) == []
    run_directory.skip_batches(tmp_path, [11, 12], "nan")
    run_directory.skip_batches(tmp_path, [3], "inf")
    assert run_directory.skipped_batches(tmp_path) == [3, 11, 12]
    for damaged in ('{"steps": [1]}\nhalf\n', json.dumps({"steps": 3}) + "\n", '{"steps": ["x"]}\n', "[]\n"):
        (tmp_path / SKIPPED).write_text(damaged)
        with pytest.raises(UserError, match=rf"{SKIPPED}: not a list of skipped batches .*restore it, or remove"):
            run_directory.skipped_batches(tmp_path)
