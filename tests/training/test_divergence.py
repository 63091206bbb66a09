"""What a run does after numbers that are not finite: it stops, skips the step, or goes back without the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist import config
from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.directory import CHECKPOINTS, SKIPPED
from alexnet_dist.training.faults import parse_fault
from support.training import settings, torchrun

STEPS, SAVE_EVERY = 24, 5
WORDS = (f"run.steps={STEPS}", f"run.save_every={SAVE_EVERY}", "topology.timeout_s=30")


def poisoned(steps: tuple[int, ...], ranks: int) -> list[str]:
    """Return options that make the images of some steps not a number on all ranks."""
    return [f"--unsafe-fault=rank={rank},step={step},phase=load,kind=nan" for step in steps for rank in range(ranks)]


def train_poisoned(files: list[Path], words: list[str], steps: tuple[int, ...]) -> str:
    """Return what ended the training in this rank."""
    from alexnet_dist.training.train import train

    faults = [parse_fault(option.partition("=")[2]) for option in poisoned(steps, 4)]
    try:
        train(config.load(files, words).config, faults=faults)
    except UserError as error:
        return str(error)
    return ""


def logged(directory: Path) -> list[int]:
    lines = run_directory.read_lines(directory / "metrics.jsonl")
    assert all(line["loss"] < 10 for line in lines)
    return [line["step"] for line in lines]


def test_skipped_steps_change_nothing_and_are_counted(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    words = settings(shards, tmp_path / "run", *WORDS, "run.on_divergence=skip", "run.max_skipped=2")
    errors, _ = run_ranks(4, train_poisoned, [Path(words[1])], words[2:], (13, 21)), None
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
    errors = run_ranks(2, train_poisoned, [Path(words[1])], words[2:], (3, 4))
    assert set(errors) == {errors[0]}
    assert "step 4: the gradients are not finite, after 1 skipped steps: training has diverged" in errors[0]


SLOW = [pytest.param(ranks, limit, marks=pytest.mark.slow) for ranks, limit in ((4, 10), (2, 1))]


@pytest.mark.parametrize(("ranks", "limit"), [(2, 10), *SLOW])
def test_a_rollback_leaves_the_batch_out_and_goes_on(ranks: int, limit: int, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = settings(shards, run, *WORDS, "run.on_divergence=rollback", f"run.max_skipped={limit}")
    process = torchrun(ranks, [*words, *poisoned((9, 21), ranks)])
    said, _ = process.communicate(timeout=120)
    warning = "warning: step {0}: the loss is nan at a learning rate of 0.02: resuming from the last checkpoint"
    named = "9" if limit == 1 else "8 and 9"
    assert f"{warning.format(9)} without the batch of step {named}\n" in said, said
    assert "resuming from step 5 " in said
    noted = [line["steps"] for line in run_directory.read_lines(run / SKIPPED)]
    if limit == 1:
        assert "step 21: the loss is nan at a learning rate of 0.02: training has diverged" in said
        assert (process.returncode, noted) == (1, [[8]])
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
    path = tmp_path / run_directory.SKIPPED
    path.write_text(path.read_text().rstrip())  # as some editors do
    run_directory.skip_batches(tmp_path, [3], "inf")
    assert run_directory.skipped_batches(tmp_path) == [3, 11, 12]
    for damaged in ('{"steps": [1]}\nhalf\n', json.dumps({"steps": 3}) + "\n", '{"steps": ["x"]}\n', "[]\n"):
        (tmp_path / SKIPPED).write_text(damaged)
        with pytest.raises(UserError, match=rf"{SKIPPED}: not a list of skipped batches .*restore it, or remove"):
            run_directory.skipped_batches(tmp_path)
