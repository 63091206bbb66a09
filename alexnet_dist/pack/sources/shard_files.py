"""Which files of a folder are the shards of a split, and which are left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.data.choices import SPLITS, SplitName
from alexnet_dist.data.manifest import Manifest, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.names import SPLIT_NAMES, readable

OTHER_FILES_RULE = "files beside the shards that are not tars"
COMPRESSED_TAR = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
OF_COUNT = re.compile(r"^(.*?)(\d+)-of-(\d+)\b(.*)$")
LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$")
MOST_SHARDS = 1_000_000


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
            rejected.append(
                Rejected(readable(name), "a compressed tar; only plain tars can be read in place: unpack it")
            )
    return rejected, others


def missing_shards(root: Path, shards: Sequence[str], manifest: Manifest | None) -> list[str]:
    """Return the shards that a manifest or an ``-of-N`` in the names of others says there are, and that are missing.

    Raises UserError for shards that the manifest does not have: it says what the labels of its own mean.
    """
    if manifest is not None:
        own = [shard.name for shard in manifest.shards]
        foreign = [name for name in shards if name not in set(own)]
        if foreign:
            raise UserError(
                f"{root / readable(foreign[0])}: not a shard of {manifest.split}.manifest.json beside it, which says "
                f"what the labels mean ({len(foreign)} such tars). Move it, or the manifest, into another folder"
            )
        return [name for name in own if name not in set(shards)]
    present, missing = set(shards), dict[str, None]()
    for prefix, number, count, rest in {match.groups() for name in shards if (match := OF_COUNT.match(name))}:
        names = (f"{prefix}{index:0{len(number)}d}-of-{count}{rest}" for index in range(min(int(count), MOST_SHARDS)))
        missing |= dict.fromkeys(name for name in names if name not in present)
    return sorted(missing)


def number_gaps(root: Path, shards: Sequence[str]) -> tuple[str, ...]:
    """Return a note if the numbers in the names of shards have gaps."""
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in shards:
        match = LAST_NUMBER.match(name)
        if match is not None and not OF_COUNT.match(name):
            numbers[match[1], match[3]].add(int(match[2]))
    gaps = [
        f"{prefix}{before + 1}{rest}"
        for (prefix, rest), present in sorted(numbers.items())
        for before, after in zip(sorted(present), sorted(present)[1:], strict=False)
        if after > before + 1
    ]
    if not gaps:
        return ()
    return (f"{root}: the numbers of the shards have {len(gaps)} gaps, the first at {gaps[0]}: are all of them here?",)


def _file_names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_file())


def _split_of(root: Path, name: str) -> SplitName | None:
    """Return the split in a shard's name; raises UserError if there are two."""
    words = {word.removesuffix("set") for word in re.split(r"[^a-z]+", name.lower())}
    splits: list[SplitName] = [split for split in SPLITS if words & set(SPLIT_NAMES[split])]
    if len(splits) > 1:
        raise UserError(f"{root / readable(name)}: its name has two splits, {splits[0]} and {splits[1]}: rename it")
    return splits[0] if splits else None
