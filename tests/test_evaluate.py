"""Evaluation of a whole split, literally: each image once, the mean of all views' and runs' probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from torch import Tensor

from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Class
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from alexnet_dist.evaluate import main
from alexnet_dist.runs.evaluation import Result, evaluate
from alexnet_dist.runs.inference import find_device
from alexnet_dist.runs.load import LoadedRun, load_run
from support.runs import CLASSES, SIZE, write_run

Pack = Callable[..., Path]
Draw = Callable[[int, int], list[bytes]]
CROP, CPU = 14, torch.device("cpu")
CORNERS = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]


def with_classes(root: Path, names: list[str]) -> Split:
    """Return the validation split with other classes."""
    path = manifest.manifest_path(root, "val")
    manifest.save(replace(manifest.load(path), classes=tuple(map(Class, names))), path)
    return Split.open(root, "val")


def opened(pack: Pack, jpegs: list[bytes] | None = None) -> Split:
    """Return a validation split of eight images with the classes of write_run's runs."""
    return with_classes(pack(jpegs, (5, 3), SIZE, "val"), [f"class-{label}" for label in range(CLASSES)])


def trained(home: Path, step: int) -> LoadedRun:
    """Return a run with a net and a mean image of its own."""
    directory, _ = write_run(home / f"{step}", (step,))
    ramp = torch.linspace(0, 40 * step, 3 * SIZE * SIZE).view(3, SIZE, SIZE)
    return replace(load_run(directory), mean=ramp)


def probabilities(run: LoadedRun, picture: npt.NDArray[np.uint8], views: int) -> Tensor:
    """The centre, or corners and centre and their mirror images: a softmax of each, and the mean of those (§4.1)."""
    patches = [
        picture[top : top + CROP, left : left + CROP][:, ::step].transpose(2, 0, 1).astype(np.float32)
        for top, left in (CORNERS if views == 10 else CORNERS[-1:])
        for step in ((1, -1) if views == 10 else (1,))
    ]
    images = torch.from_numpy(np.stack(patches)) - run.mean[:, 1 : 1 + CROP, 1 : 1 + CROP]
    logits = run.model(images).detach().double()
    return torch.stack([row.softmax(0) for row in logits]).sum(0) / views


@pytest.mark.parametrize(("views", "steps"), [(1, (3, 4)), (10, (3,))])
def test_an_evaluation_is_the_mean_of_the_probabilities(
    views: int, steps: tuple[int, ...], pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_dist.runs.evaluation.ROWS", 5)  # the second batch has two empty rows
    runs, split = [trained(tmp_path, step) for step in steps], opened(pack_tiny)
    loss = top1 = top5 = 0.0
    for sample in range(split.images):
        picture = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")
        mean = torch.stack([probabilities(run, picture, views) for run in runs]).mean(0)
        order = mean.argsort(descending=True).tolist()
        label = split.label(sample)
        loss -= math.log(float(mean[label]))
        top1, top5 = top1 + (label not in order[:1]), top5 + (label not in order[:5])
    found = evaluate(runs, split, views, CPU, workers=0)
    assert found.loss == pytest.approx(loss / 8, rel=1e-5)
    assert found == Result(top1 / 8, top5 / 8, found.loss, 8, views, "val", list(steps))
    assert 0 < found.top1_error != found.top5_error


def test_five_classes_have_no_top_5(pack_tiny: Pack, tmp_path: Path) -> None:
    split = Split.open(pack_tiny(split="val"), "val")
    run = trained(tmp_path, 3)
    run = replace(run, manifest=replace(run.manifest, classes=split.manifest.classes))
    assert evaluate([run], split, 1, CPU, workers=0).top5_error is None


def test_a_split_of_other_classes_or_pixels_is_refused(pack_tiny: Pack, tmp_path: Path) -> None:
    run, split = trained(tmp_path, 3), opened(pack_tiny)
    larger = replace(run, manifest=replace(run.manifest, size=SIZE + 1))
    with pytest.raises(UserError, match=r"trained on 17-pixel images, .* has 16; pack with --size 17"):
        evaluate([run, larger], split, 1, CPU, workers=0)
    renamed = with_classes(tmp_path / "shards", [f"other-{label}" for label in range(CLASSES)])
    with pytest.raises(UserError, match=r"run was trained on other classes than .*shards has"):
        evaluate([run], renamed, 1, CPU, workers=0)


def test_a_damaged_image_ends_an_evaluation(pack_tiny: Pack, draw_jpegs: Draw, tmp_path: Path) -> None:
    jpegs = draw_jpegs(8, SIZE)
    jpegs[6] = jpegs[6][:-40]
    with pytest.raises(UserError, match=r"sample 6 .*an evaluation must see every image"):
        evaluate([trained(tmp_path, 3)], opened(pack_tiny, jpegs), 1, CPU, workers=0)


def test_the_command_takes_the_newest_or_the_asked_checkpoint(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = write_run(tmp_path / "home", (3, 5))
    words = [str(directory), "--data", str(opened(pack_tiny).root), "--device", "cpu"]
    main([*words, "--views", "10"])
    assert "(step 5): top-1 error " in (said := capsys.readouterr().out)
    assert "on 8 images of val, 10 view(s) an image" in said
    main([*words, "--step", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["images"], found["views"]) == ([3], 8, 1)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--device: {name} cannot be used \(.+\); expected such as cpu or cuda:1"):
        find_device(name)
    assert find_device("cpu") == torch.device("cpu")


def test_images_packed_with_other_options_than_the_training_set_are_a_warning(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, split = trained(tmp_path, 3), opened(pack_tiny)
    evaluate([run], split, 1, CPU, workers=0)
    assert capsys.readouterr() == ("", "")
    path = manifest.manifest_path(tmp_path / "shards", "val")
    packed = manifest.load(path)
    manifest.save(replace(packed, options=replace(packed.options, quality=75)), path)
    evaluate([run], Split.open(tmp_path / "shards", "val"), 1, CPU, workers=0)
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"warning: the images that {run.directory} was trained on and those of {tmp_path}/shards ")
    assert "were packed differently: --quality 90 and 75; " in error


def test_a_relative_data_root_is_looked_for_below_the_current_folder_which_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = write_run(tmp_path / "home", (3,), "data.root=shards")
    assert "  root: shards\n" in (directory / "config.yaml").read_text()  # as it was typed
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError) as caught:
        main([str(directory)])
    assert f"{elsewhere}/shards/val.manifest.json was tried, because the current folder is {elsewhere}. Give" in str(
        caught.value
    )
