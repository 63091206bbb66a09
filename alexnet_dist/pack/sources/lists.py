"""The layout 'list': a text file with an image and its class on each line, ``path/to/cat.jpg<TAB>cat``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.class_texts import read_texts
from alexnet_dist.pack.sources.classes import check_no_class_lost, class_labels
from alexnet_dist.pack.sources.listing import NOT_REGULAR, ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import base_name

BLANK_LINES_RULE = "blank lines and comments"


class _Row(NamedTuple):
    """A line of a list that has an image."""

    number: int
    image: str
    class_name: str


def list_images(path: Path, train_classes: tuple[str, ...] | None) -> ImageSource:
    """List the images of a list; their paths are relative to its folder, the class is the last field of a line.

    Fields are separated by a tab, or by the last blank of a line; lines that begin with # are comments. Classes that
    are all whole numbers are ordered as numbers. Raises UserError naming the line that is not valid.
    """
    folder = path.parent
    lines = _lines(path)
    rows = _rows(path, lines)
    locations: dict[str, str] = {}
    for row in rows:
        locations.setdefault(row.class_name, f"{path}: line {row.number}")
    read = read_texts(locations, train_classes, str(path))
    labels = class_labels(read.classes)
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    first_seen: dict[str, str] = {}
    for row in rows:
        name = read.class_of[row.class_name]
        first_seen.setdefault(name, f"{path}: line {row.number}: {row.image}")
        try:
            size_bytes = os.stat(folder / row.image).st_size  # noqa: PTH116 - called for each of a million lines
        except OSError as error:
            rejected.append(Rejected(row.image, f"cannot be read: {error.strerror}"))
            continue
        if os.path.isfile(folder / row.image):  # noqa: PTH113
            file_name = f"{name}/{_below(row.image, row.class_name)}"
            files.append(ImageFile(file_name, labels[name], size_bytes, row.image))
        else:
            rejected.append(Rejected(row.image, NOT_REGULAR))
    if not files:
        raise UserError(_all_missing(path, rows[0], rejected))
    ignored = {BLANK_LINES_RULE: len(lines) - len(rows)}
    source = build_source(folder, read.classes, files, rejected, seen=len(lines), ignored=ignored, notes=read.notes)
    check_no_class_lost(source, first_seen)
    return source


def _below(path: str, class_name: str) -> str:
    """Return the part of a path below the class's folder, as the layout 'folder' has it, or else the file's name."""
    parts = path.split("/")
    if class_name in parts[:-1]:
        return "/".join(parts[len(parts) - parts[::-1].index(class_name) :])
    return base_name(path)


def _all_missing(path: Path, row: _Row, rejected: Sequence[Rejected]) -> str:
    """Return the message for a list none of whose images can be read, most likely relative to another folder."""
    tried = path.parent / row.image
    advice = "Paths are relative to the folder of the list"
    if Path(row.image).is_file():
        advice += f"; from the current folder {row.image} can be read: move the list to {Path.cwd()}"
    return (
        f"{path}: none of its {len(rejected)} images can be read. Line {row.number} is {tried}: {rejected[0].reason}. "
        f"{advice}"
    )


def _lines(path: Path) -> list[str]:
    """Return the lines of a list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: neither a folder nor a text file; expected a folder, or a list with an image and its class on "
            "each line"
        ) from None
    # Not splitlines(), which also divides at characters that a file name may have.
    return text.removesuffix("\n").split("\n")


def _rows(path: Path, lines: Sequence[str]) -> list[_Row]:
    rows: list[_Row] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        image, _, class_name = (field.strip() for field in fields)
        if not image or not class_name or "/" in class_name or "\0" in line:
            raise UserError(f"{path}: line {number}: {line[:60]!r}; expected a path, a tab and a class")
        first = lines_of.setdefault(os.path.normpath(image), number)
        if first != number:
            raise UserError(
                f"{path}: lines {first} and {number} both list {image}: remove one, or the image is packed twice"
            )
        rows.append(_Row(number, image, class_name))
    if not rows:
        raise UserError(f"{path}: lists no images; expected a path, a tab and a class on each line")
    return rows
