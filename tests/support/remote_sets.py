"""Packed sets under a URL of the tests' server, read without ambition: short waits, a cache in the test's folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path

from alexnet_dist.data.download import RetryPolicy
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import Remote, in_child, locate

HASTE = RetryPolicy(waits_s=(0.01, 0.01), stall_s=2.0)


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


def cache_bytes(folder: Path) -> int:
    """Return the bytes that a cache's files have or will have, at one moment: under the cache's own lock.

    A file that is renamed meanwhile may be seen twice, and counts once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name.removesuffix(".part")] = entry.stat().st_size
    return sum(sizes.values())


def change(root: Path, **keys: object) -> None:
    """Change keys of a training set's manifest by hand."""
    path = root / "train.manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
