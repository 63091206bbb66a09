"""Existing WebDataset shards as a source, ours or others': images and ``.cls`` are read from the tars in place.

The class of an image is, in this order: what the manifest beside the shards calls its label; the WordNet id in its
key, as in ``n01440764_10026``; the text of its .cls, or the class of that number in the packed training split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.manifest import Rejected, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.lists import class_names, padded
from alexnet_dist.pack.sources.names import SPLIT_NAMES, readable
from alexnet_dist.pack.sources.source import File, Source, labels_of, listed, none_lost

IMAGES, LABEL = (".jpg", ".jpeg", ".png"), ".cls"
LARGEST_LABEL_BYTES = 256
WORDNET_KEY = re.compile(r"(?:^|_)(n\d{8})(?:_|$)")


class Sample(NamedTuple):
    """An image in a shard with the text of its label; problem: why it cannot be taken."""

    shard: str
    key: str
    image: tars.Member
    label: str
    problem: str | None


def find(root: Path, split: SplitName, train: tuple[str, ...] | None) -> Source:
    """List the samples of a split's shards; raises UserError where no class can be told."""
    shards = shards_of(root, split)
    named = _named_classes(root, split)
    samples = [sample for shard in shards for sample in _samples(root / shard)]
    names = [_class_name(sample, named, train) for sample in samples]
    classes = train or (tuple(named) if named else class_names({name for name in names if name}))
    if not classes:
        raise UserError(f"{root}: no image has a class: expected a .cls, or a WordNet id in the key, beside each image")
    labels = labels_of(classes)
    files: list[File] = []
    rejected: list[Rejected] = []
    met: dict[str, str] = {}
    for sample, found in zip(samples, names, strict=True):
        ending = os.path.splitext(sample.image.name)[1]  # noqa: PTH122
        where = f"{readable(sample.shard)}: {sample.image.name}"
        name = found if found in labels else padded(found, classes)
        met.setdefault(name, str(root / where))
        if sample.problem is not None:
            rejected.append(Rejected(where, sample.problem))
            continue
        if name not in labels:
            raise UserError(f"{root / where}: its class {found!r} is not among the {len(classes)} known ones")
        plain = f"{name}/{sample.key.rsplit('/', 1)[-1]}{ending}"
        files.append(File(plain, labels[name], sample.image.size_bytes, sample.shard, sample.image.offset))
    return none_lost(listed(root, classes, files, rejected, named or {}), met)


def shards_of(root: Path, split: SplitName) -> list[str]:
    """Return the names of a split's shards: those that name it, or all where none names any split."""
    names = sorted(path.name for path in root.glob("*.tar") if path.is_file())
    by_split = {
        one: [name for name in names if set(re.split(r"[^a-z]+", name.lower())) & set(words)]
        for one, words in SPLIT_NAMES.items()
    }
    found = by_split[split] if any(by_split.values()) else names
    if not found:
        raise UserError(f"{root}: none of its {len(names)} tars is named for split {split}, such as {split}-000000.tar")
    return found


def _named_classes(root: Path, split: SplitName) -> dict[str, str] | None:
    """Return the classes that our own manifest beside the shards names, with their words where it has them."""
    path = manifests.manifest_path(root, split)
    if not path.exists():
        return None
    return {described.name: described.words or "" for described in manifests.load(path).classes}


def _class_name(sample: Sample, named: dict[str, str] | None, train: tuple[str, ...] | None) -> str:
    """Return the name of a sample's class as far as it is known: a number may yet have to be padded."""
    text = sample.label
    number = int(text) if text.isascii() and text.isdigit() else None
    if named is not None and number is not None and number < len(named):
        return list(named)[number]
    in_key = WORDNET_KEY.search(sample.key.rsplit("/", 1)[-1])
    if in_key:
        return in_key[1]
    return train[number] if train is not None and number is not None and number < len(train) else text


def _samples(path: Path) -> Iterator[Sample]:
    """Yield a shard's samples: neighbouring members of one key, which is the name up to its first dot."""
    with path.open("rb", buffering=0) as file:
        key, parts = "", dict[str, tars.Member]()
        for member in tars.list_file(path):
            folder, slash, plain = member.name.rpartition("/")
            stem, dot, ending = plain.partition(".")
            if member.problem is not None:
                yield Sample(path.name, member.name, member, "", member.problem)
                continue
            if folder + slash + stem != key:
                yield from _sample(path, key, parts, file.fileno())
                key, parts = folder + slash + stem, {}
            parts[dot + ending.lower()] = member
        yield from _sample(path, key, parts, file.fileno())


def _sample(path: Path, key: str, parts: dict[str, tars.Member], descriptor: int) -> Iterator[Sample]:
    image = next((parts[ending] for ending in IMAGES if ending in parts), None)
    if image is None:
        return
    label = parts.get(LABEL)
    if label is None or label.size_bytes > LARGEST_LABEL_BYTES:
        problem = "no .cls beside it" if label is None else f"its .cls has {label.size_bytes} bytes"
        yield Sample(path.name, key, image, "", problem)
        return
    text = os.pread(descriptor, label.size_bytes, label.offset).decode(errors="replace").strip()
    if text and "/" not in text and text.isprintable():
        yield Sample(path.name, key, image, text, None)
    else:
        yield Sample(path.name, key, image, "", f"its .cls is {text[:40]!r}")
