"""Packs a split, from the listing of its source to its manifest.

The files of the split, sorted by name, are shuffled by a seed, and the shuffled order is divided into fixed slices,
one a shard. A shard depends on its slice alone, so any number of processes writes the same bytes. The manifest is
written last; until then ``OUT/.<split>-pack`` holds the settings and a record of each finished shard, from which the
same command resumes after it was killed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from alexnet_dist.data.choices import SPLITS
from alexnet_dist.data.manifest import Manifest
from alexnet_dist.errors import UserError
from alexnet_dist.pack import spool
from alexnet_dist.pack.assemble import assemble, list_reasons
from alexnet_dist.pack.disk_space import check_shard_space, check_spool_space
from alexnet_dist.pack.moving_bar import moving_bar, note_done
from alexnet_dist.pack.output_folder import (
    begin,
    check_classes,
    check_compatible,
    check_same,
    differences_from,
    load_if_packed,
    locked,
)
from alexnet_dist.pack.pixel_sums import PixelSums
from alexnet_dist.pack.pool import map_unordered, poll_unordered
from alexnet_dist.pack.records import ShardJob, how_to_start_over, records_folder
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.sources import layouts
from alexnet_dist.pack.sources.listing import ImageSource, StreamSource
from alexnet_dist.pack.sources.names import listed, split_of
from alexnet_dist.pack.spool import ContainerJob
from alexnet_dist.system.rng import permutation

if TYPE_CHECKING:
    from alexnet_dist.pack.shard import ShardResult

POLL_S = 0.5  # between two updates of the progress bar while containers are read


@dataclass(frozen=True)
class PackResult:
    """A packed split, and how many of its images this run packed."""

    manifest: Manifest
    new_images: int


def pack(request: PackRequest) -> PackResult:
    """Pack a split, resume an unfinished one, or find it already packed.

    Raises UserError for what the user can fix, and OSError for a folder that cannot be written.
    """
    options, split = request.options, request.split
    train = None if split == "train" else load_if_packed(request.out, "train")
    train_classes = None if train is None else tuple(described.name for described in train.classes)
    listing = layouts.list_split(
        request.source, request.layout, split, options.holdout, options.seed, train_classes, request.reading
    )
    _check_outside(request, listing)
    if listing.folder not in (request.source, request.source.parent):
        print(f"{split} is read from {listing.folder}", file=sys.stderr)
    _print_notes(listing.notes)
    # First without the lock, because a packed OUT may be read-only; then with it, because another pack may have ended.
    if (packed := _already_packed(request, listing)) is not None:
        return packed
    request.out.mkdir(parents=True, exist_ok=True)
    with locked(request.out):
        if (packed := _already_packed(request, listing)) is not None:
            return packed
        manifests = [load_if_packed(request.out, other) for other in SPLITS if other != split]
        others = [manifest for manifest in manifests if manifest is not None]
        for other in others:
            check_compatible(other, request, listing.id)
        _print_notes(note for other in others if (note := differences_from(other, request)) is not None)
        begin(request, listing.id)
        sums = None
        if isinstance(listing, StreamSource):
            source, sums = _spool(request, listing, train_classes)
            _print_notes(source.notes)
        else:
            source = listing
        for other in others:
            check_classes(other, request, source.classes)
        _print_notes(_absent_classes(request, source))
        jobs = shard_jobs(request, source)
        check_shard_space(request, sum(len(job.files) for job in jobs if not job.record_path.exists()))
        new_images = _write_shards(request, source, jobs)
        manifest = assemble(request, source, jobs, sums)
        shutil.rmtree(records_folder(request.out, split))
    return PackResult(manifest, new_images)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _absent_classes(request: PackRequest, source: ImageSource) -> list[str]:
    """Return a note about the classes that a split has no file of, if there are any."""
    present = {file.label for file in source.files}
    absent = [name for label, name in enumerate(source.classes) if label not in present]
    note = f"{request.source}: {request.split} has no images of {len(absent)} of the {len(source.classes)} classes"
    return [f"{note}: {listed(absent)}"] if absent else []


def _already_packed(request: PackRequest, listing: ImageSource | StreamSource) -> PackResult | None:
    packed = load_if_packed(request.out, request.split)
    if packed is None:
        return None
    check_same(packed, request, listing.id)
    shutil.rmtree(records_folder(request.out, request.split), ignore_errors=True)
    return PackResult(packed, new_images=0)


def _check_outside(request: PackRequest, listing: ImageSource | StreamSource) -> None:
    """Raise UserError if the files in OUT would be listed as images, or would overwrite the source's shards."""
    out, folder = request.out.resolve(), listing.folder.resolve()
    if out in (folder, request.source.resolve()):
        raise UserError(f"{request.out}: is the images' own folder. Pack into a folder outside it")
    if isinstance(listing, StreamSource) or not request.source.is_dir() or listing.files[0].offset is not None:
        return
    image_folders = [folder]
    if folder != request.source.resolve():
        # The source has a folder for each split, and the other splits are packed as well.
        source = request.source.resolve()
        image_folders += [path.resolve() for path in source.iterdir() if path.is_dir() and split_of(path.name)]
        below = out.relative_to(source).parts[:1] if out.is_relative_to(source) else ()
        image_folders += [source / name for name in below if split_of(name)]
    for images in image_folders:
        if out.is_relative_to(images):
            raise UserError(f"{request.out}: lies inside the images' folder {images}. Pack into a folder outside it")


