"""A finished or live run, read for use: its config, classes, mean image, and the net of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Manifest
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG, MEAN
from alexnet_dist.runs.weights import restore


def geometry_state(net: Geometry) -> dict[str, Any]:
    """Return a geometry as plain JSON values, as checkpoints store it."""
    plain = {
        **vars(net),
        "layers": {name: asdict(layer) for name, layer in net.layers.items()},
        "norm": asdict(net.norm),
    }
    values: dict[str, Any] = json.loads(json.dumps(plain))
    return values


def differences(saved: Any, current: Any, prefix: str = "") -> list[str]:
    """Return where two trees of plain values differ, as `key: saved, current` lines."""
    if not (isinstance(saved, dict) and isinstance(current, dict)):
        return [] if saved == current else [f"{prefix}: {saved!r} in the checkpoint, {current!r} now"]
    lines: list[str] = []
    for key in sorted(saved.keys() | current.keys()):
        lines += differences(saved.get(key), current.get(key), f"{prefix}.{key}" if prefix else str(key))
    return lines


@dataclass(frozen=True)
class LoadedRun:
    """A run read from its directory: its config, its classes and mean image, and the net of a checkpoint.

    mean: float32 (3, size, size). model: in evaluation mode, float32, on the CPU.
    """

    directory: Path
    config: Config
    manifest: Manifest
    mean: Tensor
    model: AlexNet
    step: int


def load_run(directory: Path, step: int | None = None) -> LoadedRun:
    """Read a run and the net of one of its checkpoints, by default the newest that verifies.

    Raises UserError if the directory is not a run or no checkpoint verifies.
    """
    if not (directory / CONFIG).exists():
        raise UserError(f"{directory}: not a run: there is no {CONFIG} in it; expected the run.directory of a training")
    config = configs.load([directory / CONFIG], []).config
    saved, complaints = checkpoint.find(directory / CHECKPOINTS, step)
    if saved is None:
        raise UserError(f"{directory}: no checkpoint {'verifies: ' if complaints else 'yet'}{'; '.join(complaints)}")
    net = configs.geometry(config)
    check = differences(saved.state["geometry"], geometry_state(net), "model")
    if check:
        raise UserError(f"{saved.directory}: does not belong to {directory / CONFIG}: {'; '.join(check[:4])}")
    model = AlexNet(net)
    for tower in model.towers:
        assert isinstance(tower, Tower)
        restore(tower, checkpoint.read_tower(saved, tower.index))
    mean = torch.from_numpy(np.load(directory / MEAN))
    return LoadedRun(
        directory, config, manifest.load(manifest.manifest_path(directory, "train")), mean, model.eval(), saved.step
    )
