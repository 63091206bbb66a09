"""A run is read as it was written; what does not verify is skipped, what does not belong together is refused."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_dist import config as configs
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.runs import checkpoint, load
from alexnet_dist.runs import directory as run_directory
from support.runs import settings, write_run


def test_a_geometry_survives_json() -> None:
    state = load.geometry_state(Geometry())
    assert json.loads(json.dumps(state)) == state
    assert state["layers"]["conv1"]["pool"] == [3, 2]
    assert state["norm"]["k"] == 2.0
    assert set(state) == {"layers", "classes", "side", "activation", "norm", "spatial_norm", "input_scale", "towers"}


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
def test_differences_are_named_by_key(net: Geometry, differences: list[str]) -> None:
    assert load.differences(load.geometry_state(Geometry()), load.geometry_state(net), "model") == differences


def test_a_removed_layer_is_a_difference() -> None:
    rows = {name: row for name, row in Geometry().layers.items() if name != "conv4"}
    (line,) = load.differences(load.geometry_state(Geometry()), load.geometry_state(Geometry(rows)), "model")
    assert line.startswith("model.layers.conv4: {")
    assert line.endswith("in the checkpoint, None now")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory, nets = write_run(tmp_path, (3, 5))
    (tmp_path / "shards" / run_directory.MEAN).unlink()  # a run stands alone
    for step, run in ((5, load.load_run(directory)), (3, load.load_run(directory, 3))):
        assert run.step == step
        assert run.config == settings()
        assert [described.name for described in run.manifest.classes] == [f"class-{label}" for label in range(7)]
        assert run.mean.numpy().tolist() == np.full((3, 16, 16), 100).tolist()
        assert not run.model.training
        for name, weight in nets[step].named_parameters():
            assert run.model.get_parameter(name).equal(weight)


def test_a_broken_newest_checkpoint_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, _ = write_run(tmp_path, (3, 5))
    assert load.load_run(directory).step == 5
    assert capsys.readouterr() == ("", "")
    (directory / "checkpoints" / "step-00000005" / "tower-1.safetensors").write_bytes(b"")
    assert load.load_run(directory).step == 3
    assert capsys.readouterr() == (
        "",
        f"checkpoint skipped: {directory / 'checkpoints' / 'step-00000005'}: tower-1.safetensors does not have the size"
        " and sha256 of its manifest; step 3 is used\n",
    )
    assert load.load_run(directory, 3).step == 3  # as requested: nothing is skipped
    assert capsys.readouterr() == ("", "")
    (directory / "checkpoints" / "step-00000003" / "tower-1.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint verifies: .*step-00000005.*; .*step-00000003"):
        load.load_run(directory)


def test_what_is_no_run_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"shards: not a run: there is no config\.yaml in it"):
        load.load_run(shards)
    run_directory.open_directory(tmp_path / "run").close()
    run_directory.begin(
        tmp_path / "run",
        0,
        0,
        configs.to_yaml(settings()),
        {path.name: path.read_bytes() for path in shards.glob("train.*")},
    )
    with pytest.raises(UserError, match="run: no checkpoint yet"):
        load.load_run(tmp_path / "run")


def test_a_checkpoint_that_its_config_contradicts_is_refused(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path)
    (directory / "config.yaml").write_text(configs.to_yaml(settings("model.activation=tanh")))
    with pytest.raises(UserError, match=r"step-00000003: does not belong to .*config\.yaml: model\.activation: 'relu'"):
        load.load_run(directory)


COMMANDS = {
    "evaluate": ["{run}", "--data", "{data}", "--json"],
    "export": ["{run}", "{home}/weights.safetensors"],
    "predict": ["{run}", "{home}/image.png", "--json"],
    "figures": ["{run}", "{home}/figures"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_which_checkpoint_it_skips(
    command: str, tmp_path: Path, pack_tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate is refused afterwards: the classes of its shards are others."""
    directory, _ = write_run(tmp_path / "runs", (3, 5))
    (directory / "checkpoints" / "step-00000005" / "manifest.json").write_text("{}")
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    names = {"run": directory, "home": tmp_path, "data": pack_tiny(counts=(4,), split="val")}
    module = importlib.import_module(
        f"alexnet_dist.{command}{'.__main__' if command in ('figures', 'predict') else ''}"
    )
    code = run_command(module.main, [argument.format_map(names) for argument in COMMANDS[command]])
    output, error = capsys.readouterr()
    assert code == (2 if command == "evaluate" else 0), error
    skipped = f"checkpoint skipped: {directory / 'checkpoints' / 'step-00000005'}: manifest.json is not a checkpoint's"
    assert error.startswith(skipped)
    assert "; step 3 is used\n" in error
    assert "skipped: /" not in output


# A live run deletes its older checkpoints while they are read.


def test_a_line_that_a_live_run_has_not_finished_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for text, steps in (("", []), ('{"step"', []), ('{"step": 1}\n', [1]), ('{"step": 1}\n{"st', [1])):
        path.write_text(text)
        assert [line["step"] for line in run_directory.read_lines(path)] == steps


class LiveRun:
    """A run with keep=1 that commits its next checkpoint each time before one of its files is read."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, file: str, commits: int) -> None:
        self.directory, self.step, self.commits = write_run(home)[0], 3, commits
        if file == "tower-1.safetensors, once verified":
            self._patch(monkeypatch, "read_tower", lambda _checkpoint, tower: tower == 1)
        else:
            self._patch(monkeypatch, "_record", lambda path: path.name == file and f"{self.step:08d}" in str(path))

    def _patch(self, monkeypatch: pytest.MonkeyPatch, name: str, is_due: Callable[..., bool]) -> None:
        read = getattr(checkpoint, name)

        def commit_then_read(*arguments: Any) -> Any:
            if self.commits and is_due(*arguments):
                self.commits -= 1
                self.commit()
            return read(*arguments)

        monkeypatch.setattr(checkpoint, name, commit_then_read)

    def commit(self) -> None:
        home, self.step = self.directory / "checkpoints", self.step + 1
        old = checkpoint.step_directory(home, self.step - 1)
        new = checkpoint.step_directory(home, self.step)
        shutil.copytree(old, new)
        state = json.loads((new / "manifest.json").read_text())
        state.pop(checkpoint.OWN_HASH, None)
        (new / "manifest.json").write_text(json.dumps({**state, "step": self.step}))
        shutil.rmtree(old)


FILES = ("tower-0.safetensors", "tower-1.safetensors", "tower-1.safetensors, once verified")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("commits", [1, 3])
def test_a_checkpoint_that_a_live_run_deletes_is_searched_again(
    file: str, commits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live = LiveRun(tmp_path, monkeypatch, file, commits)
    assert load.load_run(live.directory).step == 3 + commits
    assert capsys.readouterr() == ("", "")  # the deleted one was not damaged


@pytest.mark.parametrize("file", FILES)
def test_checkpoints_that_a_live_run_deletes_too_fast_are_given_up(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveRun(tmp_path, monkeypatch, file, 99)
    with pytest.raises(UserError, match=r"run: its checkpoints are deleted faster than they can be read; try again"):
        load.load_run(live.directory)
    assert live.commits == 99 - load.SEARCHES


def test_a_step_that_a_live_run_deletes_is_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveRun(tmp_path, monkeypatch, "tower-1.safetensors", 99)
    with pytest.raises(UserError, match=r"no valid checkpoint of step 3 .*; steps there: 4"):
        load.load_run(live.directory, 3)
