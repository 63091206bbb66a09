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
from alexnet_dist.nn.model import AlexNet, Tower, split_cross_weights

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
        truncate_records(directory, step, evaluated_step)
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


def truncate_records(directory: Path, step: int, evaluated_step: int) -> None:
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












