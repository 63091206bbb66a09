"""Which files of a folder are the shards of a split, and which are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.data.choices import SPLITS, SplitName
from alexnet_dist.data.manifest import Manifest, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.completeness import Completeness, check_missing, check_parts
from alexnet_dist.pack.sources.names import SPLIT_NAMES, readable

OTHER_FILES_RULE = "files beside the shards that are not tars"
COMPRESSED_TAR = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)


def split_shards(root: Path, split: SplitName) -> list[str]:
    """Return the names of a split's shards: those with the split in their name, or all if none names any split.

    Raises UserError if there are none, or if a name has two splits in it.
    """
    splits = {name: _split_of(root, name) for name in _file_names(root) if name.endswith(".tar")}
    named = any(splits.values())
    shards = [name for name, of_split in splits.items() if of_split == (split if named else None)]
    if not shards:
        raise UserError(
            f"{root}: none of its {len(splits)} tars is named for split {split}, such as {split}-000000.tar"
        )
    return shards


def train_shards(root: Path) -> list[str]:
    """Return the names of the shards that are named for the training split."""
    return [name for name in _file_names(root) if name.endswith(".tar") and _split_of(root, name) == "train"]


def left_out(root: Path, split: SplitName, shards: Sequence[str]) -> tuple[list[Rejected], int]:
    """Return the tars that belong to no split or are compressed, and the number of other files beside the shards."""
    rejected: list[Rejected] = []
    others = 0
    for name in _file_names(root):
        if name.endswith(".tar"):
            if name not in shards and _split_of(root, name) is None:
                reason = f"its name has no split, unlike those of other tars here, such as {shards[0]}"
                rejected.append(Rejected(readable(name), reason))
        elif not COMPRESSED_TAR.search(name):
            others += 1
        elif _split_of(root, name) in (None, split):
            rejected.append(Rejected(readable(name), "a compressed tar; only plain tars are read: unpack it"))
    return rejected, others


def check_complete(root: Path, shards: Sequence[str], manifest: Manifest | None, allow_missing: bool) -> Completeness:
    """Check that all shards are there that a manifest beside them, or the names of others as in ``-of-00003``, promise.

    Raises UserError for missing ones unless they are allowed, and for a shard that the manifest does not have: the
    manifest says what the labels of its own shards mean.
    """
    if manifest is None:
        return check_parts(root, shards, allow_missing)
    file, present = f"{manifest.split}.manifest.json", set(shards)
    own = [shard.name for shard in manifest.shards]
    foreign = [name for name in shards if name not in set(own)]
    if foreign:
        raise UserError(
            f"{root / readable(foreign[0])}: not a shard of {file} beside it, which says what the labels mean "
            f"({len(foreign)} such tars). Move it, or the manifest, into another folder"
        )
    missing = [name for name in own if name not in present]
    return Completeness(check_missing(root, missing, len(own), f"shards of {file}", allow_missing))


def _file_names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_file())


def _split_of(root: Path, name: str) -> SplitName | None:
    """Return the split in a shard's name; raises UserError if there are two."""
    parts = {part.removesuffix("set") for part in re.split(r"[^a-z]+", name.lower())}
    splits: list[SplitName] = [split for split in SPLITS if parts & set(SPLIT_NAMES[split])]
    if len(splits) > 1:
        raise UserError(f"{root / readable(name)}: its name has two splits, {splits[0]} and {splits[1]}: rename it")
    return splits[0] if splits else None
