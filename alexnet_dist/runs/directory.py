"""A run's directory as the trainer writes it: opened and locked by rank 0, appended to, truncated on resume."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from alexnet_dist.errors import UserError
from alexnet_dist.files import lock_file, replace_file
from alexnet_dist.runs import checkpoint

CONFIG, METRICS, EVALUATIONS, TARGETS, PREEMPTED = (
    "config.yaml",
    "metrics.jsonl",
    "evaluations.jsonl",
    "targets.json",
    "PREEMPTED",
)
LOCK, MEAN, CHECKPOINTS, PROFILE = ".lock", "train.mean.npy", "checkpoints", "profile"
POST_MORTEM = "post-mortem.txt"


def samples_file(rank: int) -> str:
    """Return the name of the file in which a rank records the samples it decoded."""
    return f"samples-rank-{rank}.jsonl"


def open_directory(directory: Path) -> TextIO:
    """Make or reopen a run's directory (rank 0 only) and return its lock, held until it is closed or the process ends.

    Nothing else in it is changed. Raises UserError if the directory cannot be written, is not a run, or is in use.
    """
    with _os_error_as_user_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(path.name for path in directory.iterdir() if path.name[0] != ".")
        if entries and CONFIG not in entries:
            raise UserError(
                f"run.directory: {directory} is not a run: it holds {entries[0]!r} but no {CONFIG};"
                " choose another directory"
            )
        return _lock(directory / LOCK)


def begin(directory: Path, step: int, evaluated_step: int, config_yaml: str, inputs: Mapping[str, bytes]) -> None:
    """Restore a run's directory to what it was at a step, and write the files of this start (rank 0 only).

    Before this call a start may still be rejected, and leaves the directory unchanged. evaluated_step: of the last
    evaluation by then. inputs: name to content of the files that make the run self-contained, class names and mean
    image, as Split.to_keep returns them. Raises UserError if the directory cannot be written.
    """
    with _os_error_as_user_error(directory):
        checkpoint.remove_unfinished(directory / CHECKPOINTS)
        truncate_records(directory, step, evaluated_step)
        (directory / PREEMPTED).unlink(missing_ok=True)
        # The config first: a directory with other files and without a config is not a run.
        replace_file(directory / CONFIG, config_yaml.encode())
        for name, content in inputs.items():
            replace_file(directory / name, content)


def mark_preempted(directory: Path, step: int) -> None:
    """Leave the file that says that the run was asked to stop and is saved at a step (rank 0 only)."""
    (directory / PREEMPTED).write_text(f"stopped and saved at step {step}\n")


@contextmanager
def _os_error_as_user_error(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run.directory: {directory} cannot be written: {error.strerror or error};"
            " choose another directory or change its permissions"
        ) from None


def _lock(path: Path) -> TextIO:
    lock = lock_file(path)
    if lock is None:
        holder = path.read_text().strip()
        raise UserError(
            f"run.directory: {path.parent} is in use by another run ({holder}); stop that one or choose another"
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def truncate_records(directory: Path, step: int, evaluated_step: int) -> None:
    """Drop the records after a step, which the run is about to repeat, and half-written lines.

    evaluated_step: the step of the last evaluation that is not repeated.
    """
    last_steps = {directory / METRICS: step, directory / EVALUATIONS: evaluated_step}
    for path, last in (last_steps | dict.fromkeys(directory.glob("samples-rank-*.jsonl"), step)).items():
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= last]
            replace_file(path, "".join(f"{line}\n" for line in kept).encode())


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
    """Return the objects of a JSON-lines file; an empty list if there is no file.

    A last line without its end, which a live or killed run leaves, is ignored.
    """
    finished = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in finished.splitlines()]
