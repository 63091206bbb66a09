"""The summary of a packed split: its manifest on one screen."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import numpy as np

from alexnet_dist.data.manifest import Manifest
from alexnet_dist.data.reader import Split
from alexnet_dist.system.wording import counted

MAX_REJECTED = 3  # rejected files and reasons listed


def summary(split: Split) -> str:
    """Return a summary of a split's manifest that fits on one screen."""
    manifest = split.manifest
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    image_bytes = _format_bytes(size_bytes / split.images)
    counts = np.bincount(split.labels, minlength=len(manifest.classes))
    lines = {
        "shards": f"{len(manifest.shards):,}, {_format_bytes(size_bytes)}, {image_bytes} per image",
        "pixels": f"{manifest.size} x {manifest.size}",
        "classes": f"{counts.min():,} to {counts.max():,} images each, median {np.median(counts):,.0f}",
        "colour": "no mean (only the train split has one)",
        "rejected": "no files",
        "options": ", ".join(f"{name} {value}" for name, value in asdict(manifest.options).items()),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items())),
    }
    if manifest.colour is not None:
        spread = np.sqrt(np.diag(manifest.colour.covariance))
        parts = zip(("red", "green", "blue"), manifest.colour.mean, spread, strict=True)
        lines["colour"] = ", ".join(f"{name} {mean:.1f} ± {deviation:.1f}" for name, mean, deviation in parts)
    if manifest.rejected:
        lines["rejected"] = _format_rejected(manifest)
    if manifest.ignored:
        lines["ignored"] = ", ".join(f"{count:,} {rule}" for rule, count in manifest.ignored.items())
    if manifest.missing:
        lines["INCOMPLETE"] = f"its source lacked {'; '.join(manifest.missing)}"
    if manifest.source is not None:
        lines["source"] = f"{counted(manifest.source.files, 'file')}, sha256 {manifest.source.sha256[:12]}"
    lines["manifest"] = f"format {manifest.format}, sha256 {manifest.sha256[:12]}"
    head = (
        f"{split.root}: {manifest.split}, {counted(split.images, 'image')} of {counted(len(manifest.classes), 'class')}"
    )
    return "\n".join([head, *(f"  {name:<10} {text}" for name, text in lines.items() if text)])


def _format_rejected(manifest: Manifest) -> str:
    reasons = Counter(rejected.reason for rejected in manifest.rejected).most_common()
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:MAX_REJECTED])
    lines = [f"{len(manifest.rejected):,}: {by_reason}"]
    lines += [f"{rejected.file}: {rejected.reason}" for rejected in manifest.rejected[:MAX_REJECTED]]
    if len(manifest.rejected) > MAX_REJECTED:
        lines.append(f"and {len(manifest.rejected) - MAX_REJECTED:,} more, in the manifest")
    return f"\n{' ' * 13}".join(lines)


def _format_bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
