"""Evaluation of a whole split, literally: each image once, the mean of all views' and runs' probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from torch import Tensor

from alexnet_dist.data import manifest
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from alexnet_dist.evaluate import main
from alexnet_dist.runs.ensemble import search_weights
from alexnet_dist.runs.evaluation import Scores, Weights, evaluate
from alexnet_dist.runs.inference import find_device, view_probabilities
from alexnet_dist.runs.load import LoadedRun, load_run
from support.runs import CLASSES, SIZE, write_run
from support.splits import opened, with_classes

Pack = Callable[..., Path]
Draw = Callable[[int, int], list[bytes]]
CROP, CPU = 14, torch.device("cpu")
CORNERS = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]


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


def literal_scores(split: Split, means: list[Tensor]) -> Scores:
    """The errors and the loss of a whole split; equal probabilities rank by the class's index."""
    loss = top1 = top5 = 0.0
    for sample, mean in enumerate(means):
        order = sorted(range(CLASSES), key=lambda label: (-float(mean[label]), label))
        label = split.label(sample)
        loss -= math.log(float(mean[label]))
        top1, top5 = top1 + (label not in order[:1]), top5 + (label not in order[:5])
    return Scores(top1 / len(means), top5 / len(means), loss / len(means))


def by_run(runs: list[LoadedRun], split: Split, views: int) -> list[list[Tensor]]:
    """The probabilities of each run for each image."""
    pictures = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB") for sample in range(split.images)]
    return [[probabilities(run, picture, views) for picture in pictures] for run in runs]


