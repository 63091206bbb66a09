"""The record of a finished shard: a killed pack resumes from the records, and the manifest is built from them.

Each record is an .npz file in the folder ``OUT/.<split>-pack``, which is removed once the manifest is written.
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

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Options, Rejected
from alexnet_dist.pack.pixel_sums import PixelSums
from alexnet_dist.pack.sources.listing import ImageFile
from alexnet_dist.system.files import replace_file


@dataclass(frozen=True)
class ShardJob:
    """What a process needs to write one shard: `files` are the candidates from `first` on in the shuffled order.

    counts: for `moving_bar.note_done`.
    """

    out: Path
    split: SplitName
    number: int
    folder: Path
    first: int
    files: tuple[ImageFile, ...]
    options: Options
    counts: Path | None = None

    @property
    def needs_sums(self) -> bool:
        """Whether to sum the pixels: for the training split, unless its images are spooled and already summed."""
        return self.split == "train" and not any(file.spooled_bytes is not None for file in self.files)

    @property
    def name(self) -> str:
        """The file name of the shard."""
        return f"{self.split}-{self.number:06d}.tar"

    @property
    def record_path(self) -> Path:
        """The path of the shard's record."""
        return records_folder(self.out, self.split) / f"shard-{self.number:06d}.npz"


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard; `index` has manifest.INDEX_DTYPE; `sums` is None except for the training split.

    A shard whose candidates were all rejected has zero images and no tar file.
    """

    images: int
    size_bytes: int
    sha256: str
    rejected: tuple[Rejected, ...]
    index: npt.NDArray[np.void]
    sums: PixelSums | None


def records_folder(out: Path, split: SplitName) -> Path:
    """Return the folder that holds the records of an unfinished split."""
    return out / f".{split}-pack"


def how_to_start_over(out: Path, split: SplitName) -> str:
    """Return the advice, for a message, on what to delete to pack a split from the start."""
    return f"delete {out}/{split}-*.tar, {out}/{split}.* and {records_folder(out, split)}"


def save_record(record: ShardRecord, path: Path) -> None:
    """Write a record durably, whole or not at all."""
    about = {
        "images": record.images,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "rejected": [[rejected.file, rejected.reason] for rejected in record.rejected],
    }
    pixels, products = np.empty(0, np.int32), np.empty(0, np.int64)
    if record.sums is not None:
        # A shard's pixel sums fit into int32, which halves the size of the record.
        pixels, products = record.sums.pixels.astype(np.int32), record.sums.products
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(content, about=text, index=record.index, pixels=pixels, products=products)
    replace_file(path, content.getvalue())


def load_record(path: Path) -> ShardRecord | None:
    """Read a record; None if it is missing or damaged, and its shard must be written again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            index = arrays["index"]
            pixels, products = arrays["pixels"], arrays["products"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    sums = PixelSums(about["images"], pixels.astype(np.int64), products) if pixels.size else None
    rejected = tuple(Rejected(file, reason) for file, reason in about["rejected"])
    return ShardRecord(about["images"], about["size_bytes"], about["sha256"], rejected, index, sums)


def load_finished(job: ShardJob) -> ShardRecord | None:
    """Return the record of a shard that is complete and unchanged; None if the shard must be written."""
    record = load_record(job.record_path)
    path = job.out / job.name
    if record is None or record.images == 0:
        return record
    if not path.is_file() or path.stat().st_size != record.size_bytes:
        return None
    with path.open("rb") as file:
        unchanged = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    return record if unchanged else None
