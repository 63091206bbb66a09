"""An exported net in one safetensors file: the weights, and in its metadata all that is needed to use them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.data.manifest import Class
from alexnet_dist.errors import UserError
from alexnet_dist.nn.plain import PlainAlexNet, PlainLayer, plain_layers
from alexnet_dist.runs.checkpoint import write_tensors
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.weights import named_weights

SUBTRACT = "Subtract the mean."
LARGEST = 1 << 32  # inputs of a layer; far above any use
LAYERS_NOTES = (
    "In each layer, in this order: overhang zeros to the right and below; convolution with padding zeros on all sides,"
    " in groups (kernel 0: fully connected, over the maps flattened as channels, rows, columns); the activation if"
    " activate is first; norm, x / (k + alpha * sum of x^2 over size neighbouring maps) ** beta, within each of"
    " norm_groups equal parts of the maps (torch's LocalResponseNorm divides alpha by size); spatial_norm, the same"
    " over size x size pixels of a map; pool (kernel, stride), whose output size is rounded up; the activation if"
    " activate is last. Dropout and the scale of the input are in the weights."
)
FORMAT = "alexnet_dist, plain net, version 1"
LAYERS, CLASSES = TypeAdapter(tuple[PlainLayer, ...]), TypeAdapter(tuple[Class, ...])


def description(run: LoadedRun) -> dict[str, str]:
    """Return the metadata of a run's exported file: texts by key, JSON where a value has parts.

    format; run and step, its origin; layers, in order, as PlainLayer describes them; classes, [{name, words}] by label;
    layers_notes and mean_notes, how to read layers and mean; size, to which the shorter side of an image is resized by
    `filter`; crop, the side of the centre square that the net reads; mean, to be subtracted, base64 of little-endian
    float32 (3, crop, crop); input, how an image becomes the net's input, in sentences.
    """
    crop, options = run.config.data.crop, run.manifest.options
    mean = augment.centre_crop(run.mean, crop)
    return {
        "format": FORMAT,
        "run": run.directory.resolve().name,
        "step": str(run.step),
        "layers": json.dumps([asdict(layer) for layer in plain_layers(run.model.net)]),
        "classes": json.dumps([asdict(described) for described in run.manifest.classes]),
        "size": str(options.size),
        "filter": options.filter,
        "crop": str(crop),
        "mean": base64.b64encode(mean.numpy().astype("<f4").tobytes()).decode(),
        "layers_notes": LAYERS_NOTES,
        "mean_notes": f"base64 of little-endian float32 (3, {crop}, {crop})",
        "input": f"float32 (N, 3, {crop}, {crop}), RGB, 0 to 255. Turn an image by its EXIF orientation and convert it"
        f" to RGB. As 8-bit values, resize its shorter side to {options.size} and the longer one to longer *"
        f" {options.size} / shorter, to the nearest integer (halves up), with torch.nn.functional.interpolate("
        f"mode='{options.filter}', antialias=True); Pillow's {options.filter} is nearly the same. Cut out the centre"
        f" {options.size} x {options.size} pixels, and of those the centre {crop} x {crop}, each from (side - part)"
        f" // 2. {SUBTRACT}",
    }


def write(run: LoadedRun, path: Path) -> None:
    """Write a run's exported file durably; raises OSError."""
    write_tensors(path, named_weights(run.model), description(run))


def plain_net(run: LoadedRun) -> PlainAlexNet:
    """Return the plain net of a run, in evaluation mode."""
    return _net(description(run), named_weights(run.model))


def plain_alexnet(path: str | Path) -> PlainAlexNet:
    """Return the net of an exported file as a module of plain torch layers, in evaluation mode on the CPU.

    It maps mean-subtracted images (B, 3, crop, crop) on the 0-255 scale to logits (B, classes). Its mean, its classes
    and the size are attributes. Raises UserError if the file is not one that `export` has written.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path}: cannot be read: {reason}; expected a file written by alexnet_dist.export") from None
    if metadata.get("format") != FORMAT:
        found = f"format {metadata['format']!r}" if "format" in metadata else "weights without a description"
        raise UserError(f"{path}: {found}; expected {FORMAT!r}: export the run again")
    try:
        return _net(metadata, weights)
    except (KeyError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: its description does not fit: {problem:.300}; export the run again") from None


def _net(metadata: Mapping[str, str], weights: Mapping[str, Tensor]) -> PlainAlexNet:
    """Build the net that metadata describes around weights, without a copy of them."""
    layers, classes = LAYERS.validate_json(metadata["layers"]), CLASSES.validate_json(metadata["classes"])
    for layer in layers:
        _check(layer)
    crop = int(metadata["crop"])
    mean = np.frombuffer(base64.b64decode(metadata["mean"], validate=True), "<f4").reshape(3, crop, crop)
    names = [described.words or described.name for described in classes]
    # A description can ask for any size: nothing is allocated before the shapes are compared.
    with torch.device("meta"):
        net = PlainAlexNet(layers, torch.from_numpy(mean.astype(np.float32)), names, int(metadata["size"]))
    net.load_state_dict(dict(weights), assign=True)
    if len(names) != layers[-1].outputs:
        raise ValueError(f"{len(names)} classes for {layers[-1].outputs} outputs")
    return net.eval().requires_grad_(False)


def _check(layer: PlainLayer) -> None:
    """Raise a ValueError for numbers that no exported layer has, some of which torch takes without a word."""
    norms = [norm.size for norm in (layer.norm, layer.spatial_norm) if norm is not None]
    least = {
        1: (layer.inputs, layer.outputs, layer.stride, layer.groups, layer.norm_groups, *norms, *(layer.pool or ())),
        0: (layer.kernel, layer.padding, layer.overhang),
    }
    for minimum, numbers in least.items():
        if not all(minimum <= number <= LARGEST for number in numbers):
            raise ValueError(f"{layer.name}: a number is out of its range: {asdict(layer)}")
    if layer.groups > min(layer.inputs, layer.outputs):
        raise ValueError(f"{layer.name}: {layer.groups} groups of {layer.inputs} inputs and {layer.outputs} outputs")
