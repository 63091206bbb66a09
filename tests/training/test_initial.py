"""Initial weights from another run: which layers are copied, in every layout, and only when a run begins."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist import config as configs
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, EVALUATIONS
from alexnet_dist.training.build import build_engine
from alexnet_dist.training.initial import copy_initial_weights, layers_to_copy, weight_shapes
from support.config_files import problems
from support.runs import context, settings, write_run
from support.training import settings as words_of_run
from support.training import train_here

SOURCE = Path("runs/other")
COPIED = ("conv1", "conv2", "conv3", "conv5", "fc6", "fc7")  # support/runs.yaml has no conv4


def net(*words: str) -> Geometry:
    return configs.geometry(settings(*words))


@pytest.mark.parametrize(
    ("change", "copied"),
    [
        ("model.classes=9", COPIED),
        ("model.layers.fc7.channels=12", COPIED[:-1]),
        ("model.layers.conv1.kernel=5", (*COPIED[1:], "fc8")),
        ("model.layers.conv4={kernel: 3, padding: 1, channels: 8}", (*COPIED, "fc8")),
        ("model.layers.conv3.reads=own", ("conv1", "conv2", "conv5", "fc6", "fc7", "fc8")),
        ("model.layers.conv5.pool=null", ("conv1", "conv2", "conv3", "conv5", "fc7", "fc8")),  # fc6 reads larger maps
        ("model.layers.conv1.norm=false", (*COPIED, "fc8")),
    ],
)
def test_layers_of_the_same_name_and_shape_are_copied(change: str, copied: tuple[str, ...]) -> None:
    assert tuple(layers_to_copy(SOURCE, (), net(), net(change))) == copied


def test_only_the_named_layers_are_copied_in_the_order_of_the_net() -> None:
    assert layers_to_copy(SOURCE, ("fc6", "conv1"), net(), net("model.classes=9")) == ["conv1", "fc6"]


def test_shapes_are_those_of_the_papers_net() -> None:
    shapes = weight_shapes(Geometry())
    assert shapes["conv3"] == "384 x 256 x 3 x 3 from both towers"
    assert shapes["fc6"] == "4096 x 256 x 6 x 6 from both towers"
    assert shapes["fc8"] == "1000 x 4096 x 1 x 1 from both towers"


@pytest.mark.parametrize(
    ("named", "change", "message"),
    [
        (("conv4",), "model.classes=9", "there is no layer conv4 in runs/other; expected one of conv1, conv2,"),
        (("conv5",), "model.layers.conv5=null", "there is no layer conv5 in this run; expected one of conv1,"),
        (
            ("fc8",),
            "model.classes=9",
            "fc8 has weights of 7 x 10 x 1 x 1 from both towers in runs/other and of 9 x 10 x 1 x 1 from both towers in"
            " this run; leave it out, so that it is drawn, or give both nets the same layer",
        ),
    ],
)
def test_layers_that_cannot_be_copied_are_refused(named: tuple[str, ...], change: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        layers_to_copy(SOURCE, named, net(), net(change))
    assert str(refusal.value).startswith(f"run.initial_layers: {message}")


def test_two_nets_without_a_common_layer_are_refused() -> None:
    with pytest.raises(UserError) as refusal:
        layers_to_copy(SOURCE, (), net(), Geometry())
    assert str(refusal.value) == (
        "run.initial_weights: no layer of runs/other has the name and the shape of one of this run, such as conv1: 8 x"
        " 3 x 3 x 3 from its own tower there, 96 x 3 x 11 x 11 from its own tower here; choose another run, or the net"
        " of that one"
    )


def test_layers_without_a_run_to_copy_them_from_are_refused() -> None:
    assert problems([], ["run.initial_layers=[conv1]"]) == [
        "command line: run.initial_layers = ['conv1']: expected [] without run.initial_weights, the run to copy them"
        " from"
    ]


def begin(words: list[str]) -> tuple[dict[int, dict[str, Tensor]], bool, str]:
    """Return this rank's weights at step 0, whether its velocities are zero, and what it has said; or its error."""
    run = context(settings(*words))
    groups = open_groups(run.topology, 60)
    engine, said = build_engine(run, groups), io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            copy_initial_weights(run, engine, Control(groups.world))
    except UserError as error:
        return {}, True, str(error)
    finally:
        close_groups()
    weights = {
        tower: {name: weight.detach().clone() for name, weight in of_tower.items()}
        for tower, of_tower in engine.weights.items()
    }
    still = all(not velocity.any() for of_tower in engine.velocities.values() for velocity in of_tower.values())
    return weights, still, said.getvalue()


@pytest.mark.parametrize(("ranks", "layout"), [(1, "fused"), (2, "paired"), (4, "paired")])
def test_layers_are_copied_in_every_layout_and_the_others_drawn(
    ranks: int, layout: str, tmp_path: Path, run_ranks: Any
) -> None:
    source, nets = write_run(tmp_path / "source", (3, 5))
    words = [
        "model.classes=9", "run.seed=7", f"topology.layout={layout}", f"run.directory={tmp_path / 'run'}",
        f"run.initial_weights={source}",
    ]  # fmt: skip
    drawn = AlexNet(net("model.classes=9"), 7)
    answers = run_ranks(ranks, begin, words)
    for rank, (weights, still, said) in enumerate(answers):
        assert list(weights) == ([0, 1] if layout == "fused" else [rank % 2])
        assert still
        for tower, of_tower in weights.items():
            for name, weight in of_tower.items():
                expected = drawn if name.startswith("fc8.") else nets[5]
                assert weight.equal(expected.towers[tower].get_parameter(name)), name
        first_line = f"initial weights of {source}, step 5: {', '.join(COPIED)}; drawn: fc8\n"
        assert said == ("" if rank else first_line)


