"""The whole of packing a split, from its listed source to its manifest.

The files of the split, sorted by name, are put into a seeded order, and the order is cut into fixed slices, a shard
each. A shard depends on its slice alone, so any number of processes writes the same bytes. The manifest comes last;
until then ``OUT/.<split>-pack`` holds the plan and a record of each finished shard, and the same command goes on from
there whenever it was killed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from alexnet_dist.data.manifest import SPLITS, Manifest
from alexnet_dist.errors import UserError
from alexnet_dist.pack import spool
from alexnet_dist.pack.assemble import assemble, list_reasons
from alexnet_dist.pack.pool import results, ticking
from alexnet_dist.pack.records import Job, records_folder
from alexnet_dist.pack.sources import layouts
from alexnet_dist.pack.sources.names import SPLIT_NAMES
from alexnet_dist.pack.sources.source import Source, Stream
from alexnet_dist.pack.spool import Unit
from alexnet_dist.pack.state import (
    Request,
    begin,
    check_classes,
    check_fits,
    check_same,
    load_if_packed,
    locked,
    start_over,
)
from alexnet_dist.pack.sums import Sums
from alexnet_dist.rng import permutation

if TYPE_CHECKING:
    from alexnet_dist.pack.shard import Done

# Measured on ImageNet at quality 90; a pack that needs half of it is rare.
BYTES_A_PIXEL = 0.343
# Of each image in its tar: two headers, the block of its label, and half a block after its JPEG.
TAR_BYTES = 3 * 512 + 256
# Of a container of ImageNet's photographs, what its training JPEGs take at 256 pixels.
SPOOLED_SHARE = 0.21
TICK_S = 0.5  # between two looks at how far the containers are read


@dataclass(frozen=True)
class Packed:
    """A packed split, and how many of its images were not there before."""

    manifest: Manifest
    new_images: int


def pack(request: Request) -> Packed:
    """Pack a split, go on with an unfinished one, or find it packed already.

    Raises UserError for what the user can mend, and OSError for a folder that cannot be written.
    """
    options, split = request.options, request.split
    train = None if split == "train" else load_if_packed(request.out, "train")
    classes = None if train is None else tuple(kind.name for kind in train.classes)
    found = layouts.find(request.source, request.layout, split, options.holdout, options.seed, classes)
    _check_outside(request, found)
    if found.folder not in (request.source, request.source.parent):
        print(f"{split} is taken from {found.folder}", file=sys.stderr)
    # Before the lock, because a packed OUT may be read-only; and under it, because another pack may have ended.
    if (packed := _packed_already(request, found)) is not None:
        return packed
    request.out.mkdir(parents=True, exist_ok=True)
    with locked(request.out):
        if (packed := _packed_already(request, found)) is not None:
            return packed
        others = [other for one in SPLITS if one != split and (other := load_if_packed(request.out, one)) is not None]
        for other in others:
            check_fits(other, request, found.id)
        begin(request, found.id)
        sums = None
        if isinstance(found, Stream):
            source, sums = _spool(request, found, classes)
        else:
            source = found
        for other in others:
            check_classes(other, request, source.classes)
        jobs = plan_jobs(request, source)
        check_space(request, sum(len(job.files) for job in jobs if not job.record_path.exists()))
        new_images = _finish(request, source, jobs)
        manifest = assemble(request, source, jobs, sums)
        shutil.rmtree(records_folder(request.out, split))
    return Packed(manifest, new_images)


def _packed_already(request: Request, found: Source | Stream) -> Packed | None:
    packed = load_if_packed(request.out, request.split)
    if packed is None:
        return None
    check_same(packed, request, found.id)
    shutil.rmtree(records_folder(request.out, request.split), ignore_errors=True)
    return Packed(packed, new_images=0)


def _check_outside(request: Request, found: Source | Stream) -> None:
    """Refuse an OUT whose files would be taken for images, or would lie over the source's own shards."""
    out, folder = request.out.resolve(), found.folder.resolve()
    if out in (folder, request.source.resolve()):
        raise UserError(f"{request.out}: is the images' own folder. Pack into a folder outside it")
    if isinstance(found, Stream) or not request.source.is_dir() or found.files[0].offset is not None:
        return
    walked = [folder]
    if folder != request.source.resolve():
        # A set with a folder a split: its other splits are to be packed as well.
        walked += [(folder.parent / name).resolve() for names in SPLIT_NAMES.values() for name in names]
    for images in walked:
        if out.is_relative_to(images):
            raise UserError(f"{request.out}: lies inside the images' folder {images}. Pack into a folder outside it")


