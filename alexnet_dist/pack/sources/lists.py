"""A flat list as a source: a text file with an image and its class a line, ``path/to/cat.jpg<TAB>cat``."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.source import File, Source, labels_of, listed, none_lost


def find(root: Path, train: tuple[str, ...] | None) -> Source:
    """List the images of a list; paths are relative to its folder, the class is a line's last field.

    Fields are parted by a tab, or by the last blank of a line; lines with # in front are comments. Classes that are
    all whole numbers are ordered as numbers. Raises UserError naming the line that does not fit.
    """
    folder = root.parent
    rows = _rows(root)
    classes = train or class_names({name for _, _, name in rows})
    labels = labels_of(classes)
    files: list[File] = []
    rejected: list[Rejected] = []
    met: dict[str, str] = {}
    for number, path, found in rows:
        name = found if found in labels else padded(found, classes)
        if name not in labels:
            raise UserError(f"{root}: line {number}: no class of the train split is called {found!r}")
        met.setdefault(name, f"{root}: line {number}: {path}")
        try:
            size_bytes = os.stat(folder / path).st_size  # noqa: PTH116 - one call a line of a million
        except OSError as error:
            rejected.append(Rejected(path, f"cannot be read: {error.strerror}"))
            continue
        if os.path.isfile(folder / path):  # noqa: PTH113
            files.append(File(f"{name}/{_below(path, found)}", labels[name], size_bytes, path))
        else:
            rejected.append(Rejected(path, "not a regular file"))
    return none_lost(listed(folder, classes, files, rejected), met)


def class_names(found: set[str]) -> tuple[str, ...]:
    """Return class names in the order of their labels; numbers are padded, so that sorting keeps their order."""
    if found and all(name.isascii() and name.isdigit() for name in found):
        width = max(map(len, found))
        # A set, because 1 and 01 are one number.
        return tuple(sorted({name.zfill(width) for name in found}))
    return tuple(sorted(found))


def padded(name: str, classes: tuple[str, ...]) -> str:
    """Return a number as the class name that stands for it."""
    return name.zfill(len(classes[0])) if classes and name.isascii() and name.isdigit() else name


def _below(path: str, name: str) -> str:
    """Return what follows the class's own folder in a path, or else the file's name: what the class folders give."""
    parts = path.split("/")
    if name in parts[:-1]:
        return "/".join(parts[len(parts) - parts[::-1].index(name) :])
    return parts[-1]


def _rows(root: Path) -> list[tuple[int, str, str]]:
    """Return (line number, path, class) of each line."""
    try:
        lines = root.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"{root}: neither a folder nor a text file; expected a folder, or a list with an image and its class a line"
        ) from None
    rows: list[tuple[int, str, str]] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        path, _, name = (part.strip() for part in (line.rpartition("\t") if "\t" in line else line.rpartition(" ")))
        if not path or not name or "/" in name or "\0" in line:
            raise UserError(f"{root}: line {number}: {line[:60]!r}; expected a path, a tab and a class")
        first = lines_of.setdefault(os.path.normpath(path), number)
        if first != number:
            raise UserError(f"{root}: lines {first} and {number} both list {path}: take one out, or it is packed twice")
        rows.append((number, path, name))
    if not rows:
        raise UserError(f"{root}: lists no images; expected a path, a tab and a class a line")
    return rows