def damaged(home: Path) -> list[str]:
    source, _ = write_run(home / "source", (3,))
    (source / CHECKPOINTS / "step-00000003" / "tower-1.safetensors").write_bytes(b"")
    return [f"run.initial_weights={source}"]


def source_words(home: Path, *words: str) -> list[str]:
    """Name a run with the checkpoints of steps 3 and 5, none of which was evaluated."""
    return [f"run.initial_weights={write_run(home / 'source', (3, 5))[0]}", *words]


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no run": (lambda home: [f"run.initial_weights={home}"], "is not a run: no config.yaml there; expected a"),
    "itself": (lambda home: [f"run.initial_weights={home}/x/../run"], "is this run's own run.directory; expected"),
    "no checkpoint": (
        lambda home: [f"run.initial_weights={write_run(home / 'source', ())[0]}"],
        "there is no checkpoint yet; choose another run, or wait for its first checkpoint",
    ),
    "damaged": (damaged, "no checkpoint verifies; "),
    "no such step": (lambda home: source_words(home, "run.initial_step=4"), "no valid checkpoint of step 4"),
    "no best": (lambda home: source_words(home, "run.initial_step=best"), "none of its checkpoints was evaluated (ste"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_run_that_cannot_be_used_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    words, sign = MISTAKES[name]
    _, _, said = begin([f"run.directory={tmp_path / 'run'}", *words(tmp_path)])
    key = "run.initial_step" if "step" in name or "best" in name else "run.initial_weights"
    assert said.startswith(f"{key}: {tmp_path}")
    assert sign in said
    assert "\n" not in said


@pytest.mark.parametrize(("step", "expected"), [("3", 3), ("best", 3), ("null", 5)])
def test_the_checkpoint_that_was_asked_for_is_taken(step: str, expected: int, tmp_path: Path) -> None:
    source, _ = write_run(tmp_path / "source", (3, 5))
    (source / EVALUATIONS).write_text(
        "".join(json.dumps({"step": number, "top1_error": number / 10}) + "\n" for number in (1, 3, 5))
    )
    words = [f"run.directory={tmp_path / 'run'}", f"run.initial_weights={source}", f"run.initial_step={step}"]
    assert begin(words)[2].startswith(f"initial weights of {source}, step {expected}: ")


def test_all_ranks_end_when_one_cannot_use_the_other_run(tmp_path: Path, run_ranks: Any) -> None:
    words = [f"run.initial_weights={tmp_path}", f"run.directory={tmp_path / 'run'}", "topology.layout=paired"]
    first, second = (said for _, _, said in run_ranks(2, begin, words))
    assert "is not a run" in first
    assert second == "rank 0 rejected the run; see its error"


def train_aloud(words: list[str]) -> str:
    """Train in this process and return what it has said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        train_here([Path(words[1])], words[2:])
    return said.getvalue()


def tensors(directory: Path, step: int) -> dict[str, Tensor]:
    """Return both towers' weights of a checkpoint."""
    saved, _ = checkpoint.find(directory / CHECKPOINTS, step)
    assert saved is not None
    towers = [checkpoint.read_tower(saved, tower) for tower in (0, 1)]
    return {
        name: torch.cat([tower[name] for tower in towers]) for name in towers[0] if not name.startswith("velocity.")
    }


def test_a_run_begins_with_another_ones_layers_and_a_resumed_one_ignores_it(
    shards: Path, tmp_path: Path, run_ranks: Any
) -> None:
    """With a learning rate of almost nothing the first checkpoint has the weights of step 0."""
    still = ["optim.learning_rate=1.0e-30", "run.evaluate_every=0", "topology.layout=fused", "data.workers=0"]
    source = words_of_run(shards, tmp_path / "source", *still, "run.steps=1", "run.seed=1")
    run = words_of_run(shards, tmp_path / "run", *still, "model.layers.fc7.channels=16", "run.seed=2")
    run_ranks(1, train_aloud, source)
    (said,) = run_ranks(1, train_aloud, [*run, "run.steps=1", f"run.initial_weights={tmp_path / 'source'}"])
    expected = (
        f"initial weights of {tmp_path / 'source'}, step 1: conv1, conv2, conv3, conv4, conv5, fc6; drawn: fc7, fc8\n"
    )
    assert said.startswith(expected)
    theirs, ours = tensors(tmp_path / "source", 1), tensors(tmp_path / "run", 1)
    same = {name.split(".")[0] for name, weight in ours.items() if weight.equal(theirs[name]) and "weight" in name}
    assert same == {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6"}
    (said,) = run_ranks(1, train_aloud, [*run, "run.steps=2", f"run.initial_weights={tmp_path / 'nowhere'}"])
    assert f"run.initial_weights: {tmp_path / 'source'} before, {tmp_path / 'nowhere'} now, without effect: the" in said
    assert "\ninitial weights of" not in said
    assert "resuming from step 1" in said
