"""Packed sets under a URL of the tests' server, opened with short retry waits and a cache in the test's folder."""

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

FAST_RETRIES = RetryPolicy(waits_s=(0.01, 0.01), stall_s=2.0)


def remote_set(url: str, tmp_path: Path, cache_bytes: int = 10_000_000) -> Remote:
    """Return the packed set under a URL, with its own cache in tmp_path."""
    remote = locate(url, str(tmp_path / "cache"), cache_bytes, FAST_RETRIES)
    assert isinstance(remote, Remote)
    return remote


def samples_sha256(split: Split) -> str:
    """Return the sha256 of a split's images and labels, read in a separate process like a loader's worker."""

    def read_all() -> str:
        content = hashlib.sha256(split.labels.tobytes())
        for sample in range(split.images):
            content.update(split.jpeg(sample))
        return content.hexdigest()

    return in_child(read_all)


def cache_bytes(folder: Path) -> int:
    """Return the bytes that a cache's files occupy or have reserved, counted under the cache's lock.

    A file that is renamed during the scan may be listed twice, but counts once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name.removesuffix(".part")] = entry.stat().st_size
    return sum(sizes.values())


def edit_manifest(root: Path, **keys: object) -> None:
    """Overwrite keys of a training set's manifest."""
    path = root / "train.manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
