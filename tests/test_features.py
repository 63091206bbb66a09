"""Features of a split and of images: the model's own, whatever the batch, and their nearest neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.features import main
from alexnet_dist.figures.held_out import held_out_images, nearest
from alexnet_dist.runs import evaluation, feature_files
from alexnet_dist.runs.inference import centre_input
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.prediction import square_pixels
from support.folders import encoded, photo
from support.runs import write_run
from support.splits import Pack, opened

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    return load_run(write_run(tmp_path / "home")[0])


def own_features(run: LoadedRun, split: Split, layer: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Each image of a split by itself."""
    pictures = [square_pixels(run, bytes(split.jpeg(sample)))[None] for sample in range(split.images)]
    with torch.no_grad():
        return np.concatenate([run.model.features(centre_input(run, each, CPU), layer).numpy() for each in pictures])


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("layer", ["conv2", "fc6", "fc7"])
def test_features_of_a_split_are_the_models_own_whatever_the_batch(
    rows: int, layer: str, run: LoadedRun, pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "ROWS", rows)
    monkeypatch.setattr(feature_files, "WORKERS", 0)
    split, out = opened(pack_tiny), tmp_path / "out.npz"
    main([str(run.directory), str(out), f"--data={split.root}", f"--layer={layer}"])
    with np.load(out) as found:
        expected = own_features(run, split, layer)
        assert found["features"].dtype == np.float32
        assert np.abs(found["features"] - expected).max() <= 1e-6 * np.abs(expected).max()
        assert found["labels"].tolist() == [split.label(sample) for sample in range(split.images)]
        assert found["ids"].tolist() == [str(sample) for sample in range(split.images)]
        assert found["classes"].tolist() == [described.name for described in run.manifest.classes]
        assert (str(found["layer"]), int(found["step"])) == (layer, 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.npz"]


def test_neighbours_by_the_file_are_those_of_figure_4(
    run: LoadedRun, pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "WORKERS", 0)
    split, out = opened(pack_tiny), tmp_path / "out.npz"
    main([str(run.directory), str(out), f"--data={split.root}"])
    with np.load(out) as found:
        features = found["features"].astype(np.float64)
    held_out = held_out_images(run, split)
    # Figure 4's images are in an order of their own.
    order = [int(np.abs(features - row).sum(1).argmin()) for row in held_out.features]
    assert sorted(order) == list(range(split.images))
    for query in range(split.images):
        by_figure = [order[row] for row in nearest(held_out.features, query, 3)]
        assert nearest(features, order[query], 3) == by_figure


def test_images_of_any_origin_and_those_that_cannot_be_used(
    run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "ROWS", 2)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo(number, 30, 40), "PNG"))
    names = [str(tmp_path / name) for name in ("0.png", "missing.png", "1.png", "2.png")]
    out = tmp_path / "out.safetensors"
    assert run_command(main, [str(run.directory), str(out), *names]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"{out}: fc7 of 3 images, {run.model.net.layers['fc7'].channels} units, step 3\n"
    assert printed.err.startswith(f"error: 1 of 4 images were left out:\n{names[1]}: No such file")
    with safe_open(out, "pt") as file:
        metadata, features, labels = file.metadata(), file.get_tensor("features"), file.get_tensor("labels")
    assert json.loads(metadata["ids"]) == [names[0], names[2], names[3]]
    assert labels.tolist() == [feature_files.UNKNOWN] * 3
    with torch.no_grad():
        last = run.model.features(centre_input(run, square_pixels(run, names[3])[None], CPU))[0]
    assert (features[2] - last).abs().max() <= 1e-6 * last.abs().max()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.csv"], r"out\.csv: expected a name that ends in \.npz or \.safetensors"),
        (["out.npz", "--layer=fc9"], r"--layer fc9: expected one of conv1, .*fc8"),
        (["out.npz", "a.jpg", "--split=val"], "IMAGE and --split or --data: expected images, or a split"),
        (["out.npz", "missing.jpg"], r"out\.npz: not written: none of the images can be used"),
        (["file/out.npz", "missing.jpg"], r"file/out\.npz: cannot be written: .*; choose another file"),
    ],
)
def test_mistakes(
    words: list[str], message: str, run: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match=message):
        main([str(run.directory), *words])
    assert not list(tmp_path.glob("*.rows*"))
