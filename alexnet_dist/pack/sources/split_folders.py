"""Finds the folder of a split in a source of class folders, and rejects folders that cannot be classes.

A folder is named for a split in any case and in the usual spellings, such as ``Train``, ``validation`` or ``test_set``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.names import SPLIT_NAMES, listed, readable, split_of

# What a folder of all images is called; such a name says nothing about what the images show.
NO_CLASS_NAMES = frozenset(("images", "image", "imgs", "img", "jpegimages"))
BOXES = "_boxes.txt"
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
MOST_SNIFFED = 200


class WrongFolderError(UserError):
    """The folders of a SOURCE are not classes; `layouts` adds which SOURCE was probably meant."""


class SplitFolders(NamedTuple):
    """Where the class folders of a split are; `train` defines the classes, if the source has a folder for it."""

    folder: Path
    train: Path | None
    notes: tuple[str, ...] = ()


def find_split_folders(root: Path, split: SplitName, holdout: float | None) -> SplitFolders:
    """Return the folder of a split: if `root` has one for train with class folders, its own, else `root`.

    The folder of val is that of test if there is none for val. Raises UserError if it is missing or could be two.
    """
    folders = visible_folders(root)
    named = {kind: [folder for folder in folders if split_of(folder.name) == kind] for kind in SPLIT_NAMES}
    # A class may be called train; its folder holds images.
    trains = [folder for folder in named["train"] if visible_folders(folder)]
    if not trains:
        return SplitFolders(root, None)
    others = [folder for folder in folders if split_of(folder.name) is None]
    train = _only(root, trains)
    held_out_split = "val" if split == "train" else split
    held_out_folders = named[held_out_split] or (named["test"] if held_out_split == "val" else [])
    held_out = _only(root, held_out_folders) if held_out_folders else None
    if held_out is None and (class_folder := next(filter(has_images, others), None)) is not None:
        raise UserError(
            f"{root}: {train.name}/ could be the training split, because it holds folders, or a class, as "
            f"{class_folder.name}/ beside it is. Give {train} as SOURCE, or rename it if it is a class"
        )
    unread = [f"{folder.name}/" for folder in others]
    notes = (f"{root}: not read, because it belongs to no split: {listed(unread)}",) if unread else ()
    if holdout is not None and held_out is not None:
        raise UserError(
            f"--holdout divides a single folder of class folders, but {root} has {held_out.name}/: remove --holdout"
        )
    if split == "train" or holdout is not None:
        return SplitFolders(train, None if holdout is not None else train, notes)
    if held_out is None:
        names = SPLIT_NAMES[held_out_split] + (SPLIT_NAMES["test"] if held_out_split == "val" else ())
        expected = " or ".join(f"{name}/" for name in names)
        raise UserError(
            f"{root}: has {train.name}/ but no {expected}. Hold out a part of {train.name}/ with --holdout 0.1, given "
            "for both splits"
        )
    return SplitFolders(held_out, train, notes)


def has_held_out(root: Path) -> bool:
    """Return whether a folder of images is already divided into training and held-out images, by the folders' names."""
    found = {split_of(folder.name) for folder in visible_folders(root)}
    return "train" in found and bool(found & {"val", "test"})


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def has_images(folder: Path) -> bool:
    """Return whether a folder itself holds an image, by the first bytes of its files; only the first 200 are read."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return any(_is_image(path) for path in islice(files, MOST_SNIFFED))


def check_class_names(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return notes about class folders with these names; raises WrongFolderError for names that are no classes'."""
    like_splits = [name for name in names if split_of(name) is not None]
    if like_splits == ["train"] and len(names) > 1 and not visible_folders(folder / "train"):
        # The one name of a split that is also the name of a thing.
        return (
            f"{folder / 'train'}: taken for a class called train, because it holds images and stands beside others",
        )
    if like_splits:
        inside = [name for name in like_splits if visible_folders(folder / name)]
        flat = "" if inside else " It holds no class folders either: expected a folder of images for each class."
        raise WrongFolderError(
            f"{folder}: a class folder is named like a split: {listed(like_splits)}.{flat} If it is a class, rename it"
        )
    without_meaning = [name for name in names if name.lower() in NO_CLASS_NAMES]
    if without_meaning:
        raise WrongFolderError(
            f"{folder / without_meaning[0]}: not a class: expected a folder of images for each class, named after it"
            f"{_flat_advice(folder, folder / without_meaning[0])}"
        )
    return ()


def check_own_images(folder: Path) -> None:
    """Raise WrongFolderError if a class folder that has folders in it has no images of its own."""
    if not has_images(folder):
        inside = [f"{readable(inner.name)}/" for inner in visible_folders(folder)]
        raise WrongFolderError(
            f"{folder}: holds no images, only folders such as {listed(inside)}: not a class folder. Expected a folder "
            "of images for each class, named after it"
        )


def is_tiny_imagenet(folder: Path, names: Sequence[str]) -> bool:
    """Return whether each class folder holds nothing but images/ and a file of boxes, as those of tiny-ImageNet do."""
    return all(_holds_images_and_boxes(folder / name) for name in names)


def no_class_folders(folder: Path) -> WrongFolderError:
    """Return the error for a folder without class folders."""
    advice = _flat_advice(folder, folder) or (
        ". For ILSVRC, whose val images are in no class folders, give the folder that holds the val tar and the devkit"
    )
    return WrongFolderError(
        f"{folder}: holds no class folders. Expected a folder of images for each class, named after the class{advice}"
    )


def _only(root: Path, folders: Sequence[Path]) -> Path:
    if len(folders) > 1:
        raise UserError(
            f"{root}: {folders[0].name}/ and {folders[1].name}/ are both named for one split: remove or rename one"
        )
    return folders[0]


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(IMAGE_STARTS)


def _holds_images_and_boxes(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return [entry.name for entry in entries if entry.is_dir()] == ["images"] and all(
        entry.name == "images" or entry.name.endswith(BOXES) for entry in entries
    )


def _flat_advice(folder: Path, images: Path) -> str:
    """Return what to do with images in no class folders, if a table of their classes lies beside them."""
    boxes = folder / "val_annotations.txt"
    if not boxes.is_file():
        archives = sorted(path.name for path in folder.glob("*") if path.name.endswith((".parquet", ".tar.gz")))
        if not archives or images != folder:
            return ""
        return f". {readable(archives[0])} is read if its name begins with its split, as in train-00000.parquet"
    prefix = "" if images == folder else f"{images.name}/"
    return (
        f". For tiny-ImageNet's val, write a list and give it as SOURCE {folder}/val.txt: "
        f'awk \'{{print "{prefix}" $1 "\\t" $2}}\' {boxes} > {folder}/val.txt'
    )
