"""Hostile manifests: refused with the cause named, in bounded memory, without writing files outside the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.data import remote
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError
from support.remote_server import HttpServer
from support.remote_sets import edit_manifest, remote_set, samples_sha256

Pack = Callable[..., Path]


def shards_with(root: Path, **keys: object) -> list[Any]:
    """Return the manifest's shards with keys of the second shard changed."""
    shards: list[Any] = json.loads((root / "train.manifest.json").read_text())["shards"]
    shards[1].update(keys)
    return shards


def with_images(root: Path, *images: int) -> list[Any]:
    """Return the manifest's shards with these image counts."""
    return [{**shard, "images": count} for shard, count in zip(shards_with(root), images, strict=True)]


Damage = Callable[[Path], object]
HOSTILE: dict[str, tuple[Damage, str]] = {
    "a scheme in a shard's name": (
        lambda root: edit_manifest(root, shards=shards_with(root, name="pipe:rm.tar")),
        r"shards\.1\.name: .*pipe:rm\.tar",
    ),
    "a way out of the folder": (
        lambda root: edit_manifest(root, shards=shards_with(root, name="../../x.tar")),
        r"shards\.1\.name: .*\.\./x\.tar",
    ),
    "counts that do not add up": (
        lambda root: edit_manifest(root, shards=shards_with(root, images=2)),
        "images: 20, but the shards' images add up to 21",
    ),
    "counts of other shards": (
        lambda root: edit_manifest(root, shards=with_images(root, 7, 2, 11)),
        r"train\.index\.npy: row 8 does not have bytes after those of the previous row.*shards\.images",
    ),
    "an index of other bytes": (
        lambda root: edit_manifest(root, index={"name": "train.index.npy", "sha256": "0" * 64}),
        r"train\.index\.npy: .* sha256 .*expected 000000000000\.\.\. by its manifest.*3 times",
    ),
    "a mean that is not there": (
        lambda root: edit_manifest(root, mean={"name": "mean.npy", "sha256": "0" * 64}),
        r"mean\.npy: no such file there",
    ),
    "a shard without end": (
        lambda root: edit_manifest(root, shards=shards_with(root, size_bytes=10**30)),
        r"shard train-000001\.tar has 1,000,000,.* bytes, more than data\.cache_bytes = 10,000,000",
    ),
    "images without end": (
        lambda root: edit_manifest(root, images=10**18 + 19, shards=shards_with(root, images=10**18)),
        r"1000000000000000019 images of 16 pixels a side make train\.index\.npy larger than 1,073,741,824 bytes",
    ),
    "another split": (lambda root: edit_manifest(root, split="val", mean=None, colour=None), "describes split val"),
    "a page": (
        lambda root: (root / "train.manifest.json").write_bytes(b"<html> Welcome!"),
        r"Invalid JSON.* check data\.root: the response begins with b'<html> Welcome!'$",
    ),
    "half a manifest": (
        lambda root: os.truncate(root / "train.manifest.json", 700),
        r"Invalid JSON: EOF.* check that the server sends the whole file, and copy the packed set there again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_by_name(
    name: str, pack_tiny: Pack, http_server: HttpServer, tmp_path: Path
) -> None:
    root = pack_tiny()
    damage, text = HOSTILE[name]
    damage(root)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=text) as caught:
        Split.open(remote_set(http_server.url(root), tmp_path), "train")
    assert str(caught.value).startswith(http_server.url(root))
    # Only the cache is written, and it contains only files named by their hash.
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before] in ([], [tmp_path / "cache"])
    assert all(len(path.stem) == 64 or path.name == ".lock" for path in tmp_path.glob("cache/**/*"))


def test_a_manifest_without_end_is_refused_at_once(
    pack_tiny: Pack, http_server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote.MAX_MANIFEST_BYTES >= 256 << 20  # any set that can be read from a folder can be read remotely
    monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 50_000)
    root = pack_tiny()
    (root / "train.manifest.json").write_bytes(b"[" * 50_001)
    url = http_server.url(root / "train.manifest.json")
    with pytest.raises(UserError, match=rf"^{url}: more than 50,000 bytes, the limit for a remote .* data\.root"):
        Split.open(remote_set(http_server.url(root), tmp_path), "train")
    assert http_server.gets() == {"train.manifest.json": 1}


def test_a_shard_of_other_bytes_is_refused(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    root = pack_tiny()
    edit_manifest(root, shards=shards_with(root, sha256="0" * 64))
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    url = http_server.url(root / "train-000001.tar")
    with pytest.raises(UserError, match=rf"{url}: .* sha256 .*expected 000000000000\.\.\. by its manifest.*3 times"):
        samples_sha256(split)
