"""The layouts 'ilsvrc2012' and 'ilsvrc2010': ILSVRC's own archives; images are read from the tars in place.

The training tar holds one tar per class, each a contiguous byte range of it. Validation and test images are flat: the
number in an image's name is its line in the ground truth, and the development kit maps that line to a synset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.classes import check_same_classes, class_labels
from alexnet_dist.pack.sources.devkit import WORDNET_ID, Devkit, Synsets, find_devkit, parse_numbers
from alexnet_dist.pack.sources.listing import ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import base_name

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


def list_split(root: Path, year: int, split: SplitName, train_classes: tuple[str, ...] | None) -> ImageSource:
    """List a split of a year's archives in `root`; raises UserError naming what is missing or inconsistent."""
    name = ARCHIVES[year].get(split)
    if name is None:
        raise UserError(f"{root}: ILSVRC{year} has no labels for its {split} images; pack --split val instead")
    archive = root / name
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; expected the {split} images of ILSVRC{year} there")
    kit = find_devkit(root, year)
    synsets = None if kit is None else kit.synsets()
    descriptions = {} if synsets is None else synsets.descriptions
    if split == "train":
        files, rejected, classes = _list_train(archive)
    else:
        if kit is None or synsets is None:
            raise UserError(
                f"{root}: no ILSVRC{year}_devkit*.tar.gz beside {name}; only it has the labels of the {split} images: "
                "put it there"
            )
        classes = train_classes or synsets.classes
        truth = _ground_truth(root, kit, split)
        files, rejected = _list_flat(archive, truth, synsets, classes, kit)
    check_same_classes(archive, classes, train_classes, split)
    files = _apply_patches(root, files, rejected) if year == 2010 else files
    return build_source(
        root, classes, files, rejected, {name: descriptions[name] for name in classes if name in descriptions}
    )


def _list_train(archive: Path) -> tuple[list[ImageFile], list[Rejected], tuple[str, ...]]:
    """List the training images: the members of the tar are tars named after the classes."""
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    class_tars: list[tars.Member] = []
    for member in tars.file_members(archive):
        name = base_name(member.name).removesuffix(".tar")
        if member.problem is None and WORDNET_ID.fullmatch(name):
            class_tars.append(member._replace(name=name))
        else:
            rejected.append(Rejected(member.name, member.problem or "not a class's tar"))
    classes = tuple(sorted(member.name for member in class_tars))
    if len(set(classes)) != len(classes) or not classes:
        raise UserError(f"{archive}: expected one tar for each class in it, named like n01440764.tar")
    labels = class_labels(classes)
    with archive.open("rb", buffering=0) as file:

        def read_at(offset: int, size: int) -> bytes:
            return os.pread(file.fileno(), size, offset)

        for class_tar in class_tars:
            before = len(files)
            end = class_tar.offset + class_tar.size_bytes
            where = f"{archive}: {class_tar.name}.tar"
            for member in tars.range_members(read_at, where, class_tar.offset, end):
                name = f"{class_tar.name}/{member.name.removeprefix('./')}"
                if member.problem is not None:
                    rejected.append(Rejected(name, member.problem))
                else:
                    label = labels[class_tar.name]
                    files.append(ImageFile(name, label, member.size_bytes, archive.name, member.offset))
            if len(files) == before:
                raise UserError(f"{where}: holds no images: download {archive.name} again")
    return files, rejected, classes


def _ground_truth(root: Path, kit: Devkit, split: SplitName) -> list[int]:
    if split == "val":
        return kit.ground_truth()
    path = root / "ILSVRC2010_test_ground_truth.txt"
    try:
        return parse_numbers(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it has the labels of the test images: put it there") from None


def _list_flat(
    archive: Path, truth: list[int], synsets: Synsets, classes: tuple[str, ...], kit: Devkit
) -> tuple[list[ImageFile], list[Rejected]]:
    """List numbered images; the number in an image's name is its line of the ground truth."""
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    labels = class_labels(classes)
    for member in tars.file_members(archive):
        name = base_name(member.name)
        match = IMAGE_NUMBER.search(name)
        if member.problem is not None or match is None:
            rejected.append(Rejected(member.name, member.problem or "not a numbered image"))
            continue
        number = int(match[1])
        if not 1 <= number <= len(truth):
            raise UserError(
                f"{archive}: {name} has no line in the ground truth in {kit.path}, which has {len(truth)} lines"
            )
        class_name = synsets.by_number.get(truth[number - 1])
        if class_name is None:
            raise UserError(
                f"{kit.path}: line {number} of the ground truth is {truth[number - 1]}, which is not a class"
            )
        if class_name not in labels:
            raise UserError(f"{archive}: {name} is of {class_name}, which is not among the train split's classes")
        files.append(
            ImageFile(f"{class_name}/{name}", labels[class_name], member.size_bytes, archive.name, member.offset)
        )
    return files, rejected


def _apply_patches(root: Path, files: list[ImageFile], rejected: list[Rejected]) -> list[ImageFile]:
    """Substitute the patch images of 2010 for the images of the same file name, which are damaged."""
    archive = root / PATCHES
    if not archive.is_file():
        return files
    patches = dict(_patches(archive, rejected))
    return [
        file._replace(path=archive.name, offset=patch.offset, size_bytes=patch.size_bytes)
        if (patch := patches.get(base_name(file.name)))
        else file
        for file in files
    ]


def _patches(archive: Path, rejected: list[Rejected]) -> Iterator[tuple[str, tars.Member]]:
    for member in tars.file_members(archive):
        if member.problem is None:
            yield base_name(member.name), member
        else:
            rejected.append(Rejected(member.name, member.problem))
