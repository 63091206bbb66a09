"""The shards of a run: as many of their hashes as there is time for."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping

from alexnet_dist.data.reader import Split
from alexnet_dist.data.shards import LocalFiles
from alexnet_dist.doctor.findings import Finding

HASHING_S = 10.0
ADVICE = "copy it again from where it is whole, or pack the set again; until then its samples are replaced by others"


def examine_shards(splits: Mapping[str, Split], share: int, shares: int) -> Finding:
    """Compare hashes with those of the manifests, in a random order, for HASHING_S; sizes were compared when opened.

    share, shares: of the shards, those whose number is share modulo shares; the ranks of a machine divide them.
    """
    files = [
        (split.root.root / shard.name, shard)
        for split in splits.values()
        if isinstance(split.root, LocalFiles)
        for shard in split.manifest.shards
    ]
    if not files:
        return Finding("shards", "ok", "remote: each is compared with its hash when it is downloaded")
    own = files[share::shares]
    random.Random(share).shuffle(own)
    end_s, seen, damaged = time.monotonic() + HASHING_S, 0, []
    for path, shard in own:
        if seen and time.monotonic() > end_s:
            break
        seen += 1
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            damaged.append(f"{path}: {error.strerror}")
            continue
        if found != shard.sha256:
            damaged.append(f"{path}: sha256 {found[:12]}..., expected {shard.sha256[:12]}... by its manifest")
    if not own:
        return Finding("shards", "ok", f"{len(files)} of the right sizes; other ranks compare their hashes")
    if damaged:
        return Finding(
            "shards", "fail", f"{len(damaged)} of {seen} looked at are damaged: {'; '.join(damaged[:3])}", ADVICE
        )
    return Finding(
        "shards", "ok", f"{len(files)} of the right sizes; the hashes of {seen} of this rank's {len(own)} match"
    )
