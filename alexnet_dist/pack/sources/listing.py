"""The listing of a split: its files, their labels, and where their bytes are.

In every layout a file is named ``class/file``, and files are sorted by that name without its extension. So the same
images give the same shards from class folders, tars, parquet files or other shards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected, SourceId
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.system.rng import seed64

LARGEST_FILE_BYTES = 1 << 29

# Reasons for a rejection that several layouts give; the manifest stores them.
TOO_LARGE = f"a file of more than {LARGEST_FILE_BYTES >> 20} MiB"
NOT_UTF8 = "its name is not UTF-8"
NOT_REGULAR = "not a regular file"


class ImageFile(NamedTuple):
    """A file that may be an image.

    name: ``class/file``. path: of the file or archive with its bytes, relative to the source's folder.
    offset: of its first byte in an archive; None for a separate file. reason: why it is not an image, if already
    known. spooled_bytes: size of its finished JPEG, if `path` is a spool file.
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
        """The name without its extension, which differs between the layouts of one set."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - called a million times; pathlib is ten times slower

    @property
    def sort_key(self) -> tuple[str | int, ...]:
        """The stem, then all other fields, with a value that compares instead of None."""
        offset, spooled_bytes = (-1 if value is None else value for value in (self.offset, self.spooled_bytes))
        return (self.stem, *self[:4], offset, self.reason or "", spooled_bytes)


@dataclass(frozen=True)
class ImageSource:
    """A split whose files are listed, sorted by name; a label is an index into `classes`.

    rejected: entries that cannot be images. descriptions: of the classes that the source describes. seen: how many
    entries the source has; each is in `files`, in `rejected`, or counted in `ignored`, by the rule that excludes it.
    notes: what the user should know about how the source was read. missing: parts that the source names and lacks.
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    rejected: tuple[Rejected, ...]
    id: SourceId
    descriptions: Mapping[str, str] = field(default_factory=dict)
    seen: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Container(NamedTuple):
    """A file of a source whose images can only be read one after another."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class StreamSource:
    """A split in containers that are read sequentially: their images are known only after reading all of it.

    layout: the format of the containers. notes, missing: as in ImageSource. columns: of the images and labels.
    rejected: files of the format whose names have no split.
    """

    folder: Path
    layout: str
    containers: tuple[Container, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    columns: SampleFields = DETECTED
    rejected: tuple[Rejected, ...] = ()

    @property
    def id(self) -> SourceId:
        """The identity of the source, from the containers' names and sizes, which are known before reading."""
        digest = hashlib.sha256()
        if self.columns != DETECTED:
            digest.update(os.fsencode(f"columns\0{self.columns.image}\0{self.columns.label}\n"))
        for container in self.containers:
            digest.update(os.fsencode(f"{Path(container.path).name}\0{container.size_bytes}\n"))
        return SourceId(len(self.containers), digest.hexdigest(), digest.hexdigest())


def build_source(
    folder: Path,
    classes: tuple[str, ...],
    files: Iterable[ImageFile],
    rejected: Iterable[Rejected],
    descriptions: Mapping[str, str] | None = None,
    containers_sha256: str | None = None,
    seen: int | None = None,
    ignored: Mapping[str, int] | None = None,
    *,
    notes: Iterable[str] = (),
    missing: Iterable[str] = (),
) -> ImageSource:
    """Return a source of these files, sorted; raises UserError if there are none.

    seen: how many entries the source has; by default those in `files`, `rejected` and `ignored`.
    """
    ordered = tuple(sorted(files, key=lambda file: file.sort_key))
    digest = hashlib.sha256()
    for file in ordered:
        digest.update(f"{file.name}\0{file.label}\0{file.size_bytes}\n".encode())
    if not ordered:
        raise UserError(f"{folder}: holds no image files of this split")
    source_id = SourceId(len(ordered), digest.hexdigest(), containers_sha256)
    left_out, ignored = tuple(rejected), ignored or {}
    counted = len(ordered) + len(left_out) + sum(ignored.values())
    return ImageSource(
        folder=folder,
        classes=classes,
        files=ordered,
        rejected=left_out,
        id=source_id,
        descriptions=descriptions or {},
        seen=counted if seen is None else seen,
        ignored={rule: count for rule, count in ignored.items() if count},
        notes=tuple(notes),
        missing=tuple(missing),
    )


def apply_holdout(source: ImageSource, split: SplitName, holdout: float, seed: int) -> ImageSource:
    """Keep one side of a holdout: in each class, the first files in a seeded order of the names are held out.

    holdout: the fraction of each class. Raises UserError for a class of one file.
    """
    by_class: dict[int, list[ImageFile]] = {}
    for file in source.files:
        by_class.setdefault(file.label, []).append(file)
    kept: list[ImageFile] = []
    for label, files in by_class.items():
        if len(files) < 2:
            raise UserError(
                f"{source.folder / source.classes[label]}: holds one file, and --holdout needs two in each "
                "class, one to train on and one to hold out. Add images, or remove the class"
            )
        order = sorted(files, key=lambda file: (seed64(seed, "holdout", file.stem), file.sort_key))
        count = min(max(round(holdout * len(files)), 1), len(files) - 1)
        kept.extend(order[count:] if split == "train" else order[:count])
    other_split = "val" if split == "train" else "train"
    ignored = {**source.ignored, f"images of the {other_split} side of the holdout": len(source.files) - len(kept)}
    return replace(source, files=tuple(sorted(kept, key=lambda file: file.sort_key)), ignored=ignored)
