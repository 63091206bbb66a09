"""Writes one shard in one process: a fixed slice of the shuffled order, as a WebDataset tar.

The keys of a shard's members are positions in the order of all candidates, so they do not depend on what other shards
reject; a rejected candidate leaves a gap. A sample's id, which counts the packed images only, has no gaps.
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
from alexnet_dist.pack.accumulator import PixelAccumulator
from alexnet_dist.pack.moving_bar import note_done
from alexnet_dist.pack.records import ShardJob, ShardRecord, how_to_start_over, load_finished, save_record
from alexnet_dist.pack.sources.listing import LARGEST_FILE_BYTES, TOO_LARGE, ImageFile
from alexnet_dist.system.files import open_new, sync_folder, temporary_of

TAR_BLOCK_BYTES = 512
# A source may have thousands of tars, and a process may open 1024 files by default.
MAX_OPEN_ARCHIVES = 256


class ShardResult(NamedTuple):
    """What a process returns for a shard; `written` is False if an earlier run had finished the shard."""

    images: int
    rejected: tuple[Rejected, ...]
    written: bool


def write_shard(job: ShardJob) -> ShardResult:
    """Write a shard and then its record, unless both are complete.

    Raises UserError for a file of the source that cannot be read, and OSError for an OUT that cannot be written.
    """
    record = load_finished(job)
    if record is not None:
        return ShardResult(record.images, record.rejected, written=False)
    temporary = temporary_of(job.record_path.with_suffix(".tar"))
    with one_thread():
        record = _write_tar(job, temporary)
    if record.images:
        temporary.replace(job.out / job.name)
        sync_folder(job.out)
    else:
        temporary.unlink()
    save_record(record, job.record_path)
    return ShardResult(record.images, record.rejected, written=True)


class _HashingFile:
    """Hashes what is written, so that the shard need not be read again; discards it if `discarding` is set."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.discarding = False

    def write(self, data: bytes) -> int:
        if self.discarding:
            return len(data)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)


@contextmanager
def _open_tar(file: BinaryIO) -> Iterator[tuple[_HashingFile, TarWriter]]:
    """Start a tar in an open file; the caller closes the writer once it is complete."""
    hashing = _HashingFile(file)
    try:
        # Without an encoder TarWriter takes bytes as they are; its defaults would write the time and another owner.
        yield hashing, TarWriter(hashing, user="root", group="root", mode=0o644, mtime=0, encoder=False)
    except BaseException:
        # The tar writes what it has buffered when it is garbage-collected, and the file is closed by then.
        hashing.discarding = True
        raise


def _write_tar(job: ShardJob, path: Path) -> ShardRecord:
    """Write a job's tar file to `path`, durably."""
    rows: list[tuple[int, int, int, int]] = []
    rejected: list[Rejected] = []
    accumulator = PixelAccumulator(job.options.size) if job.needs_sums else None
    with (
        open_new(path) as file,
        _open_tar(file) as (hashing, writer),
        closing(_FileReader(job.folder, how_to_start_over(job.out, job.split))) as reader,
    ):
        for position, candidate in enumerate(job.files, start=job.first):
            note_done(job.counts, job.number, position - job.first)
            try:
                jpeg = _training_jpeg(candidate, reader, job.options, accumulator)
            except UnusableImageError as error:
                rejected.append(Rejected(candidate.name, str(error)))
                continue
            writer.write({"__key__": f"{position:08d}", "cls": str(candidate.label).encode(), "jpg": jpeg})
            # TarWriter sorts a sample's members by name: the JPEG is the last, and ends where the next header begins.
            offset = writer.tarstream.offset - -(-len(jpeg) // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
            rows.append((offset, len(jpeg), candidate.label, crc32(jpeg)))
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    return ShardRecord(
        images=len(rows),
        size_bytes=hashing.size_bytes,
        sha256=hashing.sha256.hexdigest(),
        rejected=tuple(rejected),
        index=np.array(rows, dtype=INDEX_DTYPE),
        sums=None if accumulator is None else accumulator.sums(),
    )


def _training_jpeg(
    candidate: ImageFile, reader: _FileReader, options: Options, accumulator: PixelAccumulator | None
) -> bytes:
    """Return a candidate's training JPEG, and add its pixels to `accumulator`; raises UnusableImageError."""
    if candidate.reason is not None:
        raise UnusableImageError(candidate.reason)
    if candidate.size_bytes > LARGEST_FILE_BYTES:
        raise UnusableImageError(TOO_LARGE)
    data = reader.read(candidate)
    if candidate.spooled_bytes is not None:
        return data
    jpeg, pixels = training_image(data, options)
    if accumulator is not None:
        accumulator.add(pixels)
    return jpeg


class _FileReader:
    """Reads candidates; keeps the last archives open, because a shard may read a thousand images from one."""

    def __init__(self, folder: Path, start_over: str) -> None:
        self._folder, self._start_over = folder, start_over
        self._archives: dict[str, int] = {}

    def read(self, file: ImageFile) -> bytes:
        """Return a candidate's bytes; raises UserError if the read fails, which may be temporary."""
        size_bytes = file.size_bytes if file.spooled_bytes is None else file.spooled_bytes
        path = self._folder / file.path
        try:
            if file.offset is None:
                data = path.read_bytes()
            else:
                if file.path not in self._archives:
                    if len(self._archives) >= MAX_OPEN_ARCHIVES:
                        os.close(self._archives.pop(next(iter(self._archives))))
                    self._archives[file.path] = os.open(path, os.O_RDONLY)
                data = os.pread(self._archives[file.path], size_bytes, file.offset)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read: {error.strerror}. If the error may be temporary, rerun the command, which "
                f"keeps finished shards; otherwise repair or remove the file, and start over: {self._start_over}"
            ) from None
        if len(data) != size_bytes:
            raise UserError(
                f"{path}: changed while it was packed: {file.name} has {len(data)} bytes, not {size_bytes}. Once it "
                f"no longer changes, start over: {self._start_over}"
            )
        return data

    def close(self) -> None:
        """Close the archives."""
        for descriptor in self._archives.values():
            os.close(descriptor)
