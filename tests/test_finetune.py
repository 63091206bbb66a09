"""Fine-tuning: what it changes in the run that it begins with, and the whole command on drawn images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.errors import UserError
from alexnet_dist.finetune import Recipe, _pack_options, main, recipe
from alexnet_dist.runs.load import LoadedRun, load_run
from support.folders import OPTIONS, encoded, photo
from support.runs import settings, write_run

LAYERS = ("conv1", "fc6", "fc7")


def source(*words: str) -> LoadedRun:
    """Return what the recipe needs of a run: its configuration, layers and step."""
    loaded = SimpleNamespace(config=settings(*words), model=SimpleNamespace(net=SimpleNamespace(layers=LAYERS)), step=9)
    return cast(LoadedRun, loaded)


def changed(begun: LoadedRun, plan: Recipe, tmp_path: Path) -> Config:
    """Return the configuration of a fine-tuning."""
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(begun.config))
    words = plan.overrides(Path("source"), Path("shards"), Path("run"), classes=5)
    # The net of support/runs.yaml has other layers.
    return config.load([file], [word for word in words if not word.startswith("run.initial_layers")]).config


def test_the_new_layer_learns_at_the_runs_rate_and_the_others_at_a_tenth_of_it(tmp_path: Path) -> None:
    begun = source("data.global_batch=64", "optim.learning_rate=0.02")
    plan = recipe(begun, images=256, epochs=30)
    assert (plan.batch, plan.learning_rate) == (16, 0.01)  # 16 steps an epoch; a quarter of the batch, half of the rate
    assert (plan.copied, plan.new, plan.step) == (["conv1", "fc6"], "fc7", 9)
    found = changed(begun, plan, tmp_path)
    assert found.optim.learning_rate == pytest.approx(0.001)
    assert found.optim.layer_learning_rates == {"fc7": 0.01}
    (event,) = found.run.events
    assert (event.epoch, event.layer_learning_rates) == (20, {"fc7": 0.001})
    assert event.learning_rate == pytest.approx(1e-4)
    assert (found.model.classes, found.data.global_batch, found.run.epochs, found.run.steps) == (5, 16, 30, None)
    assert found.run.initial_step == 9


def test_a_batch_is_never_larger_than_the_runs_nor_than_the_images_allow() -> None:
    begun = source("data.global_batch=64")
    assert recipe(begun, 100_000, 1).batch == 64
    assert recipe(begun, 20, 1).batch == 2
    scaled = source("data.global_batch=64", "optim.learning_rate=0.01", "optim.reference_batch=32")
    assert recipe(scaled, 100_000, 1).learning_rate == pytest.approx(0.02)


def test_what_a_large_run_needed_does_not_stay(tmp_path: Path) -> None:
    begun = source(
        "topology.layout=paired", "train.accumulate=4", "optim.bias_learning_rate=0.02", "run.keep_best=false",
        "run.evaluate_every=0", "optim.rule=lars",
    )  # fmt: skip
    found = changed(begun, recipe(begun, 20, 1), tmp_path)
    assert (found.topology.layout, found.train.accumulate, found.optim.bias_learning_rate) == ("auto", 1, None)
    assert (found.run.keep_best, found.run.evaluate_every, found.optim.rule) == (True, 1, "sgd")


def test_a_net_that_was_fine_tuned_is_fine_tuned_at_the_same_rates() -> None:
    begun = source("data.global_batch=16", "optim.learning_rate=0.001", "optim.layer_learning_rates={fc7: 0.01}")
    assert recipe(begun, 256, 30).learning_rate == 0.01


@pytest.mark.parametrize(
    ("folders", "holdout", "expected"),
    [
        (("cat", "dog"), None, ["--holdout=0.2"]),
        (("cat", "dog"), 0.5, ["--holdout=0.5"]),
        (("train", "Validation"), None, []),
        (("train", "test"), None, []),
        (("train", "val"), 0.5, ["--holdout=0.5"]),  # which pack refuses
        (("train",), None, ["--holdout=0.2"]),
    ],
)
def test_images_are_held_out_where_none_are(
    folders: Sequence[str], holdout: float | None, expected: list[str], tmp_path: Path
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    words = _pack_options(OPTIONS, tmp_path, holdout)
    assert words == ["--size=16", "--filter=bicubic", "--chroma=420", "--quality=90", *expected]


def test_keys_that_it_gives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.directory=x: finetune gives this key; choose its value with --out"):
        main([str(tmp_path), str(tmp_path), "run.directory=x"])


def test_a_folder_becomes_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory, nets = write_run(tmp_path / "home")
    for label, name in enumerate(("cats & dogs", "birds", "none of these")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(10):
            content = encoded(photo(100 * label + number, 30, 40))
            (tmp_path / "mine" / name / f"{number}.jpg").write_bytes(content)
    words = [str(directory), str(tmp_path / "mine"), f"--out={tmp_path / 'out'}", "--epochs=2", "--holdout=0.3"]
    changes = ["metrics.port=null", "data.workers=0"]
    main([*words, *changes])
    printed = capfd.readouterr().out
    assert "3 classes, 21 to train on, 9 held out" in printed
    run = load_run(tmp_path / "out" / "run", "best")
    assert [each.name for each in run.manifest.classes] == sorted(("cats & dogs", "birds", "none of these"))
    assert run.config.run.initial_layers == tuple(list(run.model.net.layers)[:-1])
    first, begun = run.model.towers[0].get_parameter("conv1.weight"), nets[3].towers[0].get_parameter("conv1.weight")
    assert 0 < (first - begun).abs().max() < 0.1 * begun.abs().max()
    with (tmp_path / "out" / "run" / "evaluations.jsonl").open() as file:
        assert len([json.loads(line) for line in file]) == 2
    assert f"python -m alexnet_dist.predict {tmp_path / 'out' / 'run'} IMAGE --step=best" in printed
    main([*words, *changes])  # again: nothing is left to do
    assert "already packed" in capfd.readouterr().err
    assert torch.equal(load_run(tmp_path / "out" / "run", "best").model.towers[0].get_parameter("conv1.weight"), first)


def test_one_class_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path / "home")
    (tmp_path / "mine" / "only").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "mine" / "only" / f"{number}.jpg").write_bytes(encoded(photo(number, 30, 40)))
    with pytest.raises(UserError, match=r"mine: one class; expected two or more folders, one for each class"):
        main([str(directory), str(tmp_path / "mine"), f"--out={tmp_path / 'out'}", "--holdout=0.5"])
    assert not (tmp_path / "out" / "run").exists()
