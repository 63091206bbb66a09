"""TensorBoard's event files: TensorBoard itself reads them, and a resumed run has each step once."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist import config
from alexnet_dist.errors import UserError
from alexnet_dist.runs.directory import read_lines
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training import tensorboard
from alexnet_dist.training.inputs import open_run
from alexnet_dist.training.tensorboard import EventFile
from support.ranks import Ranks
from support.training import settings, train_here


def curves(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return the points of each tag, as TensorBoard shows them."""
    # Not above: ranks import this module.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def train_and_look(files: list[Path], words: list[str]) -> bool:
    """Train in this process; return whether TensorBoard was imported."""
    train_here(files, words)
    return "tensorboard" in sys.modules


def test_a_resumed_run_has_each_step_once(shards: Path, tmp_path: Path, run_ranks: Ranks) -> None:
    run = tmp_path / "run"
    words = settings(shards, run, "topology.layout=fused", "run.save_every=5", "optim.bias_learning_rate=0.03")
    assert run_ranks(1, train_and_look, [Path(words[1])], [*words[2:], "run.steps=14", "run.tensorboard=true"]) == [
        True
    ]
    shutil.rmtree(run / "checkpoints" / "step-00000014")
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    run_ranks(1, train_here, [Path(words[1])], [*words[2:], "run.steps=16", "run.tensorboard=true"])
    assert len(list((run / "tensorboard" / "train").iterdir())) == 2  # from step 10 on the second counts
    logged, evaluated = read_lines(run / "metrics.jsonl"), read_lines(run / "evaluations.jsonl")
    train, validation = curves(run / "tensorboard" / "train"), curves(run / "tensorboard" / "validation")
    assert [line["step"] for line in logged] == list(range(1, 17))
    for key, tag in (("loss", "loss"), ("top1_error", "top1_error"), ("learning_rate", "learning_rate/weights")):
        assert train[tag] == [(line["step"], pytest.approx(line[key])) for line in logged]
    assert [step for step, _ in train["images_per_s"]] == list(range(1, 17))
    assert all(rate > 0 for _, rate in train["images_per_s"])
    assert train["learning_rate/biases"] == [(step, pytest.approx(0.03)) for step in range(1, 17)]
    for key in ("loss", "top1_error", "top5_error"):
        assert validation[key] == [(line["step"], pytest.approx(line[key])) for line in evaluated]


def test_without_the_key_there_is_none(shards: Path, tmp_path: Path, run_ranks: Ranks) -> None:
    words = settings(shards, tmp_path / "run", "topology.layout=fused", "run.steps=1")
    assert run_ranks(1, train_and_look, [Path(words[1])], words[2:]) == [False]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_point_that_was_not_measured_is_left_out(tmp_path: Path) -> None:
    EventFile(tmp_path / "new", 0).add(3, {"loss": 1.5, "top5_error": None})
    assert curves(tmp_path / "new") == {"loss": [(3, 1.5)]}


def test_without_room_points_are_left_out_after_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = EventFile(tmp_path / "new", 0)
    events.add(1, {"loss": 1.0})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensorboard, "append_whole", full)
        for step in (2, 3):
            events.add(step, {"loss": 2.0})
    events.add(4, {"loss": 4.0})
    assert curves(tmp_path / "new") == {"loss": [(1, 1.0), (4, 4.0)]}
    assert capsys.readouterr().err.count("No space left on device; points are left out") == 1


def test_a_missing_package_is_named_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    wanted = config.load([], [f"data.root={tmp_path / 'none'}", "run.tensorboard=true"]).config
    with pytest.raises(
        UserError, match=r"run\.tensorboard: true, .*; pip install 'alexnet_dist\[tensorboard\]', or set"
    ):
        open_run(wanted, launch_info({}))
    with pytest.raises(UserError, match="none"):  # another rank does not write, and misses the shards
        open_run(wanted, replace(launch_info({}), rank=1, world_size=2))
