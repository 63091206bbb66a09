"""Kaggle's ILSVRC folder as a source: class folders for training, flat validation images with a table of labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from alexnet_dist.data.manifest import Rejected, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources import folders
from alexnet_dist.pack.sources.names import is_text, readable
from alexnet_dist.pack.sources.source import File, Source, difference, labels_of, listed

IMAGES = Path("ILSVRC/Data/CLS-LOC")
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


def find(root: Path, split: SplitName, train: tuple[str, ...] | None) -> Source:
    """List a split; raises UserError naming the file and line of what does not fit."""
    if split == "test":
        raise UserError(f"{root}: Kaggle gives no labels for its test images; pack --split val instead")
    words = _words(root / MAPPING)
    classes = tuple(sorted(words))
    if train is not None and classes != train:
        raise UserError(f"{root / MAPPING}: not the classes of the packed train split: {difference(classes, train)}")
    if split == "train":
        return folders.list_classes(root / IMAGES / "train", classes, words)
    folder, labels = root / IMAGES / "val", labels_of(classes)
    files: list[File] = []
    rejected: list[Rejected] = []
    solution = _solution(root / SOLUTION)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; expected Kaggle's validation images") from None
    for entry in entries:
        name = solution.get(entry.name.rsplit(".", 1)[0])
        if not is_text(entry.name):
            rejected.append(Rejected(readable(entry.name), "its name is not UTF-8"))
        elif not entry.is_file() or name is None:
            reason = "not a regular file" if not entry.is_file() else f"not in {SOLUTION}"
            rejected.append(Rejected(entry.name, reason))
        elif name not in labels:
            raise UserError(f"{root / SOLUTION}: {entry.name} is of {name!r}, which {MAPPING} does not have")
        else:
            files.append(File(f"{name}/{entry.name}", labels[name], entry.stat().st_size, entry.name))
    return listed(folder, classes, files, rejected, words)


def _words(path: Path) -> dict[str, str]:
    """Read a line a class: its WordNet id, and its words."""
    words: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        name, _, description = line.strip().partition(" ")
        if not name or name in words:
            raise UserError(f"{path}: line {number} is {line[:40]!r}, expected a new WordNet id and its words")
        words[name] = description
    return words


def _solution(path: Path) -> dict[str, str]:
    """Read the validation images' classes: ImageId,PredictionString, the latter beginning with the WordNet id."""
    rows = csv.reader(_text(path).splitlines())
    if next(rows, None) != ["ImageId", "PredictionString"]:
        raise UserError(f"{path}: line 1: expected ImageId,PredictionString")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not row[1].split():
            raise UserError(f"{path}: line {number}: expected an image's id and its prediction string")
        found[row[0]] = row[1].split()[0]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; it comes with Kaggle's data: put it there"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text: download it again") from None
