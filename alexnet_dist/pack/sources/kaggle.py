"""The layout 'kaggle': class folders for training, a flat folder of validation images, and a table of their labels."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources import folders
from alexnet_dist.pack.sources.classes import check_same_classes, class_labels
from alexnet_dist.pack.sources.completeness import check_missing
from alexnet_dist.pack.sources.listing import NOT_REGULAR, NOT_UTF8, ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import is_utf8, readable

IMAGES = Path("ILSVRC/Data/CLS-LOC")
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


def list_split(
    root: Path, split: SplitName, train_classes: tuple[str, ...] | None, allow_missing: bool = False
) -> ImageSource:
    """List a split; raises UserError naming the file and line that is not valid, or the images that are missing."""
    if split == "test":
        raise UserError(f"{root}: Kaggle gives no labels for its test images; pack --split val instead")
    descriptions = _descriptions(root / MAPPING)
    classes = tuple(sorted(descriptions))
    check_same_classes(root / MAPPING, classes, train_classes, split)
    if split == "train":
        folder = root / IMAGES / "train"
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected Kaggle's training images in a folder for each class")
        absent = sorted(set(classes) - set(folders.class_folders(folder)))
        missing = check_missing(folder, absent, len(classes), f"classes that {MAPPING} names", allow_missing)
        return replace(folders.list_classes(folder, classes, descriptions), missing=missing)
    return _list_val(root, classes, descriptions, allow_missing)


def _list_val(root: Path, classes: tuple[str, ...], descriptions: dict[str, str], allow_missing: bool) -> ImageSource:
    folder, labels = root / IMAGES / "val", class_labels(classes)
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    solution = _solution(root / SOLUTION)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; expected Kaggle's validation images") from None
    for entry in entries:
        class_name = solution.get(entry.name.rsplit(".", 1)[0])
        if not is_utf8(entry.name):
            rejected.append(Rejected(readable(entry.name), NOT_UTF8))
        elif not entry.is_file() or class_name is None:
            rejected.append(Rejected(entry.name, f"not in {SOLUTION}" if entry.is_file() else NOT_REGULAR))
        elif class_name not in labels:
            raise UserError(f"{root / SOLUTION}: {entry.name} is of class {class_name!r}, which is not in {MAPPING}")
        else:
            size_bytes = entry.stat().st_size
            files.append(ImageFile(f"{class_name}/{entry.name}", labels[class_name], size_bytes, entry.name))
    if not files and any(entry.is_dir() for entry in entries):
        raise UserError(
            f"{folder}: holds folders and none of the images of {SOLUTION}. If they are class folders, give "
            f"{folder.parent} as SOURCE"
        )
    present = {file.path.rsplit(".", 1)[0] for file in files}
    absent = [image for image in solution if image not in present]
    missing = check_missing(folder, absent, len(solution), f"images that {SOLUTION} names", allow_missing)
    return build_source(folder, classes, files, rejected, descriptions, missing=missing)


def _descriptions(path: Path) -> dict[str, str]:
    """Return the description of each class; a line is its WordNet id, a blank and the description."""
    descriptions: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        name, _, description = line.strip().partition(" ")
        if not name or name in descriptions:
            raise UserError(
                f"{path}: line {number} is {line[:40]!r}, expected a WordNet id not listed before, and its words"
            )
        descriptions[name] = description
    return descriptions


def _solution(path: Path) -> dict[str, str]:
    """Return each validation image's class; PredictionString begins with its WordNet id."""
    rows = csv.reader(_read_text(path).splitlines())
    if next(rows, None) != ["ImageId", "PredictionString"]:
        raise UserError(f"{path}: line 1: expected ImageId,PredictionString")
    classes: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not row[1].split():
            raise UserError(f"{path}: line {number}: expected an image's id and its prediction string")
        if row[0] in classes:
            raise UserError(f"{path}: line {number}: {row[0]} is listed a second time: remove one of the lines")
        classes[row[0]] = row[1].split()[0]
    return classes


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; it is part of Kaggle's data: put it there"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text: download it again") from None
