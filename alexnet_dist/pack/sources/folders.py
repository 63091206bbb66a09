"""Class folders as a source: ``train/n01440764/x.JPEG``, or one plain folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from alexnet_dist.data.manifest import Rejected, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.names import SPLIT_NAMES, is_text, readable
from alexnet_dist.pack.sources.source import File, Source, difference, listed

DEEPEST = 16  # folders inside a class folder; more is a link that points to a folder above itself


def find(root: Path, split: SplitName, holdout: float | None, train: tuple[str, ...] | None) -> Source:
    """List a split of class folders; `train` are the classes of the packed training split, where there is one.

    A folder that holds train/ is read by its train/ and val/, validation/ or valid/ (test/ where there is none of
    them); any other is one plain folder of class folders. Raises UserError for what cannot be packed as it stands.
    """
    folder, train_folder = _folders(root, split, holdout)
    classes = train
    if train_folder is not None:
        classes = _class_folders(train_folder)
        if train is not None and train != classes:
            raise UserError(
                f"{train_folder}: its class folders are not the classes of the packed train split: "
                f"{difference(classes, train)}. Pack {split} from train's source, or into another folder"
            )
    return list_classes(folder, classes)


def _folders(root: Path, split: SplitName, holdout: float | None) -> tuple[Path, Path | None]:
    """Return the folder whose class folders are the split, and the one that says which classes there are, if any."""
    train = root / "train"
    # A class may be called train; then it holds files.
    if not train.is_dir() or not any(_is_class(entry) for entry in train.iterdir()):
        return root, None
    asked = "val" if split == "train" else split
    allowed = SPLIT_NAMES[asked] + (SPLIT_NAMES["test"] if asked == "val" else ())
    held_out = next((root / name for name in allowed if (root / name).is_dir()), None)
    if holdout is not None:
        if held_out is not None:
            raise UserError(f"--holdout divides one plain folder, and {root} has {held_out.name}/: leave --holdout out")
        return train, None
    if split == "train":
        return train, None
    if held_out is None:
        names = " or ".join(f"{name}/" for name in allowed)
        raise UserError(
            f"{root}: has train/ but no {names}. Hold out a part of train/ by --holdout 0.1, given for both splits"
        )
    return held_out, train


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = [entry.name for entry in folder.iterdir() if _is_class(entry)]
    for name in names:
        if not is_text(name):
            raise UserError(f"{folder}: the name of the class folder {readable(name)} is not UTF-8: rename it")
    if not names:
        raise UserError(
            f"{folder}: holds no class folders. Expected one folder of images a class, named by the class (of ILSVRC, "
            "whose val images lie flat, give the folder that holds the val tar and the devkit)"
        )
    return tuple(sorted(names))


def list_classes(folder: Path, classes: tuple[str, ...] | None, words: Mapping[str, str] | None = None) -> Source:
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
        Rejected(readable(entry.name), "hidden" if entry.is_dir() else "not in a class folder")
        for entry in folder.iterdir()
        if not _is_class(entry)
    ]
    for name in found:
        before = len(files)
        for path, size_bytes, reason in _walk(folder / name, name, DEEPEST):
            if reason is None:
                files.append(File(path, labels[name], size_bytes, path))
            else:
                rejected.append(Rejected(path, reason))
        if len(files) == before:
            raise UserError(f"{folder / name}: an empty class folder. Put images into it, or remove it")
    return listed(folder, tuple(labels), files, rejected, words)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int, str | None]]:
    """Yield (name, size in bytes, reason it cannot be an image or None) for all that lies in a class folder."""
    if depth == 0:
        raise UserError(f"{folder}: more than {DEEPEST} folders deep. Is there a link to a folder above itself?")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if not is_text(entry.name):
                yield readable(name), 0, "its name is not UTF-8"
            elif entry.name.startswith("."):
                yield name, 0, "hidden"
            elif entry.is_dir():
                yield from _walk(folder / entry.name, name, depth - 1)
            elif not entry.is_file():
                # Opening a pipe would wait for ever.
                yield name, 0, "a link to nothing" if entry.is_symlink() else "not a regular file"
            else:
                yield name, entry.stat().st_size, None