def averaged(of_runs: list[list[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """The weighted mean of the runs for each image."""
    return [
        torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
        for parts in zip(*of_runs, strict=True)
    ]


def assert_scores(found: Scores, expected: Scores) -> None:
    assert (found.top1_error, found.top5_error) == (expected.top1_error, expected.top5_error)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("views", "steps", "weights", "name"),
    [(1, (3, 4), None, "val"), (10, (3,), None, "test"), (10, (3, 4, 5), (0.5, 0.125, 0.375), "test")],
)
def test_an_evaluation_is_the_mean_of_the_probabilities(
    views: int,
    steps: tuple[int, ...],
    weights: tuple[float, ...] | None,
    name: str,
    pack_tiny: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alexnet_dist.runs.evaluation.ROWS", 5)  # the second batch has two empty rows
    runs, split = [trained(tmp_path, step) for step in steps], opened(pack_tiny, split=name)
    parts, equal = by_run(runs, split, views), [1 / len(runs)] * len(runs)
    found = evaluate(runs, split, views, CPU, workers=0, weights=weights)
    assert_scores(found, literal_scores(split, averaged(parts, weights or equal)))
    assert_scores(found.plain_mean, literal_scores(split, averaged(parts, equal)))
    for run, scores, own in zip(runs, found.runs, parts, strict=True):
        assert_scores(scores, literal_scores(split, own))
        assert scores.directory == str(run.directory)
    assert (found.images, found.views, found.split, found.steps) == (8, views, name, list(steps))
    assert found.weights == Weights("given" if weights else "equal", list(weights or equal))
    assert not found.optimistic
    assert 0 < found.top1_error != found.top5_error


def test_equal_probabilities_rank_by_index(pack_tiny: Pack, tmp_path: Path) -> None:
    """A net that gives all classes the same probability is right for label 0 in the top 1, for 0 to 4 in the top 5."""
    run, split = trained(tmp_path, 3), opened(pack_tiny)
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            if ".fc8." in name:
                parameter.zero_()
    found = evaluate([run, run], split, 1, CPU, workers=0)
    labels = [split.label(sample) for sample in range(8)]
    assert found.top1_error == sum(label > 0 for label in labels) / 8
    assert found.top5_error == 0.0
    assert found.loss == pytest.approx(math.log(CLASSES))


@pytest.mark.parametrize("name", ["val", "test"])
def test_searched_weights_are_those_of_the_validation_split(
    name: str, pack_tiny: Pack, draw_jpegs: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_dist.runs.evaluation.ROWS", 5)
    runs, val = [trained(tmp_path, step) for step in (3, 4, 5)], opened(pack_tiny)
    split = val if name == "val" else opened(pack_tiny, draw_jpegs(9, SIZE)[1:], "test")
    parts = by_run(runs, val, 1)
    truth = torch.tensor([val.label(sample) for sample in range(8)])
    expected = search_weights(torch.stack([torch.stack(own) for own in parts]).float(), truth)
    computed = 0

    def counted(run: LoadedRun, images: Tensor, views: int, device: torch.device) -> Tensor:
        nonlocal computed
        computed += len(images)
        return view_probabilities(run, images, views, device)

    monkeypatch.setattr("alexnet_dist.runs.evaluation.view_probabilities", counted)
    found = evaluate(runs, split, 1, CPU, workers=0, search_on=val)
    assert found.weights == Weights("searched", expected, "val")
    assert expected != [1 / 3] * 3
    assert found.optimistic == (name == "val")
    assert computed == 3 * 8 * (1 if name == "val" else 2)  # no net sees an image twice
    assert_scores(found, literal_scores(split, averaged(by_run(runs, split, 1), expected)))


def test_a_search_that_does_not_fit_into_memory_is_refused(
    pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_dist.system.resources.available_memory_bytes", lambda: 800)
    runs, split = [trained(tmp_path, step) for step in (3, 4)], opened(pack_tiny)
    with pytest.raises(UserError, match=r"2 runs for 8 images of val and 7 classes take 8\.96e-07 GB of memory, 8e-07"):
        evaluate(runs, split, 1, CPU, workers=0, search_on=split)


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
    assert "on 8 images of val, 10 views an image" in said
    main([*words, "--step", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["images"], found["views"]) == ([3], 8, 1)


def test_the_command_evaluates_an_ensemble_on_the_test_split(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_run(tmp_path / home, (step,))[0] for home, step in (("a", 3), ("b", 4)))
    root = opened(pack_tiny).root
    opened(pack_tiny, split="test")
    words = [str(first), str(second), "--data", str(root), "--device", "cpu", "--split", "test"]
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{first} (step 3): top-1 error ")
    assert lines[1].startswith(f"{second} (step 4): top-1 error ")
    assert lines[2].startswith("the plain mean of 2 runs: top-1 error ")
    assert lines[2].endswith(" on 8 images of test, 1 view an image")
    assert len(lines) == 3
    main([*words, "--weights", "1,3"])
    assert "\nthe mean with weights 0.25, 0.75, as given: top-1 error " in capsys.readouterr().out
    main([*words, "--weights", "search"])
    said = capsys.readouterr().out
    assert ", searched for the top-5 error on val: top-1 error " in said
    assert "optimistic" not in said
    words[-1] = "val"
    main([*words, "--weights", "search"])
    assert "\nthis last error is optimistic: its weights were searched on the same images; " in capsys.readouterr().out
    main([*words, "--weights", "search", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["weights"]["kind"], found["weights"]["searched_on"], found["optimistic"]) == ("searched", "val", True)
    assert {"top1_error", "top5_error", "loss", "images", "views", "split", "steps"} <= set(found)
    assert [run["directory"] for run in found["runs"]] == [str(first), str(second)]


@pytest.mark.parametrize(
    ("runs", "text", "message"),
    [
        (2, "0.3", "--weights: 1 for 2 runs; expected one for each RUN, in their order"),
        (2, "0.3,x", "--weights: '0.3,x'; expected search, or numbers of at least 0 such as 0.3,0.7"),
        (2, "-1,2", "--weights: '-1,2'; expected search, or numbers"),
        (2, "0,0", "--weights: '0,0'; expected search, or numbers"),
        (2, "1e308,1e308", "--weights: '1e308,1e308'; expected search, or numbers"),
        (2, "nan,1", "--weights: 'nan,1'; expected search, or numbers"),
        (1, "search", "--weights search: one RUN, which needs none; name several, or leave out --weights"),
    ],
)
def test_weights_that_cannot_be_are_refused(runs: int, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        main([*["runs/none"] * runs, f"--weights={text}"])
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--device: {name} cannot be used \(.+\); expected one such as cpu or"):
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
