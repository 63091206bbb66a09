"""Reads one container of a stream in one process and converts its images to training JPEGs as they come."""

from __future__ import annotations

import os
import time
from typing import BinaryIO

from alexnet_dist.data.manifest import Options, Rejected
from alexnet_dist.data.transform import UnusableImageError, one_thread, training_image
from alexnet_dist.pack import spool
from alexnet_dist.pack.accumulator import PixelAccumulator
from alexnet_dist.pack.sources.huggingface import read_container
from alexnet_dist.pack.sources.listing import LARGEST_FILE_BYTES, TOO_LARGE
from alexnet_dist.pack.sources.stream_image import StreamImage
from alexnet_dist.pack.spool import ContainerJob, ContainerRecord, SpooledImage
from alexnet_dist.system.files import open_new, sync_folder, temporary_of

PROGRESS_S = 0.5  # between two notes of how many bytes of a container have been read


def spool_container(job: ContainerJob) -> int:
    """Read a container and write its JPEGs and then its record, unless both are complete; return its image count.

    Raises UserError for a damaged container, and OSError for a disk that cannot be written.
    """
    record = spool.load_record(job)
    if record is not None:
        return len(record.images)
    temporary = temporary_of(job.file(".bin"))
    images: list[SpooledImage] = []
    rejected: list[Rejected] = []
    accumulator = PixelAccumulator(job.options.size) if job.needs_sums else None
    noted_s = 0.0
    with one_thread(), open_new(temporary) as file:
        for image in read_container(job.path, job.layout, job.columns):
            if image.problem is not None and not image.class_name:
                rejected.append(Rejected(image.name, image.problem))
                continue
            offset = file.tell()
            reason = _write_jpeg(image, job.options, file, accumulator)
            jpeg_bytes = file.tell() - offset
            images.append(SpooledImage(image.name, image.class_name, image.size_bytes, offset, jpeg_bytes, reason))
            if time.monotonic() - noted_s > PROGRESS_S:
                job.file(".at").write_text(str(image.container_read_bytes))
                noted_s = time.monotonic()
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(job.file(".bin"))
    sync_folder(job.folder)
    sums = None if accumulator is None else accumulator.sums()
    spool.save_record(job, ContainerRecord(images, tuple(rejected), sums))
    return len(images)


def _write_jpeg(
    image: StreamImage, options: Options, file: BinaryIO, accumulator: PixelAccumulator | None
) -> str | None:
    """Write an image's training JPEG to `file`; return the reason if it is rejected, or None."""
    if image.problem is not None:
        # Listed with its class, so that a class of such images alone does not disappear.
        return image.problem
    if image.size_bytes > LARGEST_FILE_BYTES:
        return TOO_LARGE
    try:
        jpeg, pixels = training_image(image.data, options)
    except UnusableImageError as error:
        return str(error)
    file.write(jpeg)
    if accumulator is not None:
        accumulator.add(pixels)
    return None
