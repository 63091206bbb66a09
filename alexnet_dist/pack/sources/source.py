"""A listed source: which files a split has, under which labels, and where their bytes lie.

A file's name is ``class/file``, whatever the layout that holds it, and its place in the order depends on that name
without its ending: the same images give the same shards from class folders, tars, parquet files or other shards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.manifest import Rejected, SourceId, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.rng import seed64

LARGEST_FILE_BYTES = 1 << 29
TOO_LARGE = f"a file of more than {LARGEST_FILE_BYTES >> 20} MiB"


class File(NamedTuple):
    """A file that may be an image.

    name: ``class/file``. path: of the file or archive that holds its bytes, relative to the source's folder.
    offset: bytes, of its first byte in an archive; None for a file of its own. reason: why it is no image, where
    that is known. spooled_bytes: size of its finished JPEG, where that is what lies at `path`.
    """

    name: str
    label: int
    size_bytes: int
    path: str
    offset: int | None = None
    reason: str | None = None
    spooled_bytes: int | None = None

    @property
    def stem(self) -> str:
        """The name without its ending, which differs between the layouts of one set."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - a million times, and pathlib takes ten times as long

    @property
    def order(self) -> tuple[str | int, ...]:
        """What files are sorted by: the stem, then all the rest, in which None cannot be compared."""
        offset, spooled_bytes = (-1 if value is None else value for value in (self.offset, self.spooled_bytes))
        return (self.stem, *self[:4], offset, self.reason or "", spooled_bytes)


@dataclass(frozen=True)
class Source:
    """A split's listed files in the order of their names; labels are places in `classes`.

    words: of the classes that the source describes. rejected: what lies there and cannot be an image.
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[File, ...]
    rejected: tuple[Rejected, ...]
    id: SourceId
    words: Mapping[str, str] = field(default_factory=dict)


class Container(NamedTuple):
    """A file of a source whose images can only be met one after another."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Stream:
    """A split in containers that must be read from front to back: what they hold is known when they have been.

    kind: how they are read. classes: names in the order of the labels that the containers use, where they use any.
    """

    folder: Path
    kind: str
    containers: tuple[Container, ...]
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> SourceId:
        """What is to be packed, as far as it is known before it is read."""
        digest = hashlib.sha256()
        for container in self.containers:
            digest.update(os.fsencode(f"{Path(container.path).name}\0{container.size_bytes}\n"))
        return SourceId(len(self.containers), digest.hexdigest(), digest.hexdigest())


def listed(
    folder: Path,
    classes: tuple[str, ...],
    files: Iterable[File],
    rejected: Iterable[Rejected],
    words: Mapping[str, str] | None = None,
    containers: str | None = None,
) -> Source:
    """Return a source of the files found, put into order."""
    ordered = tuple(sorted(files, key=lambda file: file.order))
    digest = hashlib.sha256()
    for file in ordered:
        digest.update(f"{file.name}\0{file.label}\0{file.size_bytes}\n".encode())
    if not ordered:
        raise UserError(f"{folder}: holds no image files of this split")
    source_id = SourceId(len(ordered), digest.hexdigest(), containers)
    return Source(folder, classes, ordered, tuple(rejected), source_id, words or {})


def divide(source: Source, split: SplitName, holdout: float, seed: int) -> Source:
    """Keep one side of a holdout: in each class, the files that come first in a seeded order of names are held out."""
    by_class: dict[int, list[File]] = {}
    for file in source.files:
        by_class.setdefault(file.label, []).append(file)
    kept: list[File] = []
    for label, files in by_class.items():
        if len(files) < 2:
            raise UserError(
                f"{source.folder / source.classes[label]}: holds one file, and --holdout needs two in each "
                "class, one to train on and one to hold out. Add images, or move the folder away"
            )
        order = sorted(files, key=lambda file: (seed64(seed, "holdout", file.stem), file.order))
        count = min(max(round(holdout * len(files)), 1), len(files) - 1)
        kept.extend(order[count:] if split == "train" else order[:count])
    return replace(source, files=tuple(sorted(kept, key=lambda file: file.order)))


def none_lost(source: Source, met: Mapping[str, str]) -> Source:
    """Return a source in which every class that was met has a file; `met` says where each was met first.

    Raises UserError for a class whose files are all rejected.
    """
    there = {file.label for file in source.files}
    lost = [name for label, name in enumerate(source.classes) if name in met and label not in there]
    if lost:
        raise UserError(
            f"{met[lost[0]]}: none of the files of class {lost[0]} can be taken ({len(lost)} such classes). Put them "
            "right, or take the class out"
        )
    return source


def difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Return in words how two lists of names differ."""
    more, fewer = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    parts = [
        f"{len(names)} {what}, such as {names[0]}" for names, what in ((more, "more"), (fewer, "missing")) if names
    ]
    return " and ".join(parts)


def labels_of(classes: tuple[str, ...]) -> dict[str, int]:
    """Return the label of each class's name."""
    return {name: label for label, name in enumerate(classes)}
