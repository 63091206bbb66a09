"""The last stage of packing: builds the index, the mean image and the manifest from the records of all shards."""

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
from alexnet_dist.pack.output_folder import library_versions
from alexnet_dist.pack.pixel_sums import PixelSums
from alexnet_dist.pack.records import ShardJob, ShardRecord, how_to_start_over, load_record
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.sources.listing import ImageSource
from alexnet_dist.system.files import replace_file

MAX_MISSING_LISTED = 20


def assemble(
    request: PackRequest, source: ImageSource, jobs: Sequence[ShardJob], sums: PixelSums | None = None
) -> Manifest:
    """Write the files that belong to the shards, the manifest last, and return the manifest.

    sums: the pixel sums from the spool, if any; otherwise they are in the shards' records.
    Raises UserError for a class whose files were all rejected.
    """
    _check_all_accounted(source)
    shards: list[Shard] = []
    rows: list[npt.NDArray[np.void]] = []
    rejected = list(source.rejected)
    for job in jobs:
        record = _load_written(job)
        rejected.extend(record.rejected)
        if record.images:
            shards.append(Shard(job.name, record.images, record.size_bytes, record.sha256))
            rows.append(record.index)
        if record.sums is not None:
            sums = record.sums if sums is None else sums + record.sums
    rejected.sort(key=lambda rejection: rejection.file)
    _check_classes(request, source, jobs, rows, rejected)
    index = np.concatenate(rows)
    manifest = Manifest(
        split=request.split,
        size=request.options.size,
        images=len(index),
        classes=tuple(Class(name, source.descriptions.get(name) or None) for name in source.classes),
        shards=tuple(shards),
        index=_save_array(request.out / f"{request.split}.index.npy", index),
        mean=None if sums is None else _save_array(request.out / f"{request.split}.mean.npy", sums.mean_image()),
        colour=None if sums is None else sums.colour(),
        rejected=tuple(rejected),
        options=request.options,
        libraries=library_versions(),
        source=source.id,
        ignored=dict(source.ignored) or None,
        missing=_condensed(source.missing) or None,
    )
    _save_manifest(manifest, request)
    return manifest


def list_reasons(rejected: Sequence[Rejected], most: int = 5) -> str:
    """Return the first `most` rejected files with their reasons, one a line."""
    lines = [f"  {rejection.file}: {rejection.reason}" for rejection in rejected[:most]]
    if len(rejected) > most:
        lines.append(f"  ... and {len(rejected) - most} more")
    return "\n".join(lines)


def _check_all_accounted(source: ImageSource) -> None:
    """Check that every entry of a source is a candidate, rejected, or ignored by a rule; a difference is a bug."""
    accounted = len(source.files) + len(source.rejected) + sum(source.ignored.values())
    if source.seen != accounted:
        raise RuntimeError(f"{source.folder}: {source.seen} entries seen, but {accounted} accounted for")


def _condensed(missing: Sequence[str]) -> tuple[str, ...]:
    """Return the first of what a source lacks, because a manifest has no long lists of it."""
    unlisted = len(missing) - MAX_MISSING_LISTED
    return (*missing[:MAX_MISSING_LISTED], f"... and {unlisted} more") if unlisted > 0 else tuple(missing)


def _load_written(job: ShardJob) -> ShardRecord:
    record = load_record(job.record_path)
    if record is None:
        raise RuntimeError(f"{job.record_path}: was just written and cannot be read")
    return record


def _check_classes(
    request: PackRequest,
    source: ImageSource,
    jobs: Sequence[ShardJob],
    rows: Sequence[npt.NDArray[np.void]],
    rejected: Sequence[Rejected],
) -> None:
    """Raise UserError for a class that has files but no usable image, most likely all of an unsupported format."""
    # Uses the labels in the index, because files can share a name and not all of them be rejected.
    usable = {label for index in rows for label in np.unique(index["label"]).tolist()}
    unusable = sorted({file.label for job in jobs for file in job.files} - usable)
    if unusable:
        name = source.classes[unusable[0]]
        reasons = list_reasons([rejection for rejection in rejected if rejection.file.startswith(f"{name}/")])
        raise UserError(
            f"{request.source}: none of the files of class {name} is a usable image ({len(unusable)} such classes). "
            "Repair them or remove the class, and start over: "
            f"{how_to_start_over(request.out, request.split)}\n{reasons}"
        )


def _save_manifest(manifest: Manifest, request: PackRequest) -> None:
    """Write the manifest after parsing it as a reader does: a name in the source may be invalid in it."""
    path = manifests.manifest_path(request.out, request.split)
    fix = (
        f"no reader would accept this manifest, so it is not written; rename that in {request.source}, and "
        f"{how_to_start_over(request.out, request.split)}"
    )
    manifests.parse(manifest.text.encode(), f"{path} (not written)", fix)
    manifests.save(manifest, path)


def _save_array(path: Path, array: npt.NDArray[np.generic]) -> Sidecar:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    replace_file(path, content.getvalue())
    return Sidecar(path.name, hashlib.sha256(content.getvalue()).hexdigest())
