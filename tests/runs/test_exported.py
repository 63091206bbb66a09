"""Exported files: what they hold is enough to use them, in a process without this package where they promise it."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import alexnet_dist
from alexnet_dist.data import augment
from alexnet_dist.errors import UserError
from alexnet_dist.export import main as export
from alexnet_dist.nn.plain import LocalNorm, SpatialNorm
from alexnet_dist.runs import exported
from alexnet_dist.runs.inference import centre_input, view_probabilities
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.prediction import square_pixels
from support.folders import encoded, photo
from support.runs import write_run

# Prints the probabilities of pixels (B, 3, crop, crop) in a .npy, and the classes; it imports nothing of this package.
USERS = {
    "onnx": """
import json, sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
logits, probabilities = session.run(["logits", "probabilities"], {"pixels": np.load(sys.argv[2])})
described = session.get_modelmeta().custom_metadata_map
""",
    "pt2": """
import json, sys, numpy as np, torch
files = {"description.json": ""}
net = torch.export.load(sys.argv[1], extra_files=files).module()
logits, probabilities = (each.numpy() for each in net(torch.from_numpy(np.load(sys.argv[2]))))
described = json.loads(files["description.json"])
""",
}
PRINT = """
assert not any(name.startswith("alexnet_dist") for name in sys.modules)
print(json.dumps({"probabilities": probabilities.tolist(), "classes": json.loads(described["classes"]), **{
    key: described[key] for key in ("size", "crop", "input", "format")}}))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose net has norms that exporters take for others: over more pixels than there are, and over units."""
    words = [
        "model.spatial_norm={size: 15, alpha: 0.01}",
        "model.layers={conv5: {spatial_norm: true}, fc6: {norm: true}}",
    ]
    return write_run(tmp_path_factory.mktemp("home"), (3,), *words)[0]


@pytest.fixture(scope="module")
def run(directory: Path) -> LoadedRun:
    return load_run(directory)


@pytest.fixture(scope="module")
def squares(run: LoadedRun) -> Tensor:
    """Photographs as predict prepares them, uint8 (3, size, size, 3)."""
    return torch.stack([square_pixels(run, encoded(photo(seed, 30, 40))) for seed in range(3)])


@pytest.mark.parametrize("kind", USERS)
def test_a_graph_gives_predicts_probabilities_without_this_package(
    kind: str, directory: Path, run: LoadedRun, squares: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pixels = tmp_path / f"net.{kind}", tmp_path / "pixels.npy"
    export([str(directory), str(out)])
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: ")
    assert printed.err == ""
    crop = run.config.data.crop
    np.save(pixels, augment.centre_crop(squares, crop, channels_last=True).permute(0, 3, 1, 2).float().numpy())
    line = [sys.executable, "-I", "-c", USERS[kind] + PRINT, str(out), str(pixels)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = view_probabilities(run, squares, 1, torch.device("cpu")).numpy()
    assert np.abs(np.array(found["probabilities"]) - expected).max() < 1e-5
    assert [described["name"] for described in found["classes"]] == [each.name for each in run.manifest.classes]
    assert (found["size"], found["crop"]) == (str(run.manifest.size), str(crop))
    assert "The graph subtracts the mean" in found["input"]


def test_an_exported_file_is_a_net_of_plain_layers(
    directory: Path, run: LoadedRun, squares: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    export([str(directory), str(path)])
    net = alexnet_dist.plain_alexnet(path)
    crop = run.config.data.crop
    patches = augment.centre_crop(squares, crop, channels_last=True).permute(0, 3, 1, 2).float()
    found = net(patches - net.mean).softmax(1)
    assert (found - view_probabilities(run, squares, 1, torch.device("cpu"))).abs().max() < 1e-5
    assert net.classes == tuple(described.name for described in run.manifest.classes)
    assert (net.size, net.mean.shape) == (run.manifest.size, (3, crop, crop))
    assert all(
        type(module).__module__.startswith("torch.nn")
        for module in net.children()
        if not isinstance(module, LocalNorm | SpatialNorm)
    )


def test_the_metadata_alone_describe_the_input_and_the_layers(directory: Path, run: LoadedRun, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    export([str(directory), str(path)])
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    layers = {layer["name"]: layer for layer in json.loads(metadata["layers"])}
    assert list(layers) == list(run.model.net.layers)
    assert {"kernel", "stride", "padding", "overhang", "groups", "norm", "norm_groups", "pool"} <= set(layers["conv1"])
    crop = int(metadata["crop"])
    mean = np.frombuffer(base64.b64decode(metadata["mean"]), "<f4").reshape(3, crop, crop)
    assert np.array_equal(mean, augment.centre_crop(run.mean, crop).numpy())
    assert (metadata["run"], metadata["step"]) == (directory.name, "3")


Change = Callable[[dict[str, str], dict[str, Tensor]], object]
DAMAGE: dict[str, tuple[Change, str]] = {
    "no description": (lambda metadata, _: metadata.clear(), "weights without a description; expected 'alexnet_dist"),
    "another version": (lambda metadata, _: metadata.update(format="v9"), "format 'v9'; expected 'alexnet_dist, plain"),
    "no mean": (lambda metadata, _: metadata.pop("mean"), "its description does not fit: KeyError: 'mean'"),
    "a short mean": (lambda metadata, _: metadata.update(mean="AAAA"), "its description does not fit: ValueError"),
    "no JSON": (lambda metadata, _: metadata.update(layers="["), "its description does not fit: ValidationError"),
    "fewer classes": (
        lambda metadata, _: metadata.update(classes=json.dumps(json.loads(metadata["classes"])[:6])),
        "its description does not fit: ValueError: 6 classes for 7 outputs",
    ),
    "a name that a module has": (
        lambda metadata, _: metadata.update(layers=metadata["layers"].replace('"conv1"', '"classes"')),
        "its description does not fit: ",
    ),
    "too many groups": (
        lambda metadata, _: metadata.update(layers=metadata["layers"].replace('"groups": 1', '"groups": 99999999')),
        "its description does not fit: ValueError: conv1: 99999999 groups of 3 inputs",
    ),
    "a negative overhang": (
        lambda metadata, _: metadata.update(layers=metadata["layers"].replace('"overhang": 0', '"overhang": -3')),
        "its description does not fit: ValueError: .*: a number is out of its range: ",
    ),
    "no groups": (
        lambda metadata, _: metadata.update(layers=metadata["layers"].replace('"groups": 2', '"groups": 0')),
        "its description does not fit: ",
    ),
    "a missing tensor": (
        lambda _, weights: weights.pop("fc8.bias"),
        "its description does not fit: RuntimeError: .*fc8.bias",
    ),
    "another shape": (
        lambda metadata, _: metadata.update(layers=metadata["layers"].replace('"outputs": 7', '"outputs": 99999999')),
        "its description does not fit: RuntimeError: .*fc8",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_does_not_fit_is_refused(name: str, directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    export([str(directory), str(path)])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    change, message = DAMAGE[name]
    change(metadata, weights)
    save_file(weights, path, metadata)
    with pytest.raises(UserError, match=rf"^{path}: {message}"):
        alexnet_dist.plain_alexnet(path)


@pytest.mark.parametrize("content", [b"", b"not tensors", None])
def test_what_is_no_such_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{path}: cannot be read: .*; expected a file written by alexnet_dist.export"
    ):
        alexnet_dist.plain_alexnet(path)


@pytest.mark.parametrize(("height", "width"), [(31, 47), (47, 31), (40, 25), (16, 16), (17, 90)])
def test_the_sentence_about_the_input_is_enough(height: int, width: int, run: LoadedRun) -> None:
    """An image is prepared by what the sentence says, from the numbers in it, beside the package's own way."""
    sentence = exported.description(run)["input"]
    size, crop = (int(re.findall(r"the centre (\d+) x", sentence)[part]) for part in (0, 1))
    pixels = torch.from_numpy(photo(3, height, width)).permute(2, 0, 1)[None]
    shorter = min(height, width)
    sides = [math.floor(side * size / shorter + 0.5) for side in (height, width)]
    pixels = F.interpolate(pixels, sides, mode=re.findall("mode='(.*?)'", sentence)[0], antialias=True)
    for part in (size, crop):
        top, left = ((side - part) // 2 for side in pixels.shape[2:])
        pixels = pixels[:, :, top : top + part, left : left + part]
    square = square_pixels(run, photo(3, height, width))
    expected = centre_input(run, square[None], torch.device("cpu"))
    assert (pixels.float() - exported.plain_net(run).mean).equal(expected)


def test_a_trained_net_for_programs(directory: Path, run: LoadedRun, squares: Tensor) -> None:
    net = alexnet_dist.load_run(directory)
    content = encoded(photo(0, 30, 40))
    guesses = net.predict(content)
    expected = view_probabilities(run, squares[:1], 1, torch.device("cpu"))[0]
    assert [guess.probability for guess in guesses] == sorted(expected.tolist(), reverse=True)[:5]
    assert net.predict(photo(0, 30, 40)) == net.predict(photo(0, 30, 40), views=1)
    assert net.model(net.input(content)).softmax(1).max().item() == pytest.approx(guesses[0].probability, rel=1e-5)
    assert repr(net) == f"TrainedNet({str(directory)!r}, step {run.step}, 7 classes, crop 14, cpu)"
    with pytest.raises(ValueError, match=r"views: found 3, expected one of \(1, 10\)"):
        net.predict(content, views=3)
    assert len(net.features(content)) == run.model.net.layers["fc7"].channels
    assert (net.step, net.classes[0]) == (3, "class-0")
    with pytest.raises(UserError, match=r"^image: not a whole image"):
        net.predict(b"nothing")
