"""A finished or live run, read for use: its config, classes, mean image, and the net of a checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data import manifest
from alexnet_dist.data.choices import BEST
from alexnet_dist.data.manifest import Manifest
from alexnet_dist.data.reader import parse_npy
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry, Layer
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.checkpoint import Checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, CONFIG, MEAN, check_is_run, evaluated_best
from alexnet_dist.runs.weights import check_tower, restore

HEADER_BYTES = 4096  # more than the header of an array has
SEARCHES = 5  # for a checkpoint that a live run does not delete before it is read


def geometry_state(net: Geometry) -> dict[str, Any]:
    """Return a geometry as plain JSON values, as checkpoints store it."""
    plain = {
        **vars(net),
        "layers": {name: asdict(layer) for name, layer in net.layers.items()},
        "norm": asdict(net.norm),
        "spatial_norm": asdict(net.spatial_norm),
    }
    values: dict[str, Any] = json.loads(json.dumps(plain))
    return values


def saved_geometry(saved: Checkpoint) -> dict[str, Any]:
    """Return the geometry of a checkpoint; what an earlier version did not store has the value that it always had.

    Raises UserError if its manifest has none.
    """
    default: dict[str, Any] = json.loads(json.dumps(asdict(Layer())))
    try:
        state: dict[str, Any] = saved.state["geometry"]
        layers = {name: default | layer for name, layer in state["layers"].items()}
        return geometry_state(Geometry()) | state | {"layers": layers}
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{saved.directory / checkpoint.MANIFEST}: no geometry of a net in it; restore the checkpoint"
        ) from None


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


def load_run(directory: Path, step: int | Literal["best"] | None = None) -> LoadedRun:
    """Read a run and the net of one of its checkpoints, by default the newest that verifies.

    step: "best" is the checkpoint with the lowest top-1 error on the validation set.

    Prints a line on stderr for each newer checkpoint that does not verify. A live run may delete a checkpoint while it
    is read: the newest is then searched again.

    Raises UserError if the directory is not a run or no checkpoint verifies.
    """
    check_is_run(directory)
    config = configs.load([directory / CONFIG], []).config
    home, net = directory / CHECKPOINTS, configs.geometry(config)
    if isinstance(step, str) and step != BEST:
        raise UserError(f"step: found {step!r}, expected the step of a checkpoint, or {BEST!r}")
    for _ in range(SEARCHES):
        before = checkpoint.finished_steps(home)
        number = evaluated_best(directory, before) if step == BEST else step
        try:
            saved, complaints = checkpoint.find(home, number)
            model = None if saved is None else _read_model(saved, net, directory / CONFIG)
        except UserError:
            if step not in (None, BEST) or not _deleted(before, home):
                raise
            continue
        if not (complaints and _deleted(before, home)):
            break
    else:
        raise UserError(
            f"{directory}: its checkpoints are deleted faster than they can be read; try again when the run has ended,"
            " or train with a larger run.keep or run.save_every"
        )
    if saved is None or model is None:
        raise UserError(f"{directory}: no checkpoint {'verifies: ' if complaints else 'yet'}{'; '.join(complaints)}")
    for complaint in complaints:
        print(f"checkpoint skipped: {complaint}; step {saved.step:,} is used", file=sys.stderr, flush=True)
    train_manifest = manifest.load(manifest.manifest_path(directory, "train"))
    mean = _read_mean(directory / MEAN, train_manifest.size)
    return LoadedRun(directory, config, train_manifest, mean, model.eval(), saved.step)


def _read_mean(path: Path, size: int) -> Tensor:
    """Return the mean image, float32 (3, size, size); UserError if the file is anything else. Nothing is unpickled."""
    try:
        if path.stat().st_size > 12 * size * size + HEADER_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        mean = parse_npy(path.read_bytes())
    except Exception as error:  # numpy parses the header as a Python literal, which may raise any exception
        found = f"{error!s:.80}"
    else:
        found = f"{mean.dtype} {mean.shape}"
        if found == f"float32 {(3, size, size)}":
            return torch.from_numpy(mean.copy())
    raise UserError(
        f"{path}: not the mean image of this run: {found}; expected an array of float32 (3, {size}, {size}): copy"
        f" {MEAN} from the shards that it was trained on"
    )


def _deleted(before: Sequence[int], home: Path) -> bool:
    """Return whether a checkpoint of these steps has been deleted since."""
    return not set(before) <= set(checkpoint.finished_steps(home))


def _read_model(saved: Checkpoint, net: Geometry, config_file: Path) -> AlexNet:
    """Return the net of a checkpoint; UserError if it is another net's, or cannot be read."""
    check = differences(saved_geometry(saved), geometry_state(net), "model")
    if check:
        raise UserError(f"{saved.directory}: does not belong to {config_file}: {'; '.join(check[:4])}")
    model = AlexNet(net)
    for tower in model.towers:
        assert isinstance(tower, Tower)
        tensors = checkpoint.read_tower(saved, tower.index)
        check_tower(tower, tensors, saved.directory / checkpoint.tower_file(tower.index))
        restore(tower, tensors)
    return model
