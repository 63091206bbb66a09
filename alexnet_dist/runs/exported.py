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

SUBTRACT = "and subtract the mean"
FORMAT = "alexnet_dist, plain net, version 1"
LAYERS, CLASSES = TypeAdapter(tuple[PlainLayer, ...]), TypeAdapter(tuple[Class, ...])


def description(run: LoadedRun) -> dict[str, str]:
    """Return the metadata of a run's exported file: texts by key, JSON where a value has parts.

    format; run and step, its origin; layers, in order, as PlainLayer describes them; classes, [{name, words}] by label;
    size, to which the shorter side of an image is resized by `filter`; crop, the side of the centre square that the net
    reads; mean, to be subtracted, base64 of little-endian float32 (3, crop, crop); input, the same in a sentence.
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
        "input": f"RGB, 0 to 255: resize the shorter side to {options.size} pixels ({options.filter}, antialiased), cut"
        f" out the centre {crop} x {crop} pixels, {SUBTRACT}",
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
    except (KeyError, ValueError, RuntimeError, ArithmeticError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: its description does not fit: {problem:.300}; export the run again") from None


def _net(metadata: Mapping[str, str], weights: Mapping[str, Tensor]) -> PlainAlexNet:
    """Build the net that metadata describes around weights, without a copy of them."""
    layers, classes = LAYERS.validate_json(metadata["layers"]), CLASSES.validate_json(metadata["classes"])
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
