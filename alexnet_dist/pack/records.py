"""The record of a finished shard, from which a killed run goes on, and from which the manifest is made at the end.

It is one .npz file a shard in the folder ``OUT/.<split>-pack``, which is removed when the manifest is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_dist.data.manifest import Options, Rejected, SplitName
from alexnet_dist.files import replace_file
from alexnet_dist.pack.sources.source import File
from alexnet_dist.pack.sums import Sums


@dataclass(frozen=True)
class Job:
    """What one process needs to make one shard: `files` are the candidates from place `first` of the order on."""

    out: Path
    split: SplitName
    number: int
    folder: Path
    first: int
    files: tuple[File, ...]
    options: Options

    @property
    def adds_up(self) -> bool:
        """Whether the pixels' sums are wanted: of the training split, unless a spool has them already."""
        return self.split == "train" and not any(file.spooled_bytes is not None for file in self.files)

    @property
    def name(self) -> str:
        """The file name of the shard."""
        return f"{self.split}-{self.number:06d}.tar"

    @property
    def record_path(self) -> Path:
        """Where the shard's record lies."""
        return records_folder(self.out, self.split) / f"shard-{self.number:06d}.npz"


@dataclass(frozen=True)
class Record:
    """A finished shard; `index` has manifest.INDEX_DTYPE; `sums` are of the training split only.

    A shard all of whose candidates were rejected has zero images, and no file.
    """

    images: int
    size_bytes: int
    sha256: str
    rejected: tuple[Rejected, ...]
    index: npt.NDArray[np.void]
    sums: Sums | None


def records_folder(out: Path, split: SplitName) -> Path:
    """Return the folder that holds the records of an unfinished split."""
    return out / f".{split}-pack"


def save_record(record: Record, path: Path) -> None:
    """Write a record, durably and whole or not at all."""
    about = {
        "images": record.images,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "rejected": [[rejected.file, rejected.reason] for rejected in record.rejected],
    }
    pixels, products = np.empty(0, np.int32), np.empty(0, np.int64)
    if record.sums is not None:
        # A shard's sums fit into int32, which halves what lies on the disk until the manifest is written.
        pixels, products = record.sums.pixels.astype(np.int32), record.sums.products
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(content, about=text, index=record.index, pixels=pixels, products=products)
    replace_file(path, content.getvalue())


def load_record(path: Path) -> Record | None:
    """Read a record; None where there is none, or a damaged one, whose shard is then made again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            index = arrays["index"]
            pixels, products = arrays["pixels"], arrays["products"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    sums = Sums(about["images"], pixels.astype(np.int64), products) if pixels.size else None
    rejected = tuple(Rejected(file, reason) for file, reason in about["rejected"])
    return Record(about["images"], about["size_bytes"], about["sha256"], rejected, index, sums)


def finished(job: Job) -> Record | None:
    """Return the record of a shard that is already there, whole and unchanged; None where it must be made."""
    record = load_record(job.record_path)
    path = job.out / job.name
    if record is None or record.images == 0:
        return record
    if not path.is_file() or path.stat().st_size != record.size_bytes:
        return None
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    return record if same else None
