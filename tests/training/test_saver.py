"""Checkpoints that a thread writes: what the steps see of them, on one rank and on several."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.directory import CHECKPOINTS
from alexnet_dist.training import saver
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.saver import Saved, Saver
from support.runs import context, settings

BUSY = "Device or resource busy"
STATE = {"evaluated_step": 0}


def towers(value: float = 1.0) -> dict[int, dict[str, Tensor]]:
    return {tower: {"conv1.weight": torch.full((3,), value + tower)} for tower in (0, 1)}


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return context(settings(f"run.directory={tmp_path}", "run.keep=2", "run.save_every=16"))


@pytest.fixture
def behind(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> Saver:
    """Return a saver that writes every net behind the steps."""
    monkeypatch.setattr(saver, "BACKGROUND_BYTES", 0)
    return Saver(run, Control(None))


def steps(run: RunContext) -> list[int]:
    return sorted(checkpoint.finished_steps(run.directory / CHECKPOINTS))


def test_a_small_net_is_saved_before_the_next_step(run: RunContext) -> None:
    assert Saver(run, Control(None)).begin(5, STATE, towers()) == Saved(5)
    assert steps(run) == [5]
    assert (run.directory / run_directory.SAVED).read_text() == "5\n"


def test_a_save_ends_some_steps_later_and_has_the_weights_of_its_step(
    run: RunContext, behind: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), checkpoint.write_tower

    def slowly(*arguments: Any) -> None:
        assert may_write.wait(20)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "write_tower", slowly)
    weights = towers()
    assert behind.begin(5, STATE, weights) is None
    for tower in weights.values():
        tower["conv1.weight"].fill_(99)  # the next steps
    assert behind.status == (1.0, 1.0)
    assert behind.poll(*behind.status) is None
    assert steps(run) == []
    may_write.set()
    assert behind.finish() == Saved(5)
    assert behind.status == (0.0, 0.0)
    assert behind.finish() is None
    found, _ = checkpoint.find(run.directory / CHECKPOINTS)
    assert found is not None
    assert checkpoint.read_tower(found, 1)["conv1.weight"].tolist() == [2.0] * 3
    assert behind.rewrite_manifest(5, {"evaluated_step": 5}) == Saved(5)
    found, _ = checkpoint.find(run.directory / CHECKPOINTS)
    assert found is not None
    assert found.state["evaluated_step"] == 5


def test_what_is_not_finite_is_not_saved(run: RunContext, behind: Saver) -> None:
    behind.begin(5, STATE, towers())
    behind.finish()
    behind.begin(6, STATE, towers(float("nan")))
    assert behind.finish() == Saved(6, not_finite=2)
    assert steps(run) == [5]


@pytest.mark.parametrize("part", ["write_tower", "commit"])
def test_a_full_disk_is_reported_and_tried_again(
    part: str, run: RunContext, behind: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind.begin(5, STATE, towers())
    behind.finish()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, part, full)
        behind.begin(16, STATE, towers())
        ended = behind.finish()
    assert ended == Saved(16, 0, "No space left on device", permanent=True)
    assert [path.name for path in (run.directory / CHECKPOINTS).iterdir()] == ["step-00000005"]
    behind.failure = ended
    assert [step for step in range(30) if behind.is_retry(step)] == [18, 20, 22, 24, 26, 28]
    behind.begin(18, STATE, towers())
    assert behind.finish() == Saved(18)
    assert not any(map(behind.is_retry, range(30)))
    assert steps(run) == [5, 18]


@pytest.mark.parametrize("part", ["delete_old", "mark_saved"])
def test_a_checkpoint_stays_valid_if_old_ones_cannot_be_deleted(
    part: str, run: RunContext, behind: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, BUSY)

    monkeypatch.setattr(checkpoint if part == "delete_old" else saver, part, busy)
    behind.begin(5, STATE, towers())
    ended = behind.finish()
    assert ended is not None
    assert (ended.error, ended.note) == ("", f"{run.directory / CHECKPOINTS}: not tidied after step 5: {BUSY}")
    assert steps(run) == [5]
    assert behind.saved_step == 5


def test_a_removed_directory_is_told_from_a_full_disk(run: RunContext, behind: Saver) -> None:
    shutil.rmtree(run.directory)
    behind.begin(5, STATE, towers())
    ended = behind.finish()
    assert ended is not None
    assert ended.gone
    assert not run.directory.exists()


def save_on_all_ranks(directory: Path) -> list[tuple[int, Saved | None]]:
    """Save two checkpoints behind ten steps; return at which step each was found to have ended."""
    saver.BACKGROUND_BYTES = 0
    run = context(settings(f"run.directory={directory}", "topology.timeout_s=30"))
    groups = open_groups(run.topology, 30)
    control = Control(groups.world)
    shared = Saver(run, control)
    ended: list[tuple[int, Saved | None]] = []
    for step in range(1, 11):
        if step in (2, 7):
            ended.append((step, shared.finish()))
            own = {tower: towers()[tower] for tower in run.topology.towers} if run.topology.replica == 0 else {}
            shared.begin(step, STATE, own)
        if found := shared.poll(*control.sums(list(shared.status))):
            ended.append((step, found))
    ended.append((11, shared.finish()))
    shared.close()
    close_groups()
    return ended


def test_all_ranks_learn_of_an_end_at_the_same_step(tmp_path: Path, run_ranks: Any) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    found = run_ranks(4, save_on_all_ranks, directory)
    assert all(ended == found[0] for ended in found)
    assert [saved for _, saved in found[0] if saved is not None] == [Saved(2), Saved(7)]
    assert sorted(checkpoint.finished_steps(directory / CHECKPOINTS)) == [2, 7]


def test_the_best_checkpoint_is_kept(run: RunContext) -> None:
    saving = Saver(run, Control(None))
    for step, error in ((1, 0.5), (2, 0.2), (3, 0.4), (4, 0.3), (5, 0.1), (6, 0.6)):
        assert saving.begin(step, STATE, towers()) == Saved(step)
        with (run.directory / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "top1_error": error}) + "\n")
        assert saving.rewrite_manifest(step, STATE) == Saved(step)
    assert steps(run) == [5, 6]
    assert saving.begin(7, STATE, towers()) == Saved(7)
    assert saving.begin(8, STATE, towers()) == Saved(8)
    assert steps(run) == [5, 7, 8]


def test_evaluations_that_cannot_be_read_leave_the_checkpoint_valid(run: RunContext) -> None:
    (run.directory / "evaluations.jsonl").write_text("nonsense\n")
    saved = Saver(run, Control(None)).begin(1, STATE, towers())
    assert saved is not None
    assert "not tidied after step 1: " in saved.note
    assert "evaluations.jsonl:1" in saved.note
    assert steps(run) == [1]
