"""A run's directory: whose it is, what is cut back, what is refused, and what is read from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_dist import config
from alexnet_dist.runs import checkpoint, directory as run_directory
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.nn.model import Tower
from support.runs import settings, write_run, write_shards

# Holds a run's directory, and forks a child that keeps all its files open, as a loader's workers do.
HOLDER = """
import os, sys, time
from pathlib import Path
from alexnet_dist.runs import directory as run_directory
directory, shards = map(Path, sys.argv[1:])
lock = run_directory.open_directory(directory)
run_directory.begin(directory, 0, 0, "", {path.name: path.read_bytes() for path in shards.iterdir()})
child = os.fork()
if child == 0:
    time.sleep(120)
print(child, flush=True)
time.sleep(120)
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_new_run_holds_its_config_classes_and_mean(tmp_path: Path, shards: Path) -> None:
    directory = tmp_path / "deep" / "run"
    with run_directory.open_directory(directory):
        run_directory.begin(directory, 0, 0, "config: text\n", files(shards))
        found = files(directory)
    assert found.pop(".lock").decode().startswith(f"process {os.getpid()} on ")
    assert found == files(shards) | {"config.yaml": b"config: text\n"}


def test_a_run_is_opened_again_with_a_new_config(tmp_path: Path, shards: Path) -> None:
    directory = tmp_path / "run"
    run_directory.open_directory(directory).close()
    run_directory.begin(directory, 0, 0, "old", files(shards))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (directory / name).write_text('{"step": 1}\n{"step": 2}\n')
    (directory / "PREEMPTED").write_text("")
    before = files(directory)
    run_directory.open_directory(directory).close()
    assert files(directory) == before  # it can still be refused
    run_directory.begin(directory, 2, 1, "new", {"train.mean.npy": b"mean"})
    assert (directory / "config.yaml").read_text() == "new"
    assert (directory / "train.mean.npy").read_bytes() == b"mean"
    assert run_directory.read_lines(directory / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert run_directory.read_lines(directory / "evaluations.jsonl") == [{"step": 1}]
    assert not (directory / "PREEMPTED").exists()
    assert len((directory / ".lock").read_text().splitlines()) == 1


def test_a_directory_with_nothing_but_a_lock_is_new(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("process 1 on elsewhere\n")
    run_directory.open_directory(tmp_path / "run").close()


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(
        UserError, match=r"photos is not a run: it holds 'cat\.jpg' but no config\.yaml; choose another"
    ):
        run_directory.open_directory(tmp_path / "photos")
    assert files(tmp_path / "photos") == {"cat.jpg": b"cat"}


@pytest.mark.parametrize("place", ["file", "file/run", "taken"])
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, shards: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "config.yaml").mkdir(parents=True)

    def taken() -> None:
        run_directory.open_directory(tmp_path / place).close()
        run_directory.begin(tmp_path / place, 0, 0, "", files(shards))

    with pytest.raises(
        UserError, match=rf"run\.directory: {tmp_path / place} cannot be written: \w+.*; choose another"
    ):
        taken()


@pytest.fixture
def holder(tmp_path: Path, shards: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process that holds the run's directory, and its child's id."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), str(shards)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def test_a_directory_belongs_to_one_process_until_it_is_gone(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], int]
) -> None:
    process, child = holder
    for _ in range(2):  # being refused does not free it
        with pytest.raises(
            UserError, match=rf"run is in use by another run \(process {process.pid} on .+\); stop that"
        ):
            run_directory.open_directory(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == ""
    process.kill()
    process.wait()
    os.kill(child, 0)  # a forked child that still has the lock's file open does not hold it
    with run_directory.open_directory(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_cut_back_drops_later_steps_and_half_written_lines(tmp_path: Path) -> None:
    line = '{"step": %d, "loss": 1.0}'
    kept = f"{line % 1}\n{line % 10}\n"
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples-rank-0.jsonl", "samples-rank-11.jsonl"):
        (tmp_path / name).write_text(f'{kept}{line % 11}\n7\n[]\n{{"loss": 2}}\n{{"step": null}}\n{{"step": 5, "lo')
    (tmp_path / "other.jsonl").write_text(line % 11)
    run_directory.truncate_records(tmp_path, 10, 10)
    found = {name: content.decode() for name, content in files(tmp_path).items()}
    assert found.pop("other.jsonl") == line % 11
    assert list(found.values()) == [kept] * 4


def test_cut_back_ends_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}')
    run_directory.truncate_records(tmp_path, 1, 1)
    run_directory.append(tmp_path / "metrics.jsonl", {"step": 2})
    assert run_directory.read_lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    run_directory.truncate_records(tmp_path, 0, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_nothing_is_cut_where_nothing_is(tmp_path: Path) -> None:
    run_directory.truncate_records(tmp_path, 0, 0)
    assert files(tmp_path) == {}
    assert run_directory.read_lines(tmp_path / "metrics.jsonl") == []


def test_a_geometry_survives_json() -> None:
    state = run_directory.geometry_state(Geometry())
    assert json.loads(json.dumps(state)) == state
    assert state["layers"]["conv1"]["pool"] == [3, 2]
    assert state["norm"]["k"] == 2.0
    assert set(state) == {"layers", "classes", "side", "activation", "norm", "input_scale"}


@pytest.mark.parametrize(
    ("net", "differences"),
    [
        (Geometry(), []),
        (Geometry(classes=10), ["model.classes: 1000 in the checkpoint, 10 now",
                                "model.layers.fc8.channels: 1000 in the checkpoint, 10 now"]),
        (Geometry(norm=Norm(k=1.0)), ["model.norm.k: 2.0 in the checkpoint, 1.0 now"]),
        (Geometry(input_scale=0.5), ["model.input_scale: 1.0 in the checkpoint, 0.5 now"]),
    ],
)  # fmt: skip
def test_differences_are_told_by_key(net: Geometry, differences: list[str]) -> None:
    assert run_directory.differences(run_directory.geometry_state(Geometry()), run_directory.geometry_state(net), "model") == differences


def test_a_removed_layer_is_a_difference() -> None:
    rows = {name: row for name, row in Geometry().layers.items() if name != "conv4"}
    (line,) = run_directory.differences(run_directory.geometry_state(Geometry()), run_directory.geometry_state(Geometry(rows)), "model")
    assert line.startswith("model.layers.conv4: {")
    assert line.endswith("in the checkpoint, None now")


POSITION = {
    "plan_version": 1, "seed": 0, "step": 40, "global_batch": 8, "lanes": 4, "window": 16, "manifest_sha256": "ab",
}  # fmt: skip


def saved(net: Geometry) -> checkpoint.Checkpoint:
    state = {"geometry": run_directory.geometry_state(net), "position": POSITION}
    return checkpoint.Checkpoint(Path("runs/mine/checkpoints/step-00000040"), 40, state)


def test_a_run_goes_on_with_the_same_net_and_order() -> None:
    run_directory.check_resumable(saved(Geometry()), run_directory.geometry_state(Geometry()), {**POSITION, "step": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "run.seed: 0 in the checkpoint, 1 now"),
        ({"global_batch": 9}, "data.global_batch: 8 in the checkpoint, 9 now"),
        ({"lanes": 5}, "data.lanes: 4 in the checkpoint, 5 now"),
        ({"window": 17}, "data.window: 16 in the checkpoint, 17 now"),
        ({"manifest_sha256": "cd"}, "manifest_sha256: 'ab' in the checkpoint, 'cd' now"),
        ({"plan_version": 2}, "plan_version: 1 in the checkpoint, 2 now"),
    ],
)
def test_another_order_of_samples_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        run_directory.check_resumable(saved(Geometry()), run_directory.geometry_state(Geometry()), {**POSITION, **change})
    assert message in str(refusal.value)
    assert "step-00000040: resuming would change the order of samples" in str(refusal.value)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"step-00000040: a checkpoint of another architecture: model\.classes: 1000 in"
    ):
        run_directory.check_resumable(saved(Geometry()), run_directory.geometry_state(Geometry(classes=9)), POSITION)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory, nets = write_run(tmp_path, (3, 5))
    (tmp_path / "shards" / run_directory.MEAN).unlink()  # a run stands alone
    for step, found in ((5, run_directory.load_run(directory)), (3, run_directory.load_run(directory, 3))):
        assert found.step == step
        assert found.config == settings()
        assert [described.name for described in found.manifest.classes] == [f"class-{label}" for label in range(7)]
        assert found.mean.numpy().tolist() == np.full((3, 16, 16), 100).tolist()
        assert not found.model.training
        for name, weight in nets[step].named_parameters():
            assert found.model.get_parameter(name).equal(weight)


def test_a_broken_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path, (3, 5))
    (directory / "checkpoints" / "step-00000005" / "tower-1.safetensors").write_bytes(b"")
    assert run_directory.load_run(directory).step == 3
    (directory / "checkpoints" / "step-00000003" / "tower-1.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint is whole: .*step-00000005.*; .*step-00000003"):
        run_directory.load_run(directory)


