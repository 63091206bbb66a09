"""Where images come from: which files a split has, under which labels, without opening a single one.

A file's name here is its path relative to the class folders' parent (``n01440764/tench.jpg``), so the same images
give the same shards wherever they lie.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.manifest import Rejected, SourceId, SplitName
from alexnet_dist.draws import seed64
from alexnet_dist.errors import UserError

LAYOUTS = ("auto", "folder")
DEEPEST = 16  # folders inside a class folder; more is a link that points to a folder above itself


class File(NamedTuple):
    """A file that may be an image."""

    name: str
    label: int
    size_bytes: int


@dataclass(frozen=True)
class Source:
    """A split's listed files, sorted by name; labels are places in `classes`, which are train's for both splits."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[File, ...]
    rejected: tuple[Rejected, ...]
    id: SourceId


def find(root: Path, split: SplitName, holdout: float | None, seed: int, train: tuple[str, ...] | None) -> Source:
    """List a split of a source; `train` are the classes of the packed training split, where there is one.

    A folder that holds train/ is read by its train/ and val/ (test/ where there is no val/); any other is one plain
    folder of class folders, which `holdout` divides. Raises UserError for what cannot be packed as it stands.
    """
    if not root.is_dir():
        raise UserError(f"{root}: expected a folder of class folders, or of train/ and val/ with class folders in them")
    folder, train_folder = _folders(root, split, holdout)
    classes = train
    if train_folder is not None:
        classes = _class_folders(train_folder)
        if train is not None and train != classes:
            raise UserError(
                f"{train_folder}: its class folders are not the classes of the packed train split: "
                f"{_difference(classes, train)}. Pack val from train's source, or into another folder"
            )
    source = _list(folder, classes)
    return source if holdout is None else divide(source, split, holdout, seed)


def _folders(root: Path, split: SplitName, holdout: float | None) -> tuple[Path, Path | None]:
    """Return the folder whose class folders are the split, and the one that says which classes there are, if any."""
    train = root / "train"
    # A class may be called train; then it holds files.
    if not train.is_dir() or not any(entry.is_dir() for entry in train.iterdir()):
        return root, None
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if holdout is not None:
        if held_out is not None:
            raise UserError(f"--holdout divides one plain folder, and {root} has {held_out.name}/: leave --holdout out")
        return train, None
    if split == "train":
        return train, None
    if held_out is None:
        raise UserError(
            f"{root}: has train/ but neither val/ nor test/. Hold out a part of train/ by --holdout 0.1, "
            "given for both splits"
        )
    return held_out, train


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    for name in names:
        if not _is_text(name):
            raise UserError(f"{folder}: the name of the class folder {_readable(name)} is not UTF-8: rename it")
    if not names:
        raise UserError(f"{folder}: holds no class folders. Expected one folder of images a class, named by the class")
    return tuple(sorted(names))


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    more, fewer = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    parts = [
        f"{len(names)} {what}, such as {names[0]}" for names, what in ((more, "more"), (fewer, "missing")) if names
    ]
    return " and ".join(parts)


def _list(folder: Path, classes: tuple[str, ...] | None) -> Source:
    """List a folder of class folders; without `classes` its own are the classes."""
    found = _class_folders(folder)
    labels = {name: label for label, name in enumerate(classes or found)}
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise UserError(
            f"{folder / unknown[0]}: no class of the train split is called {unknown[0]} "
            f"({len(unknown)} such folders): rename it, or move it away"
        )
    files: list[File] = []
    rejected = [
        Rejected(_readable(entry.name), "not in a class folder") for entry in folder.iterdir() if not entry.is_dir()
    ]
    for name in found:
        before = len(files)
        for path, size_bytes, reason in _walk(folder / name, name, DEEPEST):
            if reason is None:
                files.append(File(path, labels[name], size_bytes))
            else:
                rejected.append(Rejected(path, reason))
        if len(files) == before:
            raise UserError(f"{folder / name}: an empty class folder. Put images into it, or remove it")
    files.sort()
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.label}\0{file.size_bytes}\n".encode())
    return Source(folder, tuple(labels), tuple(files), tuple(rejected), SourceId(len(files), digest.hexdigest()))


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int, str | None]]:
    """Yield (name, size in bytes, reason it cannot be an image or None) for all that lies in a class folder."""
    if depth == 0:
        raise UserError(f"{folder}: more than {DEEPEST} folders deep. Is there a link to a folder above itself?")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if not _is_text(entry.name):
                yield _readable(name), 0, "its name is not UTF-8"
            elif entry.name.startswith("."):
                yield name, 0, "hidden"
            elif entry.is_dir():
                yield from _walk(folder / entry.name, name, depth - 1)
            elif not entry.is_file():
                # Opening a pipe would wait for ever.
                yield name, 0, "a link to nothing" if entry.is_symlink() else "not a regular file"
            else:
                yield name, entry.stat().st_size, None


def divide(source: Source, split: SplitName, holdout: float, seed: int) -> Source:
    """Keep one side of a holdout: in each class, the files that come first in a seeded order of names are held out."""
    by_class: dict[int, list[File]] = {}
    for file in source.files:
        by_class.setdefault(file.label, []).append(file)
    kept: list[File] = []
    for label, files in by_class.items():
        if len(files) < 2:
            raise UserError(
                f"{source.folder / source.classes[label]}: holds one file, and --holdout needs two in each "
                "class, one to train on and one to hold out. Add images, or move the folder away"
            )
        order = sorted(files, key=lambda file: (seed64(seed, "holdout", file.name), file.name))
        count = min(max(round(holdout * len(files)), 1), len(files) - 1)
        kept.extend(order[:count] if split == "val" else order[count:])
    return replace(source, files=tuple(sorted(kept)))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(name: str) -> str:
    """Return a file name as text that any JSON reader takes: bytes that are not UTF-8 become \\xff and the like."""
    return os.fsencode(name).decode(errors="backslashreplace")
