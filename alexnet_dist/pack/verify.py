"""``pack --verify``: read a packed split again, whole, and check every hash, checksum and place that is noted of it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32
from tqdm import tqdm

from alexnet_dist.data.manifest import Manifest, Shard, SplitName
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.pool import results

MOST_TOLD = 5


@dataclass(frozen=True)
class Check:
    """What one process needs to check one shard: `rows` are its rows of the index."""

    path: Path
    shard: Shard
    rows: npt.NDArray[np.void]


def verify(out: Path, split: SplitName, processes: int) -> Manifest:
    """Check a packed split and return its manifest; raises UserError naming the shards that are not as noted."""
    opened = Split.open(out, split)  # checks the manifest, the sizes, and the hashes of index and mean
    manifest = opened.manifest
    index: npt.NDArray[np.void] = np.load(out / manifest.index.name, allow_pickle=False)
    ends = np.cumsum(opened.counts)
    checks = [
        Check(out / shard.name, shard, index[end - shard.images : end])
        for shard, end in zip(manifest.shards, ends, strict=True)
    ]
    problems: list[str] = []
    with tqdm(
        total=manifest.images, unit=" images", desc=f"{split}: verifying", disable=not sys.stderr.isatty()
    ) as bar:
        for images, problem in results(check, checks, processes):
            bar.update(images)
            if problem is not None:
                problems.append(problem)
    if problems:
        told = sorted(problems)[:MOST_TOLD]
        more = [f"  ... and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
        lines = "\n".join([*(f"  {problem}" for problem in told), *more])
        raise UserError(
            f"{out}: {len(problems)} of {len(checks)} shards of {split} are not as they were packed. Copy them again "
            f"from where they are whole, or delete {out}/{split}* and pack again\n{lines}"
        )
    return manifest


def check(one: Check) -> tuple[int, str | None]:
    """Return a shard's images, and what is wrong with it, or None."""
    try:
        content = one.path.read_bytes()
    except OSError as error:
        return len(one.rows), f"{one.path.name}: cannot be read: {error.strerror}"
    found = hashlib.sha256(content).hexdigest()
    if found != one.shard.sha256:
        return len(one.rows), f"{one.path.name}: sha256 {found[:12]}..., expected {one.shard.sha256[:12]}..."
    return len(one.rows), _members_problem(one, content)


def _members_problem(one: Check, content: bytes) -> str | None:
    """Compare the tar's own headers, by which other readers go, with the index, by which ours does."""
    try:
        members = list(tars.inside(lambda at, size: content[at : at + size], one.path.name, 0, len(content)))
    except UserError as error:
        return str(error)
    images = [(member.offset, member.size_bytes) for member in members if member.name.endswith(".jpg")]
    rows = list(zip(one.rows["offset"].tolist(), one.rows["size"].tolist(), strict=True))
    if images != rows:
        return f"{one.path.name}: its headers and the index place its images differently"
    view = memoryview(content)
    labels = [content[m.offset : m.offset + m.size_bytes] for m in members if m.name.endswith(".cls")]
    if labels != [b"%d" % label for label in one.rows["label"].tolist()]:
        return f"{one.path.name}: its .cls members and the index label its images differently"
    for (offset, size), expected in zip(rows, one.rows["crc32"].tolist(), strict=True):
        if crc32(view[offset : offset + size]) != expected:
            return f"{one.path.name}: the image at byte {offset} has another crc32 than in the index"
    return None