def _spool(request: Request, stream: Stream, train: tuple[str, ...] | None) -> tuple[Source, Sums | None]:
    """Read a stream's containers, each by one process, and return what they held."""
    folder = records_folder(request.out, request.split)
    units = spool.units_of(stream, folder, request.options, adds_up=request.split == "train")
    total_bytes = sum(container.size_bytes for container in stream.containers)
    # Its images wait in the spool until the shards hold them as well.
    _check_spool_space(request, units)
    with tqdm(
        total=total_bytes, unit="B", unit_scale=True, desc=f"{request.split}: reading", disable=not sys.stderr.isatty()
    ) as bar:
        for _ in ticking(read, units, request.processes, TICK_S):
            bar.update(sum(map(spool.progress_bytes, units)) - bar.n)
    return spool.gather(stream, units, train)


def _check_spool_space(request: Request, units: Sequence[Unit]) -> None:
    """Refuse a disk that clearly has no room for both; containers' sizes are all that is known before they are read."""
    left_bytes = sum(unit.container.size_bytes for unit in units if not unit.file(".npz").exists())
    needed_bytes = int(2 * left_bytes * min(1.0, SPOOLED_SHARE * (request.options.size / 256) ** 2))
    free_bytes = shutil.disk_usage(request.out).free
    if free_bytes < needed_bytes / 2:
        raise UserError(
            f"{request.out}: the shards and the images on their way into them need about {_told(needed_bytes)}, "
            f"and {_told(free_bytes)} are free. Make room, or pack to another disk"
        )


def plan_jobs(request: Request, source: Source) -> list[Job]:
    """Return the shards to make: fixed slices of the seeded order of all candidates, rejected ones included."""
    order = permutation(len(source.files), request.options.seed, "pack", request.split)
    step = request.options.samples_per_shard
    return [
        Job(
            out=request.out,
            split=request.split,
            number=number,
            folder=source.folder,
            first=first,
            files=tuple(source.files[place] for place in order[first : first + step]),
            options=request.options,
        )
        for number, first in enumerate(range(0, len(order), step))
    ]


def check_space(request: Request, images: int) -> None:
    """Refuse a disk that is clearly too small for so many more images, before the work and not hours into it."""
    likely_bytes = int(images * (request.options.size**2 * BYTES_A_PIXEL + TAR_BYTES))
    free_bytes = shutil.disk_usage(request.out).free
    if free_bytes < likely_bytes / 2:
        raise UserError(
            f"{request.out}: {images} images need about {_told(likely_bytes)}, and {_told(free_bytes)} are "
            "free. Make room, or pack to another disk"
        )


def _told(size_bytes: int) -> str:
    unit, of_bytes = next((unit for unit in (("GB", 1e9), ("MB", 1e6)) if size_bytes >= unit[1]), ("kB", 1e3))
    return f"{size_bytes / of_bytes:.1f} {unit}"


def _finish(request: Request, source: Source, jobs: Sequence[Job]) -> int:
    """Make the shards that are not there yet; returns the number of images in them."""
    rejected = list(source.rejected)
    new_images = 0
    files = sum(len(job.files) for job in jobs)
    with tqdm(total=files, unit=" images", desc=request.split, disable=not sys.stderr.isatty()) as bar:
        for done in results(finish, jobs, request.processes):
            rejected.extend(done.rejected)
            new_images += done.images if done.made else 0
            if request.max_rejected is not None and len(rejected) > request.max_rejected:
                raise UserError(
                    f"{request.source}: {len(rejected)} files rejected, and --max-rejected is {request.max_rejected}. "
                    "Raise the limit, and finished shards are kept; or repair the files and start over: "
                    f"{start_over(request)}\n{list_reasons(rejected)}"
                )
            bar.update(done.images + len(done.rejected))
    return new_images


def finish(job: Job) -> Done:
    """Make a shard; the import is here so that the command itself starts without torch."""
    from alexnet_dist.pack.shard import finish_shard

    return finish_shard(job)


def read(unit: Unit) -> int:
    """Read a container of a stream; here as above."""
    from alexnet_dist.pack.reading import finish_unit

    return finish_unit(unit)
