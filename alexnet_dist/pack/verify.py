"""``pack --verify``: reads a packed split again and checks every hash, checksum, header and offset."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32
from tqdm import tqdm

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Manifest, Shard
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.pool import map_unordered

MAX_LISTED = 5


@dataclass(frozen=True)
class ShardCheck:
    """What a process needs to check one shard: `rows` are its rows of the index."""

    path: Path
    shard: Shard
    rows: npt.NDArray[np.void]


def verify(out: Path, split: SplitName, processes: int) -> Manifest:
    """Check a packed split and return its manifest; raises UserError with the shards that differ from it."""
    opened = Split.open(out, split)  # checks the manifest, the sizes, and the hashes of index and mean
    manifest = opened.manifest
    index: npt.NDArray[np.void] = np.load(out / manifest.index.name, allow_pickle=False)
    ends = np.cumsum(opened.counts)
    checks = [
        ShardCheck(out / shard.name, shard, index[end - shard.images : end])
        for shard, end in zip(manifest.shards, ends, strict=True)
    ]
    problems: list[str] = []
    with tqdm(
        total=manifest.images, unit=" images", desc=f"{split}: verifying", disable=not sys.stderr.isatty()
    ) as bar:
        for images, problem in map_unordered(check_shard, checks, processes):
            bar.update(images)
            if problem is not None:
                problems.append(problem)
    if problems:
        lines = [f"  {problem}" for problem in sorted(problems)[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"  ... and {len(problems) - MAX_LISTED} more")
        raise UserError(
            f"{out}: {len(problems)} of {len(checks)} shards of {split} are not as they were packed. Copy them again "
            f"from an intact copy, or delete {out}/{split}* and pack again\n" + "\n".join(lines)
        )
    return manifest


def check_shard(check: ShardCheck) -> tuple[int, str | None]:
    """Return the number of a shard's images, and what is wrong with it or None."""
    name = check.path.name
    try:
        content = check.path.read_bytes()
    except OSError as error:
        return len(check.rows), f"{name}: cannot be read: {error.strerror}"
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != check.shard.sha256:
        return len(check.rows), f"{name}: sha256 {sha256[:12]}..., expected {check.shard.sha256[:12]}..."
    return len(check.rows), _members_problem(check, content)


def _members_problem(check: ShardCheck, content: bytes) -> str | None:
    """Compare the tar's headers, which other readers use, with the index, which `data.reader` uses."""
    name, rows = check.path.name, check.rows
    try:
        members = list(tars.range_members(lambda at, size: content[at : at + size], name, 0, len(content)))
    except UserError as error:
        return str(error)
    images = [(member.offset, member.size_bytes) for member in members if member.name.endswith(".jpg")]
    indexed_images = list(zip(rows["offset"].tolist(), rows["size"].tolist(), strict=True))
    if images != indexed_images:
        return f"{name}: its headers and the index disagree about where its images are"
    view = memoryview(content)
    labels = [content[m.offset : m.offset + m.size_bytes] for m in members if m.name.endswith(".cls")]
    if labels != [b"%d" % label for label in rows["label"].tolist()]:
        return f"{name}: its .cls members and the index disagree about the labels of its images"
    for (offset, size), expected in zip(indexed_images, rows["crc32"].tolist(), strict=True):
        if crc32(view[offset : offset + size]) != expected:
            return f"{name}: the crc32 of the image at byte {offset} is not the one in the index"
    return None
