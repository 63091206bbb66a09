"""What the command pack does with its parsed arguments: pack or verify, then a summary and a line of JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time

from alexnet_dist.data.manifest import Manifest, Options
from alexnet_dist.errors import UserError
from alexnet_dist.pack.assemble import list_reasons
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.options import ReadOptions
from alexnet_dist.system.wording import counted


def run(arguments: argparse.Namespace) -> None:
    """Pack or verify a split; the last line of stdout is one JSON object. Raises UserError."""
    request = _request(arguments)
    started_s = time.monotonic()
    try:
        packed = None if request is None else pack(request)
        manifest = None if packed is None else packed.manifest
        if arguments.verify:
            # Imported here because it needs torch, without which the command starts faster.
            from alexnet_dist.pack.verify import verify

            manifest = verify(arguments.out, arguments.split, arguments.processes)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(f"{error.filename or arguments.out}: {error.strerror}") from error
    assert manifest is not None
    seconds = time.monotonic() - started_s
    # If nothing was packed, the time was spent on verifying.
    only_verified = packed is None or (arguments.verify and packed.new_images == 0)
    images = manifest.images if packed is None or only_verified else packed.new_images
    print(_summary(arguments, manifest, images, seconds), file=sys.stderr)
    print(
        json.dumps(
            {
                "images": manifest.images,
                "rejected": len(manifest.rejected),
                "shards": len(manifest.shards),
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1),
                "seen": manifest.seen,
                "not_samples": sum((manifest.ignored or {}).values()),
                "missing": list(manifest.missing or ()),
            }
        )
    )


def _request(arguments: argparse.Namespace) -> PackRequest | None:
    """Return what to pack; None if only OUT is given, to be verified."""
    if arguments.source is None:
        if not arguments.verify:
            raise UserError("expected SOURCE and OUT; OUT alone needs --verify")
        return None
    options = Options(
        seed=arguments.seed,
        size=arguments.size,
        quality=arguments.quality,
        chroma=arguments.chroma,
        filter=arguments.filter,
        samples_per_shard=arguments.samples_per_shard,
        holdout=arguments.holdout,
    )
    return PackRequest(
        source=arguments.source,
        out=arguments.out,
        split=arguments.split,
        options=options,
        layout=arguments.layout,
        processes=arguments.processes,
        max_rejected=arguments.max_rejected,
        reading=ReadOptions(
            fields=SampleFields(arguments.image_field, arguments.label_field),
            columns=SampleFields(arguments.image_column, arguments.label_column),
            allow_missing=arguments.allow_missing,
        ),
    )


def _summary(arguments: argparse.Namespace, manifest: Manifest, images: int, seconds: float) -> str:
    gigabytes = sum(shard.size_bytes for shard in manifest.shards) / 1e9
    lines = [
        f"{arguments.out}: {manifest.split} holds {counted(manifest.images, 'image')} of"
        f" {counted(len(manifest.classes), 'class')} in {counted(len(manifest.shards), 'shard')}, {gigabytes:.3f} GB"
    ]
    if arguments.verify:
        lines.append(f"verified: every hash, checksum and header is as it was packed, in {seconds:.1f} s")
    elif images:
        lines.append(f"packed {counted(images, 'image')} in {seconds:.1f} s: {images / seconds:.0f} images/s")
    else:
        lines.append("already packed: there was nothing to do")
    lines.append(_accounts(manifest))
    if manifest.missing:
        lines.append("INCOMPLETE: packed with --allow-missing, although the source lacks:")
        lines += [f"  {part}" for part in manifest.missing]
    if manifest.rejected:
        lines.append(f"REJECTED {counted(len(manifest.rejected), 'file')}; all are listed in the manifest:")
        lines.append(list_reasons(manifest.rejected))
    return "\n".join(lines)


def _accounts(manifest: Manifest) -> str:
    """Return how many files, members or rows the source has, and what became of them; the numbers add up."""
    ignored = manifest.ignored or {}
    rules = f" ({', '.join(f'{count} {rule}' for rule, count in ignored.items())})" if ignored else ""
    return (
        f"seen {manifest.seen} = {manifest.images} packed + {len(manifest.rejected)} rejected + "
        f"{sum(ignored.values())} not samples{rules}"
    )
