"""The first stage of packing a stream: each container is read once, and its training JPEGs are spooled to disk.

Shards hold images in shuffled order, but a stream yields them in the order of its containers. So each container's
images are converted to training JPEGs as they are read, into ``OUT/.<split>-pack/spool-00000.bin``, a fifth of their
size. The shards are then written from these files as from any other source. A container's record is written last.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_dist.data.manifest import Options, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.pixel_sums import PixelSums
from alexnet_dist.pack.sources.classes import (
    class_labels,
    describe_difference,
    is_number,
    matching_classes,
    sorted_classes,
)
from alexnet_dist.pack.sources.devkit import WORDNET_ID
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.pack.sources.huggingface import unused_classes
from alexnet_dist.pack.sources.listing import Container, ImageFile, ImageSource, StreamSource, build_source
from alexnet_dist.system.files import replace_file


@dataclass(frozen=True)
class ContainerJob:
    """What a process needs to read one container; `folder` holds the records of the unfinished split."""

    source: Path
    layout: str
    container: Container
    number: int
    folder: Path
    options: Options
    needs_sums: bool
    columns: SampleFields = DETECTED

    @property
    def path(self) -> Path:
        """The path of the container."""
        return self.source / self.container.path

    def file(self, suffix: str) -> Path:
        """Return the path of a file of the job: .bin its JPEGs, .npz its record, .at how many bytes have been read."""
        return self.folder / f"spool-{self.number:05d}{suffix}"


class SpooledImage(NamedTuple):
    """An image of a container: its size there, and its JPEG's range in the .bin file, empty if it was rejected."""

    name: str
    class_name: str
    size_bytes: int
    offset: int
    jpeg_bytes: int
    reason: str | None

    @property
    def end(self) -> int:
        """The first byte after its JPEG."""
        return self.offset + self.jpeg_bytes


@dataclass(frozen=True)
class ContainerRecord:
    """A container that has been read; `rejected` are its entries that cannot be images."""

    images: list[SpooledImage]
    rejected: tuple[Rejected, ...]
    sums: PixelSums | None


def container_jobs(stream: StreamSource, folder: Path, options: Options, needs_sums: bool) -> list[ContainerJob]:
    """Return the jobs that read a stream; needs_sums: whether to sum the pixels."""
    return [
        ContainerJob(stream.folder, stream.layout, container, number, folder, options, needs_sums, stream.columns)
        for number, container in enumerate(stream.containers)
    ]


def progress_bytes(job: ContainerJob) -> int:
    """Return how many bytes of a container have been read, as last noted by its process."""
    if job.file(".npz").exists():
        return job.container.size_bytes
    try:
        return int(job.file(".at").read_text() or 0)
    except (OSError, ValueError):
        return 0


def save_record(job: ContainerJob, record: ContainerRecord) -> None:
    """Write the record of a container that has been read, durably."""
    about = {"rows": record.images, "rejected": [[rejected.file, rejected.reason] for rejected in record.rejected]}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    sums = record.sums or PixelSums(0, np.empty(0, np.int64), np.empty(0, np.int64))
    content = io.BytesIO()
    np.savez(content, about=text, pixels=sums.pixels, products=sums.products)
    replace_file(job.file(".npz"), content.getvalue())


def load_record(job: ContainerJob) -> ContainerRecord | None:
    """Return the record of a container; None if the container must be read."""
    try:
        with np.load(io.BytesIO(job.file(".npz").read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            images = [SpooledImage(*row) for row in about["rows"]]
            sums = None
            if job.needs_sums:
                usable = sum(image.reason is None for image in images)
                sums = PixelSums(usable, arrays["pixels"], arrays["products"])
        complete = job.file(".bin").stat().st_size == (images[-1].end if images else 0)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return ContainerRecord(images, tuple(Rejected(*row) for row in about["rejected"]), sums) if complete else None


def gather(
    stream: StreamSource, jobs: Sequence[ContainerJob], train_classes: tuple[str, ...] | None
) -> tuple[ImageSource, PixelSums | None]:
    """Return the images of all containers, as a source whose files are in the spool, and the sums of their pixels.

    train_classes: of the packed training split; None if it is not packed. Raises UserError for other classes.
    """
    records = [(job, load_record(job)) for job in jobs]
    names = {image.class_name for _, record in records if record is not None for image in record.images}
    classes = train_classes or sorted_classes(names)
    class_of = _classes_of_names(stream, names, classes)
    labels = class_labels(classes)
    files: list[ImageFile] = []
    rejected = list(stream.rejected)
    sums: PixelSums | None = None
    for job, record in records:
        if record is None:
            raise RuntimeError(f"{job.file('.npz')}: was just written and cannot be read")
        rejected.extend(record.rejected)
        path = job.file(".bin").name
        for image in record.images:
            class_name = class_of[image.class_name]
            files.append(
                ImageFile(
                    f"{class_name}/{image.name.partition('/')[2]}",
                    labels[class_name],
                    image.size_bytes,
                    path,
                    image.offset,
                    image.reason,
                    image.jpeg_bytes,
                )
            )
        if record.sums is not None:
            sums = record.sums if sums is None else sums + record.sums
    source = build_source(
        jobs[0].folder,
        classes,
        files,
        rejected,
        containers_sha256=stream.id.containers,
        notes=unused_classes(stream, names) if train_classes is None else (),
        missing=stream.missing,
    )
    return source, sums


def _classes_of_names(stream: StreamSource, names: set[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Return the class of each name: the one called so, or the same number with leading zeros; raises UserError."""
    ids = [name for name in names if WORDNET_ID.fullmatch(name)]
    if 0 < len(ids) < len(names) and stream.columns.label is None:
        raise UserError(
            f"{stream.folder}: some images have a WordNet id in their name, such as {min(ids)}, and others are of "
            f"{min(names - set(ids))}: one class could have two names. Add --label-column label to take the labels"
        )
    try:
        class_of = matching_classes(names, classes)
    except UserError as error:
        raise UserError(f"{stream.folder}: {error}") from None
    if len(class_of) < len(names):
        difference = describe_difference(tuple(names), classes)
        unnamed = "; its labels are numbers that nothing in its files names" if all(map(is_number, names)) else ""
        raise UserError(f"{stream.folder}: not the classes of the packed train split: {difference}{unnamed}")
    return class_of
