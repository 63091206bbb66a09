"""Checkpoints: one safetensors file a tower, and a manifest with their hashes that is written last.

A step's directory without a manifest is unfinished and never read. There is no pointer to the latest one: the newest
step whose files have the hashes of its manifest is the one to resume from.
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
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet_dist.errors import UserError

FORMAT = 2
STEP_NAME = re.compile(r"step-(\d{8})")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One finished checkpoint; `state` is what the trainer has put into the manifest."""

    directory: Path
    step: int
    state: Mapping[str, Any]


def step_directory(directory: Path, step: int) -> Path:
    """Return where the checkpoint of a step lives."""
    return directory / f"step-{step:08d}"


def tower_file(tower: int) -> str:
    """Return the file name of a tower's tensors."""
    return f"tower-{tower}.safetensors"


def write_tower(directory: Path, step: int, tower: int, tensors: Mapping[str, Tensor]) -> None:
    """Write one tower's weights and velocities durably; the checkpoint counts only once `commit` has run.

    Raises OSError, for a full disk too.
    """
    target = step_directory(directory, step) / tower_file(tower)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync_folder(directory)
    write_tensors(target, tensors)


def write_tensors(target: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file by `replace_durably`, with notes in its header; raises OSError, for a full disk too."""
    temporary = target.with_name(target.name + ".tmp")
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_host, temporary, None if notes is None else dict(notes))
    except SafetensorError as problem:
        raise OSError(errno.EIO, str(problem)) from None
    temporary.chmod(0o644)  # safetensors leaves it readable by its owner alone
    replace_durably(temporary, target)


def commit(directory: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the manifest over both towers' files, then drop all but the newest `keep` checkpoints (chief only).

    A step after this one can only be one that did not hold when the run was resumed: it goes too, and takes no place.
    """
    home = step_directory(directory, step)
    files = {tower_file(tower): _record(home / tower_file(tower)) for tower in (0, 1)}
    write_durably(home / MANIFEST, _text({"format": FORMAT, "step": step, "files": files, **state}).encode())
    finished = _finished_steps(directory)
    kept = sorted(number for number in finished if number <= step)[-keep:]
    for number in set(finished).difference(kept):
        old = step_directory(directory, number)
        (old / MANIFEST).unlink()
        shutil.rmtree(old)


def find(directory: Path, step: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose files hold, or that of one step, and a complaint for each passed over.

    Raises UserError when the step that was asked for is not there or does not hold.
    """
    complaints: list[str] = []
    for number in sorted(_finished_steps(directory), reverse=True) if step is None else [step]:
        home = step_directory(directory, number)
        try:
            manifest = json.loads((home / MANIFEST).read_text())
            if manifest["format"] != FORMAT or manifest["step"] != number:
                raise ValueError(f"format {manifest['format']}, step {manifest['step']}; expected {FORMAT}, {number}")
            for name in map(tower_file, (0, 1)):
                if _record(home / name) != manifest["files"][name]:
                    raise ValueError(f"{name} does not have the size and sha256 of its manifest")
        except (OSError, ValueError, KeyError, TypeError) as problem:
            complaints.append(f"{home}: {_said(problem)}")
            continue
        return Checkpoint(home, number, manifest), complaints
    if step is not None:
        found = ", ".join(map(str, sorted(_finished_steps(directory)))) or "none"
        raise UserError(f"{directory}: no sound checkpoint of step {step} ({complaints[0]}); steps there: {found}")
    return None, complaints


def _said(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"{Path(problem.filename).name}: {problem.strerror}" if problem.filename else str(problem)
    return str(problem) if type(problem) is ValueError else f"{MANIFEST} is not a checkpoint's ({problem!r})"


def read_tower(checkpoint: Checkpoint, tower: int) -> dict[str, Tensor]:
    """Return one tower's tensors by name; UserError when the file is not what safetensors reads."""
    path = checkpoint.directory / tower_file(tower)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise UserError(f"{path}: cannot be read: {problem}") from None


def remove_unfinished(directory: Path) -> None:
    """Remove the remains of checkpoints whose writer was killed (chief only, before anybody writes)."""
    for home in directory.glob("step-*"):
        if STEP_NAME.fullmatch(home.name) and not (home / MANIFEST).exists():
            shutil.rmtree(home)


def replace_durably(temporary: Path, target: Path) -> None:
    """Move a written file into place so that after a crash the old or the new one is there, whole."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    _sync_folder(target.parent)


def write_durably(target: Path, content: bytes) -> None:
    """Write a file by `replace_durably`."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_bytes(content)
    replace_durably(temporary, target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finished_steps(directory: Path) -> list[int]:
    found = [(STEP_NAME.fullmatch(home.name), home) for home in directory.glob("step-*")]
    return [int(match[1]) for match, home in found if match and (home / MANIFEST).exists()]


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size_bytes": path.stat().st_size}


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