def _spool(
    request: PackRequest, stream: StreamSource, train_classes: tuple[str, ...] | None
) -> tuple[ImageSource, PixelSums | None]:
    """Read a stream's containers, each in one process, and return their images as a source in the spool."""
    folder = records_folder(request.out, request.split)
    jobs = spool.container_jobs(stream, folder, request.options, needs_sums=request.split == "train")
    total_bytes = sum(container.size_bytes for container in stream.containers)
    check_spool_space(request, jobs)
    with tqdm(
        total=total_bytes, unit="B", unit_scale=True, desc=f"{request.split}: reading", disable=not sys.stderr.isatty()
    ) as bar:
        for _ in poll_unordered(spool_container, jobs, request.processes, POLL_S):
            bar.update(sum(map(spool.progress_bytes, jobs)) - bar.n)
    return spool.gather(stream, jobs, train_classes)


def shard_jobs(request: PackRequest, source: ImageSource) -> list[ShardJob]:
    """Return the shards to write: fixed slices of the shuffled order of all candidates, rejected ones included."""
    order = permutation(len(source.files), request.options.seed, "pack", request.split)
    step = request.options.samples_per_shard
    return [
        ShardJob(
            out=request.out,
            split=request.split,
            number=number,
            folder=source.folder,
            first=first,
            files=tuple(source.files[position] for position in order[first : first + step]),
            options=request.options,
        )
        for number, first in enumerate(range(0, len(order), step))
    ]


def _write_shards(request: PackRequest, source: ImageSource, jobs: Sequence[ShardJob]) -> int:
    """Write the shards that are not finished; return the number of images in them."""
    rejected = list(source.rejected)
    new_images = 0
    files = sum(len(job.files) for job in jobs)
    with ExitStack() as stack:
        if sys.stderr.isatty():
            counts = stack.enter_context(
                moving_bar(request.split, files, 1 + max((job.number for job in jobs), default=0))
            )
            jobs = [replace(job, counts=counts) for job in jobs]
        for shard in map_unordered(write_shard, jobs, request.processes):
            rejected.extend(shard.rejected)
            new_images += shard.images if shard.written else 0
            if request.max_rejected is not None and len(rejected) > request.max_rejected:
                raise UserError(
                    f"{request.source}: {len(rejected)} files rejected, and --max-rejected is {request.max_rejected}. "
                    "Raise the limit, which keeps finished shards; or repair the files and start over: "
                    f"{how_to_start_over(request.out, request.split)}\n{list_reasons(rejected)}"
                )
    return new_images


def write_shard(job: ShardJob) -> ShardResult:
    """Call `shard.write_shard`; imported here because it needs torch, without which the command starts faster."""
    from alexnet_dist.pack import shard

    written = shard.write_shard(job)
    note_done(job.counts, job.number, len(job.files))
    return written


def spool_container(job: ContainerJob) -> int:
    """Call `container.spool_container`; imported here for the same reason."""
    from alexnet_dist.pack import container

    return container.spool_container(job)
