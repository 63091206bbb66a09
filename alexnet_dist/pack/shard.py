"""One shard, made by one process: a fixed slice of the order, as a WebDataset tar.

The keys of its members are places in the order of all candidates, so that they do not depend on what other shards
reject; a rejected candidate leaves a gap in them. A sample's id, its place in the manifest's count, has no gaps.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from webdataset.writer import TarWriter

from alexnet_dist.data.files import sync_folder
from alexnet_dist.data.manifest import INDEX_DTYPE, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.records import Job, Record, finished, save_record
from alexnet_dist.pack.sources import File
from alexnet_dist.pack.sums import Sums
from alexnet_dist.pack.transform import LARGEST_FILE_BYTES, Pixels, UnusableImageError, training_image

TAR_BLOCK = 512


class Done(NamedTuple):
    """What a process tells of a shard; `made` is False where an earlier run had finished it."""

    images: int
    rejected: tuple[Rejected, ...]
    made: bool


def finish_shard(job: Job) -> Done:
    """Make a shard and its record, unless both are there; the record is written last.

    Raises UserError for a file of the source that cannot be read, and OSError for an OUT that cannot be written.
    """
    record = finished(job)
    if record is not None:
        return Done(record.images, record.rejected, made=False)
    temporary = job.record_path.with_suffix(".tar.tmp")
    with _one_thread():
        record = _write(job, temporary)
    if record.images:
        temporary.replace(job.out / job.name)
        sync_folder(job.out)
    else:
        temporary.unlink()
    save_record(record, job.record_path)
    return Done(record.images, record.rejected, made=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: every core has a shard of its own, and a second thread only waits on the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _HashingFile:
    """Hashes what is written, so that the shard need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)


class _Adder:
    """Adds up the pixels of a shard's images, exactly."""

    def __init__(self, size: int) -> None:
        self._images = 0
        # int32 holds 8.4 million images, more than a shard may have, and is twice as fast as int64.
        self._pixels = torch.zeros(size, size, 3, dtype=torch.int32)
        self._products = torch.zeros(3, 3, dtype=torch.int64)

    def add(self, pixels: Pixels) -> None:
        image = torch.from_numpy(pixels)
        self._images += 1
        self._pixels += image
        # float64 is exact here: sums of products of bytes are integers below 2**53 for images up to 10**11 pixels.
        planes = image.permute(2, 0, 1).reshape(3, -1).double()
        self._products += (planes @ planes.T).long()

    def sums(self) -> Sums:
        return Sums(self._images, self._pixels.numpy().astype(np.int64), self._products.numpy())


def _write(job: Job, path: Path) -> Record:
    """Write a job's tar file to `path`, durably."""
    size, quality = job.options.size, job.options.quality
    rows: list[tuple[int, int, int, int]] = []
    rejected: list[Rejected] = []
    adder = _Adder(size) if job.split == "train" else None
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        # Without an encoder TarWriter takes bytes as they are; its defaults would write the time and another owner.
        writer = TarWriter(hashing, user="root", group="root", mode=0o644, mtime=0, encoder=False)
        for place, candidate in enumerate(job.files, start=job.first):
            try:
                jpeg, pixels = training_image(_read(job.folder, candidate), size, quality)
            except UnusableImageError as error:
                rejected.append(Rejected(candidate.name, str(error)))
                continue
            writer.write({"__key__": f"{place:08d}", "cls": str(candidate.label).encode(), "jpg": jpeg})
            # A sample's members are sorted by name, so the jpeg is the last and ends where the next header begins.
            offset = writer.tarstream.offset - -(-len(jpeg) // TAR_BLOCK) * TAR_BLOCK
            rows.append((offset, len(jpeg), candidate.label, zlib.crc32(jpeg)))
            if adder is not None:
                adder.add(pixels)
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    return Record(
        images=len(rows),
        size_bytes=hashing.size_bytes,
        sha256=hashing.sha256.hexdigest(),
        rejected=tuple(rejected),
        index=np.array(rows, dtype=INDEX_DTYPE),
        sums=None if adder is None else adder.sums(),
    )


def _read(folder: Path, candidate: File) -> bytes:
    """Read a candidate whole; a file that fails to be read stops the work, for it may be there the next time."""
    if candidate.size_bytes > LARGEST_FILE_BYTES:
        raise UnusableImageError(f"a file of more than {LARGEST_FILE_BYTES >> 20} MiB")
    path = folder / candidate.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Repair it or remove it, then start again") from None
    if len(data) != candidate.size_bytes:
        raise UserError(f"{path}: changed while it was packed, from {candidate.size_bytes} to {len(data)} bytes")
    return data
