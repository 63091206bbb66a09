"""The loop where it does not go straight on: asked to stop in an evaluation, numbers that are not finite."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training import step
from support.training import evaluations, losses, settings, train_here


def train_and_signal(files: list[Path], words: list[str], batch: int) -> None:
    """Train in this rank, and signal rank 0 when it has scored so many batches of a validation."""
    scored, score = [0], vars(step)["score"]

    def counted(*arguments: Any) -> Any:
        scored[0] += 1
        if scored[0] == batch and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGTERM)
        return score(*arguments)

    vars(step)["score"] = counted
    train_here(files, words)


def train_and_print(files: list[Path], words: list[str]) -> str:
    """Train in this rank; return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        train_here(files, words)
    return output.getvalue()


def state(directory: Path) -> Any:
    saved, _ = checkpoint.find(directory / run_directory.CHECKPOINTS)
    assert saved is not None
    return saved.state


def test_a_signal_ends_an_evaluation_which_is_then_owed(shards: Path, tmp_path: Path, run_ranks: Any) -> None:
    directory = tmp_path / "run"
    words = settings(shards, directory, "run.steps=12", "data.eval_rows=2", "run.save_every=1000")
    run_ranks(2, train_and_signal, [Path(words[1])], words[2:], 3)
    assert (directory / run_directory.PREEMPTED).read_text() == "stopped and saved at step 12\n"
    assert len(losses(directory)) == 12
    assert not (directory / run_directory.EVALUATIONS).exists()
    assert (state(directory)["position"]["step"], state(directory)["evaluated_step"]) == (12, 0)
    run_ranks(2, train_here, [Path(words[1])], words[2:])
    assert not (directory / run_directory.PREEMPTED).exists()
    assert [one["step"] for one in evaluations(directory)] == [12]
    assert state(directory)["evaluated_step"] == 12
    output, _ = run_ranks(2, train_and_print, [Path(words[1])], words[2:])
    assert output == f"{directory} is finished: 12 steps; raise run.steps or run.epochs to continue\n"
    assert [one["step"] for one in evaluations(directory)] == [12]


def train_and_catch(files: list[Path], words: list[str]) -> str:
    """Return what ended the training in this rank."""
    try:
        train_here(files, words)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("learning_rate", "message"),
    [
        ("1e45", "step 1: there are weights or velocities that are not finite: training has diverged; lower"),
        ("1e30", "step 2: the loss is nan at a learning rate of 1e+30: training has diverged; lower"),
    ],
)
def test_what_is_not_finite_is_not_saved(
    learning_rate: str, message: str, shards: Path, tmp_path: Path, run_ranks: Any
) -> None:
    words = settings(
        shards, tmp_path / "run", f"optim.learning_rate={learning_rate}", "run.save_every=1", "run.steps=3"
    )
    messages = run_ranks(2, train_and_catch, [Path(words[1])], words[2:])
    assert message in messages[0]
    assert messages[0] == messages[1]
    newest, complaints = checkpoint.find(tmp_path / "run" / run_directory.CHECKPOINTS)
    assert complaints == []
    assert (newest.step if newest else 0) == (1 if learning_rate == "1e30" else 0)
