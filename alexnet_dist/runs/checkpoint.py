"""Checkpoints: one safetensors file a tower, and a manifest with their hashes that is written last.

A step's directory without a manifest is unfinished and never read. There is no pointer to the latest checkpoint: a run
resumes from the newest step whose files match the hashes of its manifest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet_dist.errors import UserError
from alexnet_dist.system.files import replace_durably, replace_file, sync_folder, temporary_of

FORMAT = 2
STEP_NAME = re.compile(r"step-(\d{8})")
MANIFEST = "manifest.json"
OWN_HASH = "manifest_sha256"  # the key of the hash of all the rest of a manifest
DAMAGED = ".damaged"  # ends the name of a checkpoint that did not verify
OS_ERROR = re.compile(r"os error (\d+)")  # in a message of safetensors


@dataclass(frozen=True)
class Checkpoint:
    """One finished checkpoint; `state` is its manifest, which holds what the trainer stored."""

    directory: Path
    step: int
    state: Mapping[str, Any]


def step_directory(directory: Path, step: int) -> Path:
    """Return the directory of the checkpoint of a step."""
    return directory / f"step-{step:08d}"


def tower_file(tower: int) -> str:
    """Return the file name of a tower's tensors."""
    return f"tower-{tower}.safetensors"


def write_tower(directory: Path, step: int, tower: int, tensors: Mapping[str, Tensor]) -> None:
    """Write one tower's weights and velocities durably; the checkpoint counts only once `commit` has run.

    directory is made if it is missing, but not the run's above it: that has been removed. Raises OSError, also for a
    full disk.
    """
    target = step_directory(directory, step) / tower_file(tower)
    directory.mkdir(exist_ok=True)
    target.parent.mkdir(exist_ok=True)
    sync_folder(directory)
    write_tensors(target, tensors)


def write_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file durably, with metadata in its header; raises OSError, also for a full disk."""
    temporary = temporary_of(target)
    temporary.unlink(missing_ok=True)  # a link that stands there is not followed
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_host, temporary, None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = OS_ERROR.search(str(error))
        if number is None:
            raise OSError(errno.EIO, str(error)) from None
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    temporary.chmod(0o644)  # safetensors makes it readable by its owner alone
    replace_durably(temporary, target)


def commit(directory: Path, step: int, state: Mapping[str, Any], towers: int = 2) -> None:
    """Write the manifest of the towers' files, which makes the checkpoint valid (rank 0 only). Raises OSError."""
    home = step_directory(directory, step)
    files = {tower_file(tower): _record(home / tower_file(tower)) for tower in range(towers)}
    content = {"format": FORMAT, "step": step, "towers": towers, "files": files, **state}
    replace_file(home / MANIFEST, _text({**content, OWN_HASH: _hash(content)}).encode())


def delete_old(directory: Path, step: int, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints up to that of a step, and that of the step `best`. Raises OSError.

    For rank 0 only. Checkpoints of later steps are not counted, and deleted too: `set_aside` has moved those that a
    start found damaged.
    """
    finished = finished_steps(directory)
    kept = sorted(number for number in finished if number <= step)[-keep:]
    for number in set(finished).difference(kept, () if best is None else (best,)):
        old = step_directory(directory, number)
        (old / MANIFEST).unlink()
        shutil.rmtree(old)


def finished_steps(directory: Path) -> list[int]:
    """Return the steps of the checkpoints that have a manifest, in no order; their files may be damaged."""
    matches = [(STEP_NAME.fullmatch(home.name), home) for home in directory.glob("step-*")]
    return [int(match[1]) for match, home in matches if match and (home / MANIFEST).exists()]


def find(directory: Path, step: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, or that of `step`, and a complaint for each one skipped.

    Raises UserError if the checkpoint of `step` is missing or does not verify.
    """
    complaints: list[str] = []
    for number in sorted(finished_steps(directory), reverse=True) if step is None else [step]:
        home = step_directory(directory, number)
        try:
            manifest = json.loads((home / MANIFEST).read_text())
            own_hash = manifest.pop(OWN_HASH, None)
            if own_hash not in (None, _hash(manifest)):  # None: of an earlier version
                raise ValueError("it does not have its own sha256")
            if manifest["format"] != FORMAT or manifest["step"] != number:
                raise ValueError(f"format {manifest['format']}, step {manifest['step']}; expected {FORMAT}, {number}")
            for name in map(tower_file, range(manifest.get("towers", 2))):
                if _record(home / name) != manifest["files"][name]:
                    raise ValueError(f"{name} does not have the size and sha256 of its manifest")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            complaints.append(f"{home}: {_complaint(error)}")
            continue
        return Checkpoint(home, number, manifest), complaints
    if step is not None:
        steps = ", ".join(map(str, sorted(finished_steps(directory)))) or "none"
        raise UserError(f"{directory}: no valid checkpoint of step {step} ({complaints[0]}); steps there: {steps}")
    return None, complaints


def _complaint(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
    return str(error) if type(error) is ValueError else f"{MANIFEST} is not a checkpoint's ({error!r})"


def read_tower(checkpoint: Checkpoint, tower: int) -> dict[str, Tensor]:
    """Return one tower's tensors by name; UserError if safetensors cannot read the file."""
    path = checkpoint.directory / tower_file(tower)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def remove_unfinished(directory: Path) -> list[Path]:
    """Remove and return what killed writers left of checkpoints (rank 0 only, before any rank writes)."""
    unfinished = [
        home
        for home in sorted(directory.glob("step-*"))
        if STEP_NAME.fullmatch(home.name) and not (home / MANIFEST).exists()
    ]
    for home in unfinished:
        shutil.rmtree(home)
    return unfinished


def set_aside(directory: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps than that of a start, which did not verify; return their new paths.

    A name ends in .damaged, and is never read or removed: whoever wants to know what happened can look.
    """
    moved: list[Path] = []
    for number in sorted(number for number in finished_steps(directory) if number > step):
        home = step_directory(directory, number)
        names = chain([DAMAGED], (f"{DAMAGED}-{copy}" for copy in count(2)))
        free = (target for name in names if not (target := home.with_name(home.name + name)).exists())
        moved.append(home.rename(next(free)))
    return moved


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size_bytes": path.stat().st_size}


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
