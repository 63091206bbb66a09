"""The layout 'webdataset': shards written by pack or by others; images and labels are read from the tars in place.

The class of an image is the name of its label in the manifest beside the shards, if there is one; or the WordNet id in
its key, as in ``n01440764_10026``, if every key has one; or the text of its label, which `class_texts` reads.
`shard_members` and `shard_keys` say which members are an image and its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Manifest, Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.class_texts import ReadTexts, read_texts
from alexnet_dist.pack.sources.classes import check_no_class_lost, class_labels, matching_classes
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.pack.sources.listing import ImageFile, ImageSource, build_source
from alexnet_dist.pack.sources.names import base_name
from alexnet_dist.pack.sources.shard_classes import (
    first_locations,
    names_by_manifest,
    names_by_train_keys,
    names_in_samples,
)
from alexnet_dist.pack.sources.shard_files import OTHER_FILES_RULE, check_complete, left_out, split_shards
from alexnet_dist.pack.sources.shard_members import LABEL_EXTENSION
from alexnet_dist.pack.sources.shard_readings import read_shards
from alexnet_dist.pack.sources.shard_samples import Sample, ShardSamples, where


def list_split(
    root: Path,
    split: SplitName,
    train_classes: tuple[str, ...] | None,
    fields: SampleFields = DETECTED,
    *,
    allow_missing: bool = False,
) -> ImageSource:
    """List the samples of a split's shards.

    Raises UserError if the class of an image cannot be determined, or could be two; and unless `allow_missing`, for
    shards that are missing although the manifest or the names of others say that there are some.
    """
    shards = split_shards(root, split)
    manifest = _manifest(root, split, fields)
    complete = check_complete(root, shards, manifest, allow_missing)
    contents, notes = read_shards(root, shards, fields)
    _check_usable(root, contents, fields)
    own_classes = None if manifest is None else tuple(described.name for described in manifest.classes)
    if own_classes is None:
        names, more_notes = _names(root, split, contents.samples, train_classes, fields)
    else:
        names, more_notes = names_by_manifest(root, contents.samples, own_classes), ()
    first_seen = first_locations(root, contents.samples, names)
    usable = {name for sample, name in zip(contents.samples, names, strict=True) if sample.problem is None}
    texts = {name: location for name, location in first_seen.items() if name in usable or train_classes is None}
    read = read_texts(texts, train_classes or own_classes, str(root))
    files, unusable = _files(contents.samples, names, read)
    left_out_tars, other_files = left_out(root, split, shards)
    source = build_source(
        root,
        read.classes,
        files,
        [*left_out_tars, *contents.rejected, *unusable],
        None if manifest is None else {described.name: described.words or "" for described in manifest.classes},
        seen=contents.seen + len(left_out_tars) + other_files,
        ignored={**contents.ignored, OTHER_FILES_RULE: other_files},
        notes=(*complete.notes, *notes, *more_notes, *read.notes),
        missing=complete.missing,
    )
    check_no_class_lost(
        source, {read.class_of.get(text, text): location for text, location in reversed(first_seen.items())}
    )
    return source


def _names(
    root: Path,
    split: SplitName,
    samples: Sequence[Sample],
    train_classes: tuple[str, ...] | None,
    fields: SampleFields,
) -> tuple[list[str], tuple[str, ...]]:
    """Return the name of each sample's class without a manifest, and a note if train's shards beside gave it."""
    names = names_in_samples(root, samples, train_classes, fields.label is not None)
    if split == "train" or train_classes is None or matching_classes(set(names), train_classes):
        return names, ()
    id_of = names_by_train_keys(root, fields, names)
    if not id_of:
        return names, ()
    first = min(filter(None, names), key=int)
    note = f"{root}: the labels mean what they do in the train shards, whose keys have the classes: {first} is "
    return [id_of.get(name, "") for name in names], (note + id_of[first],)


def _files(samples: Sequence[Sample], names: Sequence[str], read: ReadTexts) -> tuple[list[ImageFile], list[Rejected]]:
    """Return the images of the samples that can be used, and the others; names: of their classes in the shards."""
    labels = class_labels(read.classes)
    files: list[ImageFile] = []
    rejected: list[Rejected] = []
    for sample, text in zip(samples, names, strict=True):
        image = sample.image
        if sample.problem is not None:
            rejected.append(Rejected(where(sample.shard, image), sample.problem))
            continue
        name = read.class_of[text]
        file_name = f"{name}/{base_name(image.name)}"
        files.append(ImageFile(file_name, labels[name], image.size_bytes, sample.shard, image.offset))
    return files, rejected


def _manifest(root: Path, split: SplitName, fields: SampleFields) -> Manifest | None:
    """Return pack's manifest beside the shards, which names the classes of their .cls; None if there is none."""
    path = manifests.manifest_path(root, split)
    of_labels = fields.label_member in (None, LABEL_EXTENSION) and fields.json_key is None
    return manifests.load(path) if of_labels and path.exists() else None


def _check_usable(root: Path, contents: ShardSamples, fields: SampleFields) -> None:
    """Raise UserError if no image of the shards has a label that can be used."""
    if not contents.samples:
        first = contents.rejected[0] if contents.rejected else None
        detail = f"{first.file}: {first.reason}" if first else "they are empty"
        raise UserError(f"{root}: the shards of this split hold no images in {contents.seen} members: {detail}")
    if all(sample.problem is not None for sample in contents.samples):
        sample = contents.samples[0]
        raise UserError(
            f"{root}: no image has a class: expected a .{fields.label_member or LABEL_EXTENSION} beside each image; "
            f"{where(sample.shard, sample.image)}: {sample.problem}. If another member has the label, give its field, "
            "as in --label-field txt, or --label-field json:label for a key of a .json"
        )
