"""The end of packing: from the records of all shards to the index, the mean image and the manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.manifest import Class, Manifest, Rejected, Shard, Sidecar
from alexnet_dist.errors import UserError
from alexnet_dist.files import replace_file
from alexnet_dist.pack.records import Job, Record, load_record
from alexnet_dist.pack.sources.source import Source
from alexnet_dist.pack.state import Request, library_versions, start_over
from alexnet_dist.pack.sums import Sums


def assemble(request: Request, source: Source, jobs: Sequence[Job], sums: Sums | None = None) -> Manifest:
    """Write what belongs to the shards, the manifest last, and return it.

    sums: of the pixels, where a spool has added them up; else the shards' records have.
    Raises UserError when all files of some class were rejected.
    """
    shards: list[Shard] = []
    rows: list[npt.NDArray[np.void]] = []
    rejected = list(source.rejected)
    for job in jobs:
        record = _record(job)
        rejected.extend(record.rejected)
        if record.images:
            shards.append(Shard(job.name, record.images, record.size_bytes, record.sha256))
            rows.append(record.index)
        if record.sums is not None:
            sums = record.sums if sums is None else sums + record.sums
    rejected.sort(key=lambda one: one.file)
    _check_classes(request, source, jobs, rows, rejected)
    index = np.concatenate(rows)
    manifest = Manifest(
        split=request.split,
        size=request.options.size,
        images=len(index),
        classes=tuple(Class(name, source.words.get(name) or None) for name in source.classes),
        shards=tuple(shards),
        index=_save_array(request.out / f"{request.split}.index.npy", index),
        mean=None if sums is None else _save_array(request.out / f"{request.split}.mean.npy", sums.mean_image()),
        colour=None if sums is None else sums.colour(),
        rejected=tuple(rejected),
        options=request.options,
        libraries=library_versions(),
        source=source.id,
    )
    _save(manifest, request)
    return manifest


def list_reasons(rejected: Sequence[Rejected], most: int = 5) -> str:
    """Return the first few rejected files with their reasons, a line each."""
    lines = [f"  {one.file}: {one.reason}" for one in rejected[:most]]
    if len(rejected) > most:
        lines.append(f"  ... and {len(rejected) - most} more")
    return "\n".join(lines)


def _record(job: Job) -> Record:
    record = load_record(job.record_path)
    if record is None:
        raise RuntimeError(f"{job.record_path}: was written a moment ago and cannot be read now")
    return record


def _check_classes(
    request: Request,
    source: Source,
    jobs: Sequence[Job],
    rows: Sequence[npt.NDArray[np.void]],
    rejected: Sequence[Rejected],
) -> None:
    """Refuse a class that has files and no image: its folder most likely holds images of a kind we do not read."""
    # By the labels in the index, because a name may be that of several files, not all of them bad.
    usable = {label for index in rows for label in np.unique(index["label"]).tolist()}
    bare = sorted({file.label for job in jobs for file in job.files} - usable)
    if bare:
        name = source.classes[bare[0]]
        reasons = list_reasons([one for one in rejected if one.file.startswith(f"{name}/")])
        raise UserError(
            f"{request.source}: none of the files of class {name} is a usable image ({len(bare)} such classes). Repair "
            f"them or take the class out, and start over: {start_over(request)}\n{reasons}"
        )


def _save(manifest: Manifest, request: Request) -> None:
    """Write a manifest that any reader takes; names of the source are in it, and one may not be fit for it."""
    path = manifests.manifest_path(request.out, request.split)
    fix = f"nothing could read it, so it is not written; rename that in {request.source}, and {start_over(request)}"
    manifests.parse(manifest.text.encode(), f"{path}, as it would be", fix)
    manifests.save(manifest, path)


def _save_array(path: Path, array: npt.NDArray[np.generic]) -> Sidecar:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    replace_file(path, content.getvalue())
    return Sidecar(path.name, hashlib.sha256(content.getvalue()).hexdigest())
