"""One shard, made by one process: a fixed slice of the order, as a WebDataset tar.

The keys of its members are places in the order of all candidates, so that they do not depend on what other shards
reject; a rejected candidate leaves a gap in them. A sample's id, its place in the manifest's count, has no gaps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from isal.isal_zlib import crc32
from webdataset.writer import TarWriter

from alexnet_dist.data.manifest import INDEX_DTYPE, Options, Rejected
from alexnet_dist.data.transform import UnusableImageError, one_thread, training_image
from alexnet_dist.errors import UserError
from alexnet_dist.files import sync_folder
from alexnet_dist.pack.adder import Adder
from alexnet_dist.pack.records import Job, Record, finished, save_record
from alexnet_dist.pack.sources.source import LARGEST_FILE_BYTES, TOO_LARGE, File
from alexnet_dist.pack.state import start_over

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
    with one_thread():
        record = _write(job, temporary)
    if record.images:
        temporary.replace(job.out / job.name)
        sync_folder(job.out)
    else:
        temporary.unlink()
    save_record(record, job.record_path)
    return Done(record.images, record.rejected, made=True)


class _HashingFile:
    """Hashes what is written, so that the shard need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.given_up = False

    def write(self, data: bytes) -> int:
        if self.given_up:
            return len(data)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)


@contextmanager
def _tar(file: BinaryIO) -> Iterator[tuple[_HashingFile, TarWriter]]:
    """Begin a tar in an open file; the caller closes the writer once it is complete."""
    hashing = _HashingFile(file)
    try:
        # Without an encoder TarWriter takes bytes as they are; its defaults would write the time and another owner.
        yield hashing, TarWriter(hashing, user="root", group="root", mode=0o644, mtime=0, encoder=False)
    except BaseException:
        # What the tar still holds back would be written when it is collected, into a file that is closed by then.
        hashing.given_up = True
        raise


def _write(job: Job, path: Path) -> Record:
    """Write a job's tar file to `path`, durably."""
    rows: list[tuple[int, int, int, int]] = []
    rejected: list[Rejected] = []
    adder = Adder(job.options.size) if job.adds_up else None
    with (
        path.open("wb") as file,
        _tar(file) as (hashing, writer),
        closing(_Reader(job.folder, start_over(job))) as reader,
    ):
        for place, candidate in enumerate(job.files, start=job.first):
            try:
                jpeg = _jpeg(candidate, reader, job.options, adder)
            except UnusableImageError as error:
                rejected.append(Rejected(candidate.name, str(error)))
                continue
            writer.write({"__key__": f"{place:08d}", "cls": str(candidate.label).encode(), "jpg": jpeg})
            # A sample's members are sorted by name, so the jpeg is the last and ends where the next header begins.
            offset = writer.tarstream.offset - -(-len(jpeg) // TAR_BLOCK) * TAR_BLOCK
            rows.append((offset, len(jpeg), candidate.label, crc32(jpeg)))
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


def _jpeg(candidate: File, reader: _Reader, options: Options, adder: Adder | None) -> bytes:
    """Return a candidate's training JPEG, and add its pixels up; raises UnusableImageError."""
    if candidate.reason is not None:
        raise UnusableImageError(candidate.reason)
    if candidate.size_bytes > LARGEST_FILE_BYTES:
        raise UnusableImageError(TOO_LARGE)
    data = reader.read(candidate)
    if candidate.spooled_bytes is not None:
        return data
    jpeg, pixels = training_image(data, options)
    if adder is not None:
        adder.add(pixels)
    return jpeg


class _Reader:
    """Reads candidates whole; archives stay open, for a shard reads a thousand images from one."""

    def __init__(self, folder: Path, start_over: str) -> None:
        self._folder, self._start_over = folder, start_over
        self._archives: dict[str, int] = {}

    def read(self, file: File) -> bytes:
        """Return a candidate's bytes; a failing read stops the work, for it may succeed the next time."""
        size_bytes = file.size_bytes if file.spooled_bytes is None else file.spooled_bytes
        path = self._folder / file.path
        try:
            if file.offset is None:
                data = path.read_bytes()
            else:
                if file.path not in self._archives:
                    self._archives[file.path] = os.open(path, os.O_RDONLY)
                data = os.pread(self._archives[file.path], size_bytes, file.offset)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read: {error.strerror}. Start again if that may pass, and finished shards are "
                f"kept; or repair it or remove it, and start over: {self._start_over}"
            ) from None
        if len(data) != size_bytes:
            raise UserError(
                f"{path}: changed while it was packed: {file.name} has {len(data)} bytes, not {size_bytes}. Once it is "
                f"at rest, start over: {self._start_over}"
            )
        return data

    def close(self) -> None:
        """Close the archives."""
        for descriptor in self._archives.values():
            os.close(descriptor)
