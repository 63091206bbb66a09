"""The first half of packing a stream: each container is read once, and its finished JPEGs wait on the disk.

Shards hold images in a shuffled order, and a stream gives them in its own. So the images of each container are made
into training JPEGs as they come, into ``OUT/.<split>-pack/spool-000.bin``, a fifth of their size; from there the shards
are put together as from any other source. A container is done once; its record is written last.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_dist.data.manifest import Options, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.files import replace_file
from alexnet_dist.pack.sources.source import Container, File, Source, Stream, difference, labels_of, listed
from alexnet_dist.pack.sums import Sums


@dataclass(frozen=True)
class Unit:
    """What one process needs to read one container; `folder` holds the records of the unfinished split."""

    source: Path
    kind: str
    container: Container
    number: int
    folder: Path
    options: Options
    adds_up: bool

    @property
    def path(self) -> Path:
        """The container."""
        return self.source / self.container.path

    def file(self, ending: str) -> Path:
        """Return where a file of the unit lies: its JPEGs .bin, its record .npz, the bytes read so far .at."""
        return self.folder / f"spool-{self.number:05d}{ending}"


@dataclass(frozen=True)
class Spooled:
    """A container that was read. `rows` are [name, class, size, offset of the JPEG, its size, reason or null] each."""

    rows: list[list[Any]]
    rejected: tuple[Rejected, ...]
    sums: Sums | None


def units_of(stream: Stream, folder: Path, options: Options, adds_up: bool) -> list[Unit]:
    """Return the work on a stream; adds_up: whether the pixels' sums are wanted."""
    return [
        Unit(stream.folder, stream.kind, container, number, folder, options, adds_up)
        for number, container in enumerate(stream.containers)
    ]


def progress_bytes(unit: Unit) -> int:
    """Return how much of a container has been read, as far as is known."""
    if unit.file(".npz").exists():
        return unit.container.size_bytes
    try:
        return int(unit.file(".at").read_text() or 0)
    except (OSError, ValueError):
        return 0


def save(unit: Unit, done: Spooled) -> None:
    """Write the record of a container that was read, durably."""
    about = {"rows": done.rows, "rejected": [[one.file, one.reason] for one in done.rejected]}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    sums = done.sums or Sums(0, np.empty(0, np.int64), np.empty(0, np.int64))
    content = io.BytesIO()
    np.savez(content, about=text, pixels=sums.pixels, products=sums.products)
    replace_file(unit.file(".npz"), content.getvalue())


def load(unit: Unit) -> Spooled | None:
    """Return what is there of a container; None where it must be read."""
    try:
        with np.load(io.BytesIO(unit.file(".npz").read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            sums = None
            if unit.adds_up:
                taken = sum(row[5] is None for row in about["rows"])
                sums = Sums(taken, arrays["pixels"], arrays["products"])
        end = about["rows"][-1][3] + about["rows"][-1][4] if about["rows"] else 0
        whole = unit.file(".bin").stat().st_size == end
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Spooled(about["rows"], tuple(Rejected(*one) for one in about["rejected"]), sums) if whole else None


def gather(stream: Stream, units: Sequence[Unit], train: tuple[str, ...] | None) -> tuple[Source, Sums | None]:
    """Return what all containers of a stream held, as a source whose files lie in the spool, and the pixels' sums.

    train: the classes of the packed training split, where there is one. Raises UserError for classes beyond them.
    """
    done = [(unit, load(unit)) for unit in units]
    found = {row[1] for _, spooled in done if spooled is not None for row in spooled.rows}
    classes = train or tuple(sorted(found))
    if not found <= set(classes):
        more = difference(tuple(found), classes)
        raise UserError(f"{stream.folder}: not the classes of the packed train split: {more}")
    labels = labels_of(classes)
    files: list[File] = []
    rejected: list[Rejected] = []
    sums: Sums | None = None
    for unit, spooled in done:
        if spooled is None:
            raise RuntimeError(f"{unit.file('.npz')}: was written a moment ago and cannot be read now")
        rejected.extend(spooled.rejected)
        path = unit.file(".bin").name
        files.extend(
            File(name, labels[kind], size, path, offset, reason, packed)
            for name, kind, size, offset, packed, reason in spooled.rows
        )
        if spooled.sums is not None:
            sums = spooled.sums if sums is None else sums + spooled.sums
    return listed(units[0].folder, classes, files, rejected, stream.words, stream.id.containers), sums
