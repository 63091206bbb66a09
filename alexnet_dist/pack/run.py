"""The whole of packing a split, from its listed source to its manifest.

The files of the split, sorted by name, are put into a seeded order, and the order is cut into fixed slices, a shard
each. A shard depends on its slice alone, so any number of processes writes the same bytes. The manifest comes last;
until then ``OUT/.<split>-pack`` holds the plan and a record of each finished shard, and the same command goes on from
there whenever it was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from alexnet_dist.data.manifest import Manifest
from alexnet_dist.draws import permutation
from alexnet_dist.errors import UserError
from alexnet_dist.pack.assemble import assemble, list_reasons
from alexnet_dist.pack.records import Job, records_folder
from alexnet_dist.pack.sources import Source, find
from alexnet_dist.pack.state import Request, begin, check_fits, check_same, load_if_packed, locked
from alexnet_dist.process import die_with_parent, ignore

if TYPE_CHECKING:
    from alexnet_dist.pack.shard import Done

# Measured on ImageNet at quality 90 with its tar headers; a pack that needs half of it is rare.
BYTES_A_PIXEL = 0.37


@dataclass(frozen=True)
class Packed:
    """A packed split, and how many of its images were not there before."""

    manifest: Manifest
    new_images: int


def pack(request: Request) -> Packed:
    """Pack a split, go on with an unfinished one, or find it packed already.

    Raises UserError for what the user can mend, and OSError for a folder that cannot be written.
    """
    train = load_if_packed(request.out, "train") if request.split == "val" else None
    options = request.options
    classes = None if train is None else tuple(kind.name for kind in train.classes)
    source = find(request.source, request.split, options.holdout, options.seed, classes)
    if request.out.resolve().is_relative_to(source.folder.resolve()):
        raise UserError(f"{request.out}: lies inside the images' folder {source.folder}. Pack into a folder outside it")
    request.out.mkdir(parents=True, exist_ok=True)
    with locked(request.out):
        packed = load_if_packed(request.out, request.split)
        if packed is not None:
            check_same(packed, request, source)
            shutil.rmtree(records_folder(request.out, request.split), ignore_errors=True)
            return Packed(packed, new_images=0)
        other = load_if_packed(request.out, "val" if request.split == "train" else "train")
        if other is not None:
            check_fits(other, request, source)
        begin(request, source)
        jobs = plan_jobs(request, source)
        _check_space(request, jobs)
        new_images = _finish(request, source, jobs)
        manifest = assemble(request, source, jobs)
        shutil.rmtree(records_folder(request.out, request.split))
    return Packed(manifest, new_images)


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


def _check_space(request: Request, jobs: Sequence[Job]) -> None:
    """Refuse a disk that is clearly too small, before the work and not hours into it."""
    images = sum(len(job.files) for job in jobs if not job.record_path.exists())
    likely_bytes = int(images * request.options.size**2 * BYTES_A_PIXEL)
    free_bytes = shutil.disk_usage(request.out).free
    if free_bytes < likely_bytes / 2:
        raise UserError(
            f"{request.out}: {images} images need about {likely_bytes / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are "
            "free. Make room, or pack to another disk"
        )


def _finish(request: Request, source: Source, jobs: Sequence[Job]) -> int:
    """Make the shards that are not there yet; returns the number of images in them."""
    rejected = list(source.rejected)
    new_images = 0
    files = sum(len(job.files) for job in jobs)
    with tqdm(total=files, unit=" images", desc=request.split, disable=not sys.stderr.isatty()) as bar:
        for done in _results(jobs, request.processes):
            rejected.extend(done.rejected)
            new_images += done.images if done.made else 0
            if request.max_rejected is not None and len(rejected) > request.max_rejected:
                raise UserError(
                    f"{request.source}: {len(rejected)} files rejected, and --max-rejected is {request.max_rejected}. "
                    f"Repair them, or raise the limit: finished shards are kept\n{list_reasons(rejected)}"
                )
            bar.update(done.images + len(done.rejected))
    return new_images


def _results(jobs: Sequence[Job], processes: int) -> Iterator[Done]:
    """Yield the shards as they are done, in any order."""
    if processes == 1:
        yield from map(finish, jobs)
        return
    with ProcessPoolExecutor(
        min(processes, len(jobs)),
        # A forked child of a process with threads may hang; a spawned one starts clean.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    ) as pool:
        futures = [pool.submit(finish, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a packing process was killed, most often for want of memory. Start again, with fewer --processes: "
                "finished shards are kept"
            ) from error
        finally:
            # On the way out of an error the shards in hand are finished and kept, and no more are begun.
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    die_with_parent(parent)
    # Ctrl-C reaches the whole process group; the command decides what becomes of the shards in hand.
    ignore([signal.SIGINT])


def finish(job: Job) -> Done:
    """Make a shard; the import is here so that the command itself starts without torch."""
    from alexnet_dist.pack.shard import finish_shard

    return finish_shard(job)
