"""A run is read as it was written; what does not verify is skipped, what does not belong together is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist import config as configs
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs import load
from support.runs import settings, write_run


def test_a_geometry_survives_json() -> None:
    state = load.geometry_state(Geometry())
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


def test_a_broken_newest_checkpoint_is_skipped(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path, (3, 5))
    (directory / "checkpoints" / "step-00000005" / "tower-1.safetensors").write_bytes(b"")
    assert load.load_run(directory).step == 3
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
