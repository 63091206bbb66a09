"""The layout 'webdataset': shards written by pack or by others; images and ``.cls`` are read from the tars in place.

The class of an image is the first of these that exists: the name of its label in the manifest beside the shards; the
WordNet id in its key, as in ``n01440764_10026``; for a number in its .cls, the class with that label in the packed
training split; the text of its .cls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.classes import check_no_class_lost, class_labels, resolve_class, sorted_classes
from alexnet_dist.pack.sources.listing import ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import SPLIT_NAMES, base_name, readable

IMAGES, LABEL = (".jpg", ".jpeg", ".png"), ".cls"
LARGEST_LABEL_BYTES = 256
WORDNET_KEY = re.compile(r"(?:^|_)(n\d{8})(?:_|$)")


class Sample(NamedTuple):
    """An image in a shard with the text of its label; problem: why it cannot be used."""

    shard: str
    key: str
    image: tars.Member
    label: str
    problem: str | None


def list_split(root: Path, split: SplitName, train_classes: tuple[str, ...] | None) -> ImageSource:
    """List the samples of a split's shards; raises UserError if the class of an image cannot be determined."""
    shards = split_shards(root, split)
    descriptions = _manifest_classes(root, split)
    samples = [sample for shard in shards for sample in _read_samples(root / shard)]
    names = [_class_name(sample, descriptions, train_classes) for sample in samples]
    classes = train_classes or tuple(descriptions or sorted_classes({name for name in names if name}))
    if not classes:
        raise UserError(f"{root}: no image has a class: expected a .cls, or a WordNet id in the key, beside each image")
    labels = class_labels(classes)
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    first_seen: dict[str, str] = {}
    for sample, unresolved in zip(samples, names, strict=True):
        where = f"{readable(sample.shard)}: {sample.image.name}"
        name = resolve_class(unresolved, labels)
        first_seen.setdefault(name, str(root / where))
        if sample.problem is not None:
            rejected.append(Rejected(where, sample.problem))
            continue
        if name not in labels:
            raise UserError(f"{root / where}: its class {unresolved!r} is not among the {len(classes)} known classes")
        extension = os.path.splitext(sample.image.name)[1]  # noqa: PTH122
        file_name = f"{name}/{base_name(sample.key)}{extension}"
        files.append(ImageFile(file_name, labels[name], sample.image.size_bytes, sample.shard, sample.image.offset))
    source = build_source(root, classes, files, rejected, descriptions)
    check_no_class_lost(source, first_seen)
    return source


def split_shards(root: Path, split: SplitName) -> list[str]:
    """Return the names of a split's shards: those with the split in their name, or all if none names any split."""
    names = sorted(path.name for path in root.glob("*.tar") if path.is_file())
    by_split = {
        name_of: [name for name in names if set(re.split(r"[^a-z]+", name.lower())) & set(split_names)]
        for name_of, split_names in SPLIT_NAMES.items()
    }
    shards = by_split[split] if any(by_split.values()) else names
    if not shards:
        raise UserError(f"{root}: none of its {len(names)} tars is named for split {split}, such as {split}-000000.tar")
    return shards


def _manifest_classes(root: Path, split: SplitName) -> dict[str, str] | None:
    """Return the classes in pack's manifest beside the shards, each with its description or ""; None without one."""
    path = manifests.manifest_path(root, split)
    if not path.exists():
        return None
    return {described.name: described.words or "" for described in manifests.load(path).classes}


def _class_name(sample: Sample, manifest_classes: dict[str, str] | None, train_classes: tuple[str, ...] | None) -> str:
    """Return the name of a sample's class, or the text of its label, which `resolve_class` may have to pad."""
    text = sample.label
    number = int(text) if text.isascii() and text.isdigit() else None
    if manifest_classes is not None and number is not None and number < len(manifest_classes):
        return list(manifest_classes)[number]
    in_key = WORDNET_KEY.search(base_name(sample.key))
    if in_key:
        return in_key[1]
    if train_classes is not None and number is not None and number < len(train_classes):
        return train_classes[number]
    return text


def _read_samples(path: Path) -> Iterator[Sample]:
    """Yield a shard's samples: consecutive members with one key, which is the name up to its first dot."""
    with path.open("rb", buffering=0) as file:
        key, parts = "", dict[str, tars.Member]()
        for member in tars.file_members(path):
            folder, slash, file_name = member.name.rpartition("/")
            stem, dot, extension = file_name.partition(".")
            if member.problem is not None:
                yield Sample(path.name, member.name, member, "", member.problem)
                continue
            if folder + slash + stem != key:
                yield from _sample(path, key, parts, file.fileno())
                key, parts = folder + slash + stem, {}
            parts[dot + extension.lower()] = member
        yield from _sample(path, key, parts, file.fileno())


def _sample(path: Path, key: str, parts: dict[str, tars.Member], descriptor: int) -> Iterator[Sample]:
    """Yield the sample with these members, by extension, if one of them is an image."""
    image = next((parts[extension] for extension in IMAGES if extension in parts), None)
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
