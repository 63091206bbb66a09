"""Rejects a disk that is clearly too small for a pack before the work starts, and not hours into it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from alexnet_dist.errors import UserError
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.spool import ContainerJob

# Measured on ImageNet at quality 90; few packs need less than half of it.
BYTES_PER_PIXEL = 0.343
# Of each image in its tar: two headers, the block of its label, and half a block of padding after its JPEG.
TAR_BYTES = 3 * 512 + 256
# Size of the training JPEGs at 256 pixels, as a fraction of their container; measured on ImageNet's photographs.
SPOOLED_FRACTION = 0.21


def check_shard_space(request: PackRequest, images: int) -> None:
    """Raise UserError if the disk of OUT has less than half the space that this many images are likely to need."""
    likely_bytes = int(images * (request.options.size**2 * BYTES_PER_PIXEL + TAR_BYTES))
    _check_space(request, likely_bytes, f"{images} images need")


def check_spool_space(request: PackRequest, jobs: Sequence[ContainerJob]) -> None:
    """Raise UserError if the disk of OUT has less than half the space for a stream: spooled images and shards.

    Before the containers are read only their sizes are known. The spool is kept until the shards are complete.
    """
    unread_bytes = sum(job.container.size_bytes for job in jobs if not job.file(".npz").exists())
    likely_bytes = int(2 * unread_bytes * min(1.0, SPOOLED_FRACTION * (request.options.size / 256) ** 2))
    _check_space(request, likely_bytes, "the spooled images and the shards need")


def _check_space(request: PackRequest, likely_bytes: int, subject: str) -> None:
    free_bytes = shutil.disk_usage(request.out).free
    if free_bytes < likely_bytes / 2:
        raise UserError(
            f"{request.out}: {subject} about {_format(likely_bytes)}, but only {_format(free_bytes)} is free. "
            "Free some space, or pack to another disk"
        )


def _format(size_bytes: int) -> str:
    unit, unit_bytes = next((unit for unit in (("GB", 1e9), ("MB", 1e6)) if size_bytes >= unit[1]), ("kB", 1e3))
    return f"{size_bytes / unit_bytes:.1f} {unit}"
