"""The layout 'folder': class folders such as ``train/n01440764/x.JPEG``, or a single folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.class_texts import ReadTexts, read_texts
from alexnet_dist.pack.sources.classes import check_same_classes, class_labels, is_number, sorted_classes
from alexnet_dist.pack.sources.listing import NOT_REGULAR, NOT_UTF8, ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import ARCHIVE_ENDINGS, is_utf8, readable
from alexnet_dist.pack.sources.split_folders import (
    WrongFolderError,
    check_class_names,
    check_own_images,
    find_split_folders,
    is_tiny_imagenet,
    no_class_folders,
    visible_folders,
)

BOXES_RULE = "box files"
MAX_DEPTH = 16  # levels of folders inside a class folder; more means a link to one of its parents


def list_split(
    root: Path, split: SplitName, holdout: float | None, train_classes: tuple[str, ...] | None
) -> ImageSource:
    """List a split of class folders; `train_classes` are those of the packed training split, if there is one.

    If `root` has a folder for train, the splits are in it and in the one for val (test if there is none); otherwise
    `root` is a single folder of class folders. Raises UserError for a source that cannot be packed as it is.
    """
    folders = find_split_folders(root, split, holdout)
    classes = train_classes
    if folders.train is not None:
        names = class_folders(folders.train)
        if set(names) != set(train_classes or ()):
            classes = sorted_classes(names)
            check_same_classes(folders.train, classes, train_classes, split)
    source = list_classes(folders.folder, classes)
    return replace(source, notes=folders.notes + source.notes)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a folder, sorted; raises UserError if there are none."""
    names = [path.name for path in visible_folders(folder)]
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{folder}: the name of the class folder {readable(name)} is not UTF-8: rename it")
    if not names:
        raise no_class_folders(folder)
    return tuple(names)


def list_classes(
    folder: Path, classes: tuple[str, ...] | None, descriptions: Mapping[str, str] | None = None
) -> ImageSource:
    """List a folder of class folders; if `classes` is None, they are the names of its class folders."""
    names = class_folders(folder)
    notes = list(check_class_names(folder, names))
    classes = classes or sorted_classes(names)
    read, labels = _read_names(folder, names, classes), class_labels(classes)
    class_of = read.class_of
    notes += read.notes
    listing = _Listing(folder, is_tiny_imagenet(folder, names))
    if listing.tiny:
        notes.append(f"{folder}: read as tiny-ImageNet: the images of a class are those in its folder images/")
    listing.rejected += [
        Rejected(readable(entry.name), "hidden" if entry.is_dir() else "not in a class folder")
        for entry in folder.iterdir()
        if entry.name not in class_of
    ]
    for name in names:
        listing.add_class(name, class_of[name], labels[class_of[name]])
    if listing.nested:
        notes.append(
            f"{folder}: {len(listing.nested)} files lie in folders inside class folders, such as {listing.nested[0]}; "
            "each is taken for an image of the class folder that it lies in"
        )
    ignored = {BOXES_RULE: listing.boxes}
    return build_source(folder, classes, listing.files, listing.rejected, descriptions, ignored=ignored, notes=notes)


class _Listing:
    """The files of the class folders listed so far; `tiny`: whether they are tiny-ImageNet's."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        self.folder, self.tiny = folder, tiny
        self.files: list[ImageFile] = []
        self.rejected: list[Rejected] = []
        self.nested: list[str] = []
        self.boxes = 0

    def add_class(self, name: str, class_name: str, label: int) -> None:
        """List a class folder; raises UserError if it cannot be one."""
        first, nested = len(self.files), len(self.nested)
        prefix = f"{name}/images/" if self.tiny else f"{name}/"
        for path, size_bytes, reason in _walk(self.folder / name, name, MAX_DEPTH):
            inner = path.removeprefix(prefix)
            if reason is not None:
                self.rejected.append(Rejected(path, reason))
            elif inner == path:
                self.boxes += 1
            else:
                self.files.append(ImageFile(f"{class_name}/{inner}", label, size_bytes, path))
                self.nested += [path] if "/" in inner else []
        if len(self.files) == first:
            raise UserError(f"{self.folder / name}: an empty class folder. Add images, or remove the folder")
        paths = (self.files[index].path.lower() for index in range(first, len(self.files)))
        if all(path.endswith(ARCHIVE_ENDINGS) for path in paths):
            raise WrongFolderError(
                f"{self.folder / name}: holds archives such as {self.files[first].path}, and no images"
            )
        if len(self.nested) > nested and not self.tiny:
            check_own_images(self.folder / name)


def _read_names(folder: Path, names: Sequence[str], classes: tuple[str, ...]) -> ReadTexts:
    """Return the class of each class folder: the one called so; numbers are read as the labels of a list are."""
    if all(map(is_number, names)):
        read = read_texts({name: str(folder / name) for name in names}, classes, str(folder))
    else:
        known = set(classes)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise WrongFolderError(
                f"{folder / unknown[0]}: no class of the train split is called {unknown[0]} "
                f"({len(unknown)} such folders): rename it, or remove it"
            )
        read = ReadTexts(classes, {name: name for name in names})
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(read.class_of[name], name)
        if other != name:
            raise UserError(
                f"{folder}: the folders {other} and {name} are one number, and would be one class: move the images "
                "into one of them, or rename one"
            )
    return read


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
