"""The layouts 'ilsvrc2012' and 'ilsvrc2010': ILSVRC's own archives; images are read from the tars in place.

The training tar holds one tar per class, each a contiguous byte range of it; it may be unpacked once, into a folder of
class tars. Validation and test images are flat: the number in an image's name is its line in the ground truth, and the
development kit maps that line to a synset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources import class_tars
from alexnet_dist.pack.sources.class_tars import REPLACED, TrainImages
from alexnet_dist.pack.sources.classes import check_same_classes, class_labels
from alexnet_dist.pack.sources.completeness import check_missing
from alexnet_dist.pack.sources.devkit import Devkit, Synsets, find_devkit, parse_numbers
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
IMAGE_NUMBER = re.compile(r"ILSVRC\d{4}_(?:val|test)_(\d{1,8})\.\w+")


def list_split(
    root: Path, year: int, split: SplitName, train_classes: tuple[str, ...] | None, allow_missing: bool = False
) -> ImageSource:
    """List a split of a year's archives in `root`; raises UserError naming what is missing or inconsistent."""
    name = ARCHIVES[year].get(split)
    if name is None:
        raise UserError(f"{root}: ILSVRC{year} has no labels for its {split} images; pack --split val instead")
    archive = root / name
    kit = find_devkit(root, year)
    synsets = None if kit is None else kit.synsets()
    descriptions = {} if synsets is None else synsets.descriptions
    notes: tuple[str, ...] = ()
    if split == "train":
        files, rejected, classes, notes = _list_train(root, archive)
        missing: tuple[str, ...] = ()
        if kit is not None and synsets is not None:
            absent = sorted(set(synsets.classes) - set(classes))
            where = archive if archive.is_file() else root
            parts = f"classes that {kit.path.name} names"
            missing = check_missing(where, absent, len(synsets.classes), parts, allow_missing)
            classes = tuple(sorted({*classes, *absent}))
            files = _relabelled(files, classes) if absent else files
    else:
        if not archive.is_file():
            raise _missing_archive(archive, split)
        if kit is None or synsets is None:
            raise UserError(
                f"{root}: no ILSVRC{year}_devkit*.tar.gz beside {name}; only it has the labels of the {split} images: "
                "put it there"
            )
        classes = train_classes or synsets.classes
        truth = _ground_truth(root, kit, split)
        images, rejected = _list_flat(archive, truth, synsets, classes, kit)
        files = list(images.values())
        absent = [f"number {number}" for number in range(1, len(truth) + 1) if number not in images]
        missing = check_missing(archive, absent, len(truth), "images that the ground truth counts", allow_missing)
    check_same_classes(archive, classes, train_classes, split)
    files, ignored = _apply_patches(root, files, rejected) if year == 2010 else (files, {})
    descriptions = {name: descriptions[name] for name in classes if name in descriptions}
    return build_source(root, classes, files, rejected, descriptions, ignored=ignored, notes=notes, missing=missing)


def _list_train(root: Path, archive: Path) -> TrainImages:
    folder = class_tars.class_tar_folder(root)
    if not archive.is_file():
        if folder is None:
            raise _missing_archive(archive, "train")
        return class_tars.list_folder(root, folder)
    images = class_tars.list_archive(archive)
    note = f"{folder}: not read, because {archive.name} holds the class tars too"
    return images if folder is None else images._replace(notes=(note,))


def _missing_archive(archive: Path, split: str) -> UserError:
    return UserError(
        f"{archive}: no such file; expected the {split} images of ILSVRC there. If they are unpacked into class "
        "folders, add --layout folder"
    )


def _relabelled(files: Sequence[ImageFile], classes: tuple[str, ...]) -> list[ImageFile]:
    """Return files with the labels that their classes have among `classes`."""
    labels = class_labels(classes)
    return [file._replace(label=labels[file.name.partition("/")[0]]) for file in files]


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
) -> tuple[dict[int, ImageFile], list[Rejected]]:
    """List numbered images by their number, which is an image's line of the ground truth; the last of a number counts.

    This is the one that would remain if the tar were unpacked.
    """
    files: dict[int, ImageFile] = {}
    rejected: list[Rejected] = []
    labels = class_labels(classes)
    for member in tars.file_members(archive):
        name = base_name(member.name)
        match = IMAGE_NUMBER.fullmatch(name)
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
        if number in files:
            rejected.append(Rejected(files[number].name, REPLACED))
        files[number] = ImageFile(
            f"{class_name}/{name}", labels[class_name], member.size_bytes, archive.name, member.offset
        )
    return files, rejected


def _apply_patches(
    root: Path, files: list[ImageFile], rejected: list[Rejected]
) -> tuple[list[ImageFile], dict[str, int]]:
    """Substitute the patch images of 2010 for the images of the same file name, which are damaged.

    Also returns how many patches there are: they are no images of their own, and most are of other splits.
    """
    archive = root / PATCHES
    if not archive.is_file():
        return files, {}
    patches: dict[str, tars.Member] = {}
    for member in tars.file_members(archive):
        name = base_name(member.name)
        if member.problem is not None or name in patches:
            rejected.append(Rejected(member.name, member.problem or f"a second patch called {name}"))
        else:
            patches[name] = member
    patched = [
        file._replace(path=archive.name, offset=patch.offset, size_bytes=patch.size_bytes)
        if (patch := patches.get(base_name(file.name)))
        else file
        for file in files
    ]
    return patched, {"patches of damaged images": len(patches)}
