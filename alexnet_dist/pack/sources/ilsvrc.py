"""ILSVRC's own archives as sources, 2012 and 2010: images are read from the tars in place.

The training tar holds a tar a class, a plain byte range of it. Validation and test images lie flat; the number in
an image's name picks its line of the ground truth, and the development kit says which synset that line means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from alexnet_dist.data.manifest import Rejected, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources import devkit
from alexnet_dist.pack.sources.devkit import Devkit, Synsets
from alexnet_dist.pack.sources.source import File, Source, difference, labels_of, listed

ARCHIVES: Mapping[int, Mapping[SplitName, str]] = {
    2012: {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"},
    2010: {
        "train": "ILSVRC2010_images_train.tar",
        "val": "ILSVRC2010_images_val.tar",
        "test": "ILSVRC2010_images_test.tar",
    },
}
PATCHES = "patch_images.tar"
IMAGE_NUMBER = re.compile(r"_(\d{1,8})\.\w+$")


def find(root: Path, year: int, split: SplitName, train: tuple[str, ...] | None) -> Source:
    """List a split of a year's archives in `root`; raises UserError naming what is missing or does not fit."""
    name = ARCHIVES[year].get(split)
    if name is None:
        raise UserError(f"{root}: ILSVRC{year} has no labels for its {split} images; pack --split val instead")
    archive = root / name
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; expected ILSVRC{year}'s {split} images there")
    kit = devkit.find(root, year)
    synsets = None if kit is None else kit.synsets()
    words = {} if synsets is None else synsets.words
    if split == "train":
        files, rejected, classes = _list_train(archive)
    else:
        if kit is None or synsets is None:
            raise UserError(
                f"{root}: no ILSVRC{year}_devkit*.tar.gz beside {name}, and only it knows the labels of the {split} "
                "images: put it there"
            )
        classes = train or synsets.classes
        truth = _truth(root, kit, split)
        files, rejected = _list_flat(archive, truth, synsets, classes, kit)
    if train is not None and classes != train:
        raise UserError(f"{archive}: not the classes of the packed train split: {difference(classes, train)}")
    files = _overlay(root, files, rejected) if year == 2010 else files
    return listed(root, classes, files, rejected, {name: words[name] for name in classes if name in words})


def _list_train(archive: Path) -> tuple[list[File], list[Rejected], tuple[str, ...]]:
    """List the training images: the tar's members are tars named by class."""
    files: list[File] = []
    rejected: list[Rejected] = []
    inner: list[tars.Member] = []
    for member in tars.list_file(archive):
        name = os.path.basename(member.name)  # noqa: PTH119 - a name, not a path
        if member.problem is None and devkit.WORDNET_ID.fullmatch(name.removesuffix(".tar")):
            inner.append(member._replace(name=name.removesuffix(".tar")))
        else:
            rejected.append(Rejected(member.name, member.problem or "not a class's tar"))
    classes = tuple(sorted(member.name for member in inner))
    if len(set(classes)) != len(classes) or not classes:
        raise UserError(f"{archive}: expected one tar a class in it, named n01440764.tar and the like")
    labels = labels_of(classes)
    with archive.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        for wanted in inner:
            before = len(files)
            end = wanted.offset + wanted.size_bytes
            where = f"{archive}: {wanted.name}.tar"
            for member in tars.inside(lambda at, size: os.pread(descriptor, size, at), where, wanted.offset, end):
                name = f"{wanted.name}/{member.name.removeprefix('./')}"
                if member.problem is not None:
                    rejected.append(Rejected(name, member.problem))
                else:
                    files.append(File(name, labels[wanted.name], member.size_bytes, archive.name, member.offset))
            if len(files) == before:
                raise UserError(f"{where}: holds no images: download {archive.name} again")
    return files, rejected, classes


def _truth(root: Path, kit: Devkit, split: SplitName) -> list[int]:
    if split == "val":
        return kit.ground_truth()
    path = root / "ILSVRC2010_test_ground_truth.txt"
    try:
        return devkit.numbers(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it has the labels of the test images: put it there") from None


def _list_flat(
    archive: Path, truth: list[int], synsets: Synsets, classes: tuple[str, ...], kit: Devkit
) -> tuple[list[File], list[Rejected]]:
    """List numbered images; each one's number is its line of the ground truth."""
    files: list[File] = []
    rejected: list[Rejected] = []
    labels = labels_of(classes)
    for member in tars.list_file(archive):
        name = os.path.basename(member.name)  # noqa: PTH119 - a name, not a path
        found = IMAGE_NUMBER.search(name)
        if member.problem is not None or found is None:
            rejected.append(Rejected(member.name, member.problem or "not a numbered image"))
            continue
        number = int(found[1])
        if not 1 <= number <= len(truth):
            raise UserError(f"{archive}: {name}: the ground truth in {kit.path} has {len(truth)} lines, none for it")
        wordnet_id = synsets.by_number.get(truth[number - 1])
        if wordnet_id is None:
            raise UserError(f"{kit.path}: the ground truth's line {number} is {truth[number - 1]}, which is no class")
        if wordnet_id not in labels:
            raise UserError(f"{archive}: {name} is of {wordnet_id}, which is not among the train split's classes")
        files.append(File(f"{wordnet_id}/{name}", labels[wordnet_id], member.size_bytes, archive.name, member.offset))
    return files, rejected


def _overlay(root: Path, files: list[File], rejected: list[Rejected]) -> list[File]:
    """Put the patch images of 2010 in the place of those of the same file name, which are damaged."""
    archive = root / PATCHES
    if not archive.is_file():
        return files
    patches = dict(_patches(archive, rejected))
    return [
        file._replace(path=archive.name, offset=patch.offset, size_bytes=patch.size_bytes)
        if (patch := patches.get(file.name.rsplit("/", 1)[-1]))
        else file
        for file in files
    ]


def _patches(archive: Path, rejected: list[Rejected]) -> Iterator[tuple[str, tars.Member]]:
    for member in tars.list_file(archive):
        if member.problem is None:
            yield os.path.basename(member.name), member  # noqa: PTH119 - a name, not a path
        else:
            rejected.append(Rejected(member.name, member.problem))
