"""The classes of the images in shards: by a manifest, by WordNet ids in the keys, or by the texts of the labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.classes import is_number, matching_classes
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.names import base_name
from alexnet_dist.pack.sources.shard_files import train_shards
from alexnet_dist.pack.sources.shard_readings import read_shards
from alexnet_dist.pack.sources.shard_samples import Sample, where

WORDNET_KEY = re.compile(r"(?:^|_)(n\d{8})(?:_|$)")
BY_LABEL = "--label-field cls reads the labels alone"


def names_by_manifest(root: Path, samples: Sequence[Sample], classes: tuple[str, ...]) -> list[str]:
    """Return the name of each sample's class, whose label is an index of the classes in the manifest beside the shards.

    The name is empty for a sample that cannot be used. Raises UserError for a label that is no such index.
    """
    names: list[str] = []
    for sample in samples:
        if sample.problem is None and not (is_number(sample.label) and int(sample.label) < len(classes)):
            raise UserError(
                f"{root / where(sample.shard, sample.image)}: its label is {sample.label!r}, and the manifest beside "
                f"the shards has the labels 0 to {len(classes) - 1}. Move it away if it is not of these shards"
            )
        names.append("" if sample.problem is not None else classes[int(sample.label)])
    return names


def names_in_samples(
    root: Path, samples: Sequence[Sample], train_classes: tuple[str, ...] | None, label_given: bool
) -> list[str]:
    """Return the name of each sample's class, from its key or its label; empty for one without either.

    A WordNet id in the key names the class if every key has one, and unless the labels are names of the packed training
    split's classes. label_given: whether the user gave the label's field, so that keys do not count. Raises UserError
    if keys and labels disagree.
    """
    ids = ["" if label_given else _wordnet_id(sample) for sample in samples]
    usable = [(sample, name) for sample, name in zip(samples, ids, strict=True) if sample.problem is None]
    by_key = _by_key(root, usable, train_classes)
    known = None if train_classes is None else set(train_classes)
    names: list[str] = []
    for sample, name in zip(samples, ids, strict=True):
        if sample.problem is None:
            names.append(name if by_key else sample.label)
        else:
            # So that a class without any usable image is noticed.
            names.append(name if known is None or name in known else "")
    return names


def names_by_train_keys(root: Path, fields: SampleFields, names: Sequence[str]) -> dict[str, str]:
    """Return what the train shards in the same folder say that labels mean: the WordNet ids in the keys beside them.

    names: the labels to look up, for which shards are read until all are found. Empty unless they are numbers, every
    key that is read has an id, and ids and labels are one to one.
    """
    wanted = set(filter(None, names))
    id_of: dict[str, str] = {}
    if not all(map(is_number, wanted)):
        return {}
    for shard in train_shards(root):
        contents, _ = read_shards(root, [shard], fields)
        usable = [(sample, _wordnet_id(sample)) for sample in contents.samples if sample.problem is None]
        if not all(name for _, name in usable):
            return {}
        for sample, name in usable:
            if id_of.setdefault(sample.label, name) != name:
                return {}
        if wanted <= set(id_of):
            break
    one_to_one = len(set(id_of.values())) == len(id_of)
    return id_of if one_to_one and wanted <= set(id_of) else {}


def first_locations(root: Path, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, str]:
    """Return where each name of a class occurs first."""
    locations: dict[str, str] = {}
    for sample, name in zip(samples, names, strict=True):
        if name and name not in locations:
            locations[name] = str(root / where(sample.shard, sample.image))
    return locations


def _wordnet_id(sample: Sample) -> str:
    in_key = WORDNET_KEY.search(base_name(sample.key))
    return in_key[1] if in_key else ""


def _by_key(root: Path, usable: Sequence[tuple[Sample, str]], train_classes: tuple[str, ...] | None) -> bool:
    """Return whether the WordNet ids in the keys are the names of the classes, rather than the labels."""
    if not any(name for _, name in usable):
        return False
    labels = {sample.label for sample, _ in usable}
    if train_classes is not None:
        matches = matching_classes(labels, train_classes)
        if len(matches) == len(labels):
            known = set(train_classes)
            for sample, name in usable:
                if name in known and matches[sample.label] != name:
                    raise UserError(_disagreement(root, sample, name, f"label is the class {sample.label}"))
            return False
    if all(name for _, name in usable):
        _check_one_to_one(root, usable)
        return True
    if all(name in ("", sample.label) for sample, name in usable):
        return False
    with_id, without = (next(s for s, name in usable if bool(name) is has) for has in (True, False))
    raise UserError(
        f"{root / where(with_id.shard, with_id.image)}: its key has the class {_wordnet_id(with_id)}, but the key of "
        f"{where(without.shard, without.image)} has none: {BY_LABEL}; or pack the two kinds of shards separately"
    )


def _check_one_to_one(root: Path, usable: Sequence[tuple[Sample, str]]) -> None:
    """Raise UserError if images of one class by their keys have several labels, or the other way round."""
    label_of: dict[str, str] = {}
    id_of: dict[str, str] = {}
    for sample, name in usable:
        label, other = label_of.setdefault(name, sample.label), id_of.setdefault(sample.label, name)
        if label != sample.label:
            raise UserError(_disagreement(root, sample, name, f"label is {sample.label}, that of others is {label}"))
        if other != name:
            raise UserError(_disagreement(root, sample, name, f"label {label} is that of keys with {other} too"))


def _disagreement(root: Path, sample: Sample, name: str, labels: str) -> str:
    return (
        f"{root / where(sample.shard, sample.image)}: its key has the class {name}, but its {labels}. {BY_LABEL}; or "
        "rename the keys"
    )
