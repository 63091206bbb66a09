"""A run's directory: opened by the chief, locked, appended to, cut back on resume; and a finished or live run, read."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from alexnet_dist import config
from alexnet_dist.runs import checkpoint
from alexnet_dist.data import manifest
from alexnet_dist.data.manifest import Manifest
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet, Tower, parted

CONFIG, METRICS, EVALUATIONS, TARGETS, PREEMPTED = (
    "config.yaml",
    "metrics.jsonl",
    "evaluations.jsonl",
    "targets.json",
    "PREEMPTED",
)
LOCK, MEAN, CHECKPOINTS, PROFILE = ".lock", "train.mean.npy", "checkpoints", "profile"


def samples_file(rank: int) -> str:
    """Return the name of the file in which a rank records the samples it decoded."""
    return f"samples-rank-{rank}.jsonl"


def open_directory(directory: Path) -> TextIO:
    """Make or reopen a run's directory (chief only) and return its lock, held until it is closed or the process ends.

    Nothing else in it is touched. Raises UserError when the directory cannot be written, is not a run, or belongs to a
    running one.
    """
    with _telling_of(directory):
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in directory.iterdir() if path.name[0] != ".")
        if strangers and CONFIG not in strangers:
            raise UserError(
                f"run.directory: {directory} is not a run: it holds {strangers[0]!r} but no {CONFIG};"
                " choose another directory"
            )
        return _lock(directory / LOCK)


def begin(directory: Path, step: int, evaluated_step: int, config_yaml: str, beside: Mapping[str, bytes]) -> None:
    """Make a run's directory what it was at a step, and keep in it what this start brings (chief only).

    Before this call a run can still be refused and is as it was. evaluated_step: of the last evaluation by then.
    beside: name to content of the files that let the run stand alone, class names and mean image, as Split.to_keep
    gives them. Raises UserError when the directory cannot be written.
    """
    with _telling_of(directory):
        checkpoint.remove_unfinished(directory / CHECKPOINTS)
        cut_back(directory, step, evaluated_step)
        (directory / PREEMPTED).unlink(missing_ok=True)
        # The config first: a directory with other files and without it is not taken for a run.
        checkpoint.write_durably(directory / CONFIG, config_yaml.encode())
        for name, content in beside.items():
            checkpoint.write_durably(directory / name, content)


@contextmanager
def _telling_of(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise UserError(
            f"run.directory: {directory} cannot be written: {problem.strerror or problem};"
            " choose another directory or change its permissions"
        ) from None


def _lock(path: Path) -> TextIO:
    """Take the run's lock: lockf and not flock, which forked loader processes would keep."""
    lock = path.open("a+")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise UserError(
            f"run.directory: {path.parent} is in use by another run ({holder}); stop that one or choose another"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def cut_back(directory: Path, step: int, evaluated_step: int) -> None:
    """Drop what was recorded after a step, which the run is about to do again, and half-written lines.

    evaluated_step: the step of the last evaluation that is not done again.
    """
    lasts = {directory / METRICS: step, directory / EVALUATIONS: evaluated_step}
    for path, last in (lasts | dict.fromkeys(directory.glob("samples-rank-*.jsonl"), step)).items():
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= last]
            checkpoint.write_durably(path, "".join(f"{line}\n" for line in kept).encode())


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def append(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def geometry_state(net: Geometry) -> dict[str, Any]:
    """Return a geometry as plain JSON values, as checkpoints carry it."""
    plain = {**vars(net), "layers": {name: asdict(row) for name, row in net.layers.items()}, "norm": asdict(net.norm)}
    values: dict[str, Any] = json.loads(json.dumps(plain))
    return values


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Return where two trees of plain values differ, as `key: found, wanted` lines."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{prefix}: {found!r} in the checkpoint, {wanted!r} now"]
    lines: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        lines += differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else str(key))
    return lines


def check_resumable(saved: checkpoint.Checkpoint, net_state: Mapping[str, Any], position: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another net (its `geometry_state`), or of another order of samples."""
    lines = differences(saved.state["geometry"], net_state, "model")
    if lines:
        raise UserError(
            f"{saved.directory}: a checkpoint of another architecture: {'; '.join(lines[:4])};"
            " choose another run.directory, or the config it was made with"
        )
    keys = {"seed": "run.seed", "global_batch": "data.global_batch", "lanes": "data.lanes", "window": "data.window"}
    lines = [
        f"{keys.get(key, key)}: {value!r} in the checkpoint, {position[key]!r} now"
        for key, value in saved.state["position"].items()
        if key != "step" and value != position[key]
    ]
    if lines:
        raise UserError(
            f"{saved.directory}: resuming would change the order of samples: {'; '.join(lines)};"
            " set them back, or choose another run.directory"
        )


@dataclass(frozen=True)
class Run:
    """A run as it stands in its directory: its config, its classes and mean image, and a checkpoint's net.

    mean: float32 (3, size, size). model: in evaluation mode, float32, on the CPU.
    """

    directory: Path
    config: config.Config
    manifest: Manifest
    mean: Tensor
    model: AlexNet
    step: int


def load_run(directory: Path, step: int | None = None) -> Run:
    """Read a run and the net of one of its checkpoints, by default the newest that is whole.

    Raises UserError when the directory is not a run or has no whole checkpoint.
    """
    if not (directory / CONFIG).exists():
        raise UserError(f"{directory}: not a run: there is no {CONFIG} in it; expected a run.directory of a training")
    settings = config.load([directory / CONFIG], []).config
    saved, complaints = checkpoint.find(directory / CHECKPOINTS, step)
    if saved is None:
        raise UserError(f"{directory}: no checkpoint {'is whole: ' if complaints else 'yet'}{'; '.join(complaints)}")
    net = config.geometry(settings)
    check = differences(saved.state["geometry"], geometry_state(net), "model")
    if check:
        raise UserError(f"{saved.directory}: does not belong to {directory / CONFIG}: {'; '.join(check[:4])}")
    model = AlexNet(net)
    for tower in model.towers:
        assert isinstance(tower, Tower)
        restore(tower, checkpoint.read_tower(saved, tower.index))
    mean = torch.from_numpy(np.load(directory / MEAN))
    return Run(
        directory, settings, manifest.load(manifest.manifest_path(directory, "train")), mean, model.eval(), saved.step
    )


def restore(tower: Tower, tensors: Mapping[str, Tensor], velocities: Mapping[str, Tensor] | None = None) -> None:
    """Copy a checkpoint's weights into a tower, and its velocities into `velocities`, in place."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("velocity.")}
    with torch.no_grad():
        for name, tensor in parted(tower.index, tower.net, weights).items():
            tower.get_parameter(name).copy_(tensor)
        if velocities is not None:
            saved = {name.removeprefix("velocity."): tensor for name, tensor in tensors.items() if name not in weights}
            for name, tensor in parted(tower.index, tower.net, saved).items():
                velocities[name].copy_(tensor)
