"""ILSVRC's training images: one tar for each class, all of them in one archive, or in a folder once it is unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.classes import class_labels
from alexnet_dist.pack.sources.devkit import WORDNET_ID
from alexnet_dist.pack.sources.listing import ImageFile
from alexnet_dist.pack.sources.names import base_name, listed, readable, split_of

NOT_A_CLASS = "not a class's tar"
REPLACED = "a later member of the same name replaces it"


class ClassTar(NamedTuple):
    """The tar of one class: a file, or the bytes from `first` to `end` of one; `path` is relative to the source."""

    name: str
    path: str
    first: int = 0
    end: int | None = None


class TrainImages(NamedTuple):
    """The listed training images; notes: as in ImageSource."""

    files: list[ImageFile]
    rejected: list[Rejected]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def class_tar_folder(root: Path) -> Path | None:
    """Return the folder with class tars, `root` or one named for train in it, or None."""
    trains = [path for path in sorted(root.iterdir()) if path.is_dir() and split_of(path.name) == "train"]
    return next((folder for folder in (root, *trains) if any(_class_tars(folder))), None)


def other_tars(folder: Path) -> list[str]:
    """Return the names of tars in a folder that are neither a class's nor ILSVRC's archives."""
    names = sorted(path.name for path in folder.glob("*.tar") if path.is_file())
    return [name for name in names if not (_class_of(name) or _is_ilsvrc(name))]


def list_archive(archive: Path) -> TrainImages:
    """List the images in an archive of class tars; raises UserError if it holds none, or one is damaged or empty."""
    rejected: list[Rejected] = []
    class_tars: list[ClassTar] = []
    for member in tars.file_members(archive):
        name = base_name(member.name).removesuffix(".tar")
        if member.problem is None and WORDNET_ID.fullmatch(name):
            class_tars.append(ClassTar(name, archive.name, member.offset, member.offset + member.size_bytes))
        else:
            rejected.append(Rejected(member.name, member.problem or NOT_A_CLASS))
    if len({class_tar.name for class_tar in class_tars}) != len(class_tars) or not class_tars:
        raise UserError(f"{archive}: expected one tar for each class in it, named like n01440764.tar")
    return _list_images(archive.parent, class_tars, rejected)


def list_folder(root: Path, folder: Path) -> TrainImages:
    """List the images in a folder of class tars, `root` or one in it; raises UserError as `list_archive` does."""
    relative = "" if folder == root else f"{folder.name}/"
    class_tars = [ClassTar(name, f"{relative}{path.name}") for name, path in _class_tars(folder)]
    names = {base_name(class_tar.path) for class_tar in class_tars}
    others = sorted(path for path in folder.iterdir() if path.name not in names and not _is_ilsvrc(path.name))
    rejected = [Rejected(f"{relative}{readable(path.name)}", NOT_A_CLASS) for path in others if not path.is_dir()]
    unread = [f"{readable(path.name)}/" for path in others if path.is_dir()]
    images = _list_images(root, class_tars, rejected)
    notes = [f"{folder}: read as ILSVRC's training tar unpacked once: a tar for each of {len(names)} classes"]
    notes += [f"{folder}: not read, because it is beside the class tars: {listed(unread)}"] if unread else []
    return images._replace(notes=tuple(notes))


def _list_images(root: Path, class_tars: Sequence[ClassTar], rejected: list[Rejected]) -> TrainImages:
    files: list[ImageFile] = []
    classes = tuple(sorted(class_tar.name for class_tar in class_tars))
    labels = class_labels(classes)
    for class_tar in class_tars:
        # By name: of members with one name the last counts, as when the tar is unpacked.
        images: dict[str, ImageFile] = {}
        for member in _members(root, class_tar):
            name = f"{class_tar.name}/{member.name.removeprefix('./')}"
            if member.problem is not None:
                rejected.append(Rejected(name, member.problem))
                continue
            if name in images:
                rejected.append(Rejected(name, REPLACED))
            label = labels[class_tar.name]
            images[name] = ImageFile(name, label, member.size_bytes, class_tar.path, member.offset)
        files += images.values()
        if not images:
            raise UserError(f"{_where(root, class_tar)}: holds no images: download it again")
    return TrainImages(files, rejected, classes)


def _members(root: Path, class_tar: ClassTar) -> Iterator[tars.Member]:
    if class_tar.end is None:
        yield from tars.file_members(root / class_tar.path)
        return
    with (root / class_tar.path).open("rb", buffering=0) as file:
        descriptor = file.fileno()
        yield from tars.range_members(
            lambda at, size: os.pread(descriptor, size, at), _where(root, class_tar), class_tar.first, class_tar.end
        )


def _where(root: Path, class_tar: ClassTar) -> str:
    path = root / class_tar.path
    return str(path) if class_tar.end is None else f"{path}: {class_tar.name}.tar"


def _class_tars(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the class and the path of each class tar in a folder, by name."""
    for path in sorted(folder.glob("n*.tar")):
        name = _class_of(path.name)
        if name is not None and path.is_file():
            yield name, path


def _class_of(name: str) -> str | None:
    stem = name.removesuffix(".tar")
    return stem if stem != name and WORDNET_ID.fullmatch(stem) else None


def _is_ilsvrc(name: str) -> bool:
    return name.startswith("ILSVRC") or name in ("patch_images.tar", "devkit-1.0")