def test_what_is_no_run_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"shards: not a run: there is no config\.yaml in it"):
        run_directory.load_run(shards)
    run_directory.open_directory(tmp_path / "run").close()
    run_directory.begin(tmp_path / "run", 0, 0, config.to_yaml(settings()), files(shards))
    with pytest.raises(UserError, match="run: no checkpoint yet"):
        run_directory.load_run(tmp_path / "run")


def test_a_checkpoint_that_its_config_contradicts_is_refused(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path)
    (directory / "config.yaml").write_text(config.to_yaml(settings("model.activation=tanh")))
    with pytest.raises(UserError, match=r"step-00000003: does not belong to .*config\.yaml: model\.activation: 'relu'"):
        run_directory.load_run(directory)


def test_restoring_is_in_place_and_brings_velocities(tmp_path: Path) -> None:
    directory, nets = write_run(tmp_path)
    newest, _ = checkpoint.find(directory / run_directory.CHECKPOINTS)
    assert newest is not None
    for index in (0, 1):
        tower = Tower(index, replace(nets[3].net), seed=99)
        weights = dict(tower.named_parameters())
        velocities = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        held = dict(velocities)
        run_directory.restore(tower, checkpoint.read_tower(newest, index), velocities)
        for name, weight in nets[3].towers[index].named_parameters():
            assert weights[name].equal(weight)
            assert velocities[name] is held[name]
            assert velocities[name].equal(weight + 1)
