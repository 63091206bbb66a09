"""Mutated untrusted manifests and arrays are opened or rejected with UserError; no bytes cause anything else."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alexnet_dist.data.cache import Cache, RemoteFile
from alexnet_dist.data.download import RetryPolicy
from alexnet_dist.data.manifest import Manifest, Sidecar, parse
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.data.remote import Remote, sidecars
from alexnet_dist.errors import UserError

Pack = Callable[..., Path]
NAME = "http://untrusted/train.manifest.json"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 12, 2**31, 2**63, 2**64, 10**30, -(10**400), 0.5, 1e308, float("nan"),
    float("inf"), "", "train", "val", "test", "a" * 1000, "\ud800", "\x00", "../x.tar", "pipe:x.tar", "http://h/x.tar",
    "train-000000.tar", "0" * 64, "g" * 64, [], {}, [[]], [0] * 50, {"name": 1}, {"": {}}, [None, {}], [[1.0] * 3] * 3,
)  # fmt: skip
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"null",
    b"1e999",
    b"-",
    b"\xff",
    b"\x00",
    b"[" * 300,
    b"0" * 500,
]


class UntrustedRemote(Remote):
    """A fake remote set that was downloaded: bytes of a manifest and of arrays, shards in the cache, no network."""

    def __init__(self, cache: Cache, content: bytes, arrays: dict[str, bytes]) -> None:
        super().__init__("http://untrusted", cache, RetryPolicy())
        self.content, self.arrays = content, arrays

    def manifest(self, _split: str) -> Manifest:
        manifest = parse(self.content, NAME)
        sidecars(manifest, NAME)
        return manifest

    def sidecar(self, sidecar: Sidecar) -> bytes:
        if sidecar.sha256 not in self.arrays:
            raise UserError("not there")
        return self.arrays[sidecar.sha256]

    def fetch(self, *_: object, **__: object) -> bool:
        raise UserError("not there")


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a tree."""
    paths = [path]
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            paths += paths_of(child, (*path, key))
    return paths


def mutate_tree(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change, remove, copy or add some values."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        *parents, key = rng.choice(paths_of(tree)[1:])
        node: Any = tree
        for parent in parents:
            node = node[parent]
        mutation = rng.randrange(5)
        if mutation == 0:
            del node[key]
        elif mutation == 1 and isinstance(node, list):
            node.insert(rng.randint(0, len(node)), copy.deepcopy(node[key]))
        elif mutation == 2 and isinstance(node[key], int | float):
            node[key] += rng.choice((-1, 1, 1000))
        elif mutation == 3 and isinstance(node, dict):
            node[rng.choice(("extra", "name", "images", "\u2028"))] = copy.deepcopy(rng.choice(ODD))
        else:
            node[key] = copy.deepcopy(rng.choice(ODD))
        if len(paths_of(tree)) < 3:
            break
    return tree


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Truncate, overwrite, flip, remove or repeat some bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        end = start + rng.choice((0, 1, 2, 10, 200))
        mutation = rng.randrange(5)
        if mutation == 0:
            del changed[start:end]
        elif mutation == 1:
            changed[start:start] = rng.choice(TOKENS)
        elif mutation == 2 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif mutation == 3:
            changed[start:start] = changed[start:end]
        else:
            changed[start:end] = bytes(rng.randrange(256) for _ in range(min(8, end - start)))
    return bytes(changed[: rng.randrange(len(changed))] if changed and rng.random() < 0.05 else changed)


def mutant(tree: dict[str, Any], arrays: dict[str, bytes], rng: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """Return a manifest and arrays, one of them mutated; the hash of a mutated array is put into the manifest."""
    mutation = rng.randrange(3)
    if mutation == 0:
        return json.dumps(mutate_tree(tree, rng)).encode(), arrays
    if mutation == 1:
        return mutate_bytes(json.dumps(tree, indent=rng.choice((None, 1))).encode(), rng), arrays
    tree, which = copy.deepcopy(tree), rng.choice(("index", "mean"))
    # Mostly the header, which numpy parses as a Python literal.
    header, rest = arrays[tree[which]["sha256"]][:128], arrays[tree[which]["sha256"]][128:]
    content = mutate_bytes(header, rng) + (rest if rng.random() < 0.5 else mutate_bytes(rest, rng))
    tree[which]["sha256"] = hashlib.sha256(content).hexdigest()
    return json.dumps(tree).encode(), arrays | {tree[which]["sha256"]: content}


def open_and_read(files: UntrustedRemote) -> bool:
    """Open and read an untrusted set; return whether it was opened."""
    message = ""
    try:
        split = Split.open(files, "train")
    except UserError as error:
        message = str(error)
    if message:
        assert message.startswith("http://untrusted/") or message == "not there"
        return False
    assert parse(split.manifest.text.encode(), NAME) == split.manifest
    assert split.mean.shape == (3, split.manifest.size, split.manifest.size)
    for sample in range(split.images):
        try:
            split.jpeg(sample)
        except (BadSample, UserError):
            continue
    return True


def test_fuzz_untrusted_input_cannot_crash_the_parser(
    fuzz_seeds: Iterator[int], pack_tiny: Pack, tmp_path: Path
) -> None:
    root = pack_tiny()
    tree = json.loads((root / "train.manifest.json").read_text())
    arrays = {tree[which]["sha256"]: (root / tree[which]["name"]).read_bytes() for which in ("index", "mean")}
    cache = Cache(tmp_path / "cache", 10_000_000)
    cache.folder.mkdir()
    for shard in tree["shards"]:
        file = RemoteFile(shard["name"], shard["sha256"], shard["size_bytes"])
        cache.path(file).write_bytes((root / shard["name"]).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert open_and_read(UntrustedRemote(cache, json.dumps(tree).encode(), arrays))

    opened = rejected = 0
    for seed in fuzz_seeds:
        content, changed = mutant(tree, arrays, random.Random(seed))
        try:
            is_opened = open_and_read(UntrustedRemote(cache, content, changed))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        opened, rejected = opened + is_opened, rejected + (not is_opened)
    assert sorted(tmp_path.rglob("*")) == before
    assert opened > 10  # mutants without a relevant change, such as of a class's words
    assert rejected > 50
    print(f"{opened} opened, {rejected} rejected")
