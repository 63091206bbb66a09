"""The layout 'list': a text file with an image and its class on each line, ``path/to/cat.jpg<TAB>cat``."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.classes import check_no_class_lost, class_labels, resolve_class, sorted_classes
from alexnet_dist.pack.sources.listing import NOT_REGULAR, ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import base_name


def list_images(path: Path, train_classes: tuple[str, ...] | None) -> ImageSource:
    """List the images of a list; their paths are relative to its folder, the class is the last field of a line.

    Fields are separated by a tab, or by the last blank of a line; lines that begin with # are comments. Classes that
    are all whole numbers are ordered as numbers. Raises UserError naming the line that is not valid.
    """
    folder = path.parent
    rows = _rows(path)
    classes = train_classes or sorted_classes({class_name for _, _, class_name in rows})
    labels = class_labels(classes)
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    first_seen: dict[str, str] = {}
    for number, image, class_name in rows:
        name = resolve_class(class_name, labels)
        if name not in labels:
            raise UserError(f"{path}: line {number}: no class of the train split is called {class_name!r}")
        first_seen.setdefault(name, f"{path}: line {number}: {image}")
        try:
            size_bytes = os.stat(folder / image).st_size  # noqa: PTH116 - called for each of a million lines
        except OSError as error:
            rejected.append(Rejected(image, f"cannot be read: {error.strerror}"))
            continue
        if os.path.isfile(folder / image):  # noqa: PTH113
            files.append(ImageFile(f"{name}/{_below(image, class_name)}", labels[name], size_bytes, image))
        else:
            rejected.append(Rejected(image, NOT_REGULAR))
    source = build_source(folder, classes, files, rejected)
    check_no_class_lost(source, first_seen)
    return source


def _below(path: str, class_name: str) -> str:
    """Return the part of a path below the class's folder, as the layout 'folder' has it, or else the file's name."""
    parts = path.split("/")
    if class_name in parts[:-1]:
        return "/".join(parts[len(parts) - parts[::-1].index(class_name) :])
    return base_name(path)


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """Return (line number, image's path, class) of each line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: neither a folder nor a text file; expected a folder, or a list with an image and its class on "
            "each line"
        ) from None
    rows: list[tuple[int, str, str]] = []
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
        rows.append((number, image, class_name))
    if not rows:
        raise UserError(f"{path}: lists no images; expected a path, a tab and a class on each line")
    return rows
