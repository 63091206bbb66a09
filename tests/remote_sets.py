"""Packed sets under a URL of the tests' server, read without ambition: short waits, a cache in the test's folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from alexnet_dist.data.download import Patience
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import Remote, in_child, locate

HASTE = Patience(waits_s=(0.01, 0.01), stall_s=2.0)


def place(url: str, tmp_path: Path, cache_bytes: int = 10_000_000) -> Remote:
    """Return the remote place under a URL, with a cache of its own."""
    found = locate(url, str(tmp_path / "cache"), cache_bytes, HASTE)
    assert isinstance(found, Remote)
    return found


def samples(split: Split) -> str:
    """Return a hash of a split's images and labels, read in a process of its own, as a loader's worker does."""

    def work() -> str:
        content = hashlib.sha256(split.labels.tobytes())
        for sample in range(split.images):
            content.update(split.jpeg(sample))
        return content.hexdigest()

    return in_child(work)


def change(root: Path, **keys: object) -> None:
    """Change keys of a training set's manifest by hand."""
    path = root / "train.manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
