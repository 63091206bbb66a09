"""The layout 'folder': class folders such as ``train/n01440764/x.JPEG``, or a single folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.classes import check_same_classes, class_labels
from alexnet_dist.pack.sources.listing import NOT_REGULAR, NOT_UTF8, ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import SPLIT_NAMES, is_utf8, readable

MAX_DEPTH = 16  # levels of folders inside a class folder; more means a link to one of its parents


def list_split(
    root: Path, split: SplitName, holdout: float | None, train_classes: tuple[str, ...] | None
) -> ImageSource:
    """List a split of class folders; `train_classes` are those of the packed training split, if there is one.

    If `root` has train/, the splits are train/ and val/, validation/ or valid/ (test/ if it has none of them);
    otherwise it is a single folder of class folders. Raises UserError for a source that cannot be packed as it is.
    """
    folder, train_folder = _split_folders(root, split, holdout)
    classes = train_classes
    if train_folder is not None:
        classes = _class_folders(train_folder)
        check_same_classes(train_folder, classes, train_classes, split)
    return list_classes(folder, classes)


def _split_folders(root: Path, split: SplitName, holdout: float | None) -> tuple[Path, Path | None]:
    """Return the folder with the class folders of a split, and the one that defines the classes, if there is one."""
    train = root / "train"
    # A class may be called train; its folder holds files.
    if not train.is_dir() or not any(_is_class(entry) for entry in train.iterdir()):
        return root, None
    held_out_split = "val" if split == "train" else split
    names = SPLIT_NAMES[held_out_split] + (SPLIT_NAMES["test"] if held_out_split == "val" else ())
    held_out = next((root / name for name in names if (root / name).is_dir()), None)
    if holdout is not None:
        if held_out is not None:
            raise UserError(
                f"--holdout divides a single folder of class folders, but {root} has {held_out.name}/: remove --holdout"
            )
        return train, None
    if split == "train":
        return train, None
    if held_out is None:
        expected = " or ".join(f"{name}/" for name in names)
        raise UserError(
            f"{root}: has train/ but no {expected}. Hold out a part of train/ with --holdout 0.1, given for both splits"
        )
    return held_out, train


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = [entry.name for entry in folder.iterdir() if _is_class(entry)]
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{folder}: the name of the class folder {readable(name)} is not UTF-8: rename it")
    if not names:
        raise UserError(
            f"{folder}: holds no class folders. Expected a folder of images for each class, named after the class. For "
            "ILSVRC, whose val images are in no class folders, give the folder that holds the val tar and the devkit"
        )
    return tuple(sorted(names))


def list_classes(
    folder: Path, classes: tuple[str, ...] | None, descriptions: Mapping[str, str] | None = None
) -> ImageSource:
    """List a folder of class folders; if `classes` is None, they are the names of its class folders."""
    names = _class_folders(folder)
    labels = class_labels(classes or names)
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise UserError(
            f"{folder / unknown[0]}: no class of the train split is called {unknown[0]} "
            f"({len(unknown)} such folders): rename it, or remove it"
        )
    files: list[ImageFile] = []
    rejected = [
        Rejected(readable(entry.name), "hidden" if entry.is_dir() else "not in a class folder")
        for entry in folder.iterdir()
        if not _is_class(entry)
    ]
    for name in names:
        before = len(files)
        for path, size_bytes, reason in _walk(folder / name, name, MAX_DEPTH):
            if reason is None:
                files.append(ImageFile(path, labels[name], size_bytes, path))
            else:
                rejected.append(Rejected(path, reason))
        if len(files) == before:
            raise UserError(f"{folder / name}: an empty class folder. Add images, or remove the folder")
    return build_source(folder, tuple(labels), files, rejected, descriptions)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int, str | None]]:
    """Yield (name, size in bytes, reason it cannot be an image or None) for every entry below a class folder."""
    if depth == 0:
        raise UserError(f"{folder}: more than {MAX_DEPTH} folders deep. Is there a link to a folder above itself?")
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if not is_utf8(entry.name):
                yield readable(name), 0, NOT_UTF8
            elif entry.name.startswith("."):
                yield name, 0, "hidden"
            elif entry.is_dir():
                yield from _walk(folder / entry.name, name, depth - 1)
            elif not entry.is_file():
                # Opening a pipe would block forever.
                yield name, 0, "a link to nothing" if entry.is_symlink() else NOT_REGULAR
            else:
                yield name, entry.stat().st_size, None
