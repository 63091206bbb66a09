"""The samples of one shard: its members grouped by key, each an image with the text of its label.

Every member is accounted for: it is the image of a sample, or rejected with a reason, or counted by the rule that
ignores it. Members of one key need not be adjacent. Of images with the same name the last counts, as when a tar is
unpacked; but where a key occurs again as an adjacent image and label, both are samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.label_members import LabelReader
from alexnet_dist.pack.sources.names import base_name, readable
from alexnet_dist.pack.sources.shard_groups import Doubt, Group, Part, find_conflicts, find_unpaired
from alexnet_dist.pack.sources.shard_keys import KeyReading, beginnings, longest_key
from alexnet_dist.pack.sources.shard_members import Kind, member_kind

METADATA_RULE = "labels and metadata beside images (.cls, .json, .txt)"
OTHER_FIELDS_RULE = "other fields than --image-field beside images"
HIDDEN, UNKNOWN_TYPE = "hidden", "neither an image nor .cls, .json or .txt"
NO_IMAGE, REPLACED = "no image beside it", "a later member of the same name replaces it"


class Sample(NamedTuple):
    """An image in a shard with the text of its label; problem: why it cannot be used. label_offset: -1 without one."""

    shard: str
    key: str
    image: tars.Member
    label: str
    problem: str | None
    label_offset: int = -1


@dataclass
class ShardSamples:
    """What a shard holds in one reading of its keys.

    conflicts: keys with images, or labels, in several fields; their members are not accounted for. unpaired: images
    or labels that are alone and could belong to others in another reading.
    """

    samples: list[Sample] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    conflicts: list[Doubt] = field(default_factory=list)
    unpaired: list[Doubt] = field(default_factory=list)

    def add(self, other: ShardSamples) -> None:
        """Add what another shard holds."""
        self.samples += other.samples
        self.rejected += other.rejected
        self.ignored += other.ignored
        self.seen += other.seen
        self.conflicts += other.conflicts
        self.unpaired += other.unpaired


def read_shard(path: Path, reading: KeyReading, fields: SampleFields) -> ShardSamples:
    """Return the samples of a shard; raises UserError if the tar is damaged."""
    with path.open("rb", buffering=0) as file:
        return _ShardReader(path, reading, fields, file.fileno()).read()


class _ShardReader:
    """Reads one shard; its results accumulate in `_result`."""

    def __init__(self, path: Path, reading: KeyReading, fields: SampleFields, descriptor: int) -> None:
        self._path, self._reading, self._fields, self._descriptor = path, reading, fields, descriptor
        self._labels = LabelReader(descriptor, fields)
        self._result = ShardSamples()

    def read(self) -> ShardSamples:
        """Group the members by key, and make a sample of each group with an image."""
        parts: dict[Kind, list[Part]] = {Kind.IMAGE: [], Kind.LABEL: [], Kind.METADATA: [], Kind.OTHER: []}
        position = 0
        for member in tars.file_members(self._path):
            self._result.seen += 1
            name = member.name.removeprefix("./")
            if member.problem is not None or name.startswith(".") or "/." in name:
                self._reject(member, member.problem or HIDDEN)
                continue
            kind = member_kind(member, self._fields, self._descriptor)
            position += kind in (Kind.IMAGE, Kind.LABEL)
            parts[kind].append(Part(position, name, member))
        groups = self._groups(parts[Kind.IMAGE], parts[Kind.LABEL])
        for key, group in groups.items():
            self._add_group(key, group)
        self._account(parts[Kind.METADATA], {key for key, group in groups.items() if group.images})
        for part in parts[Kind.OTHER]:
            self._reject(part.member, UNKNOWN_TYPE)
        self._result.unpaired = find_unpaired(self._path.name, groups)
        return self._result

    def _groups(self, images: list[Part], labels: list[Part]) -> dict[str, Group]:
        """Return the images and labels of each key."""
        groups: dict[str, Group] = {}
        image_key, label_key = self._reading.image_key, self._reading.label_key
        if image_key is not None:
            for part in images:
                folder, slash, name = part.name.rpartition("/")
                groups.setdefault(folder + slash + image_key(name), Group()).images.append(part)
        for part in labels:
            folder, slash, name = part.name.rpartition("/")
            key = longest_key(part.name, groups) if label_key is None else folder + slash + label_key(name)
            groups.setdefault(key, Group()).labels.append(part)
        if image_key is None:
            keys = set(groups)
            for part in images:
                groups.setdefault(longest_key(part.name, keys), Group()).images.append(part)
        return groups

    def _add_group(self, key: str, group: Group) -> None:
        images, labels = group.images, group.labels
        if len(images) == 1 and len(labels) == 1:
            self._add_sample(key, images[0], labels)
            return
        conflicts = find_conflicts(self._path.name, key, group)
        if conflicts:
            self._result.conflicts += conflicts
        elif not images:
            for label in labels:
                self._reject(label.member, NO_IMAGE)
        elif not labels:
            self._add_last(key, images, [])
        else:
            self._add_repeated(key, group)

    def _add_repeated(self, key: str, group: Group) -> None:
        """Add the samples of a key that has several images or labels, all in the same field."""
        pairs = list(zip(group.images, group.labels, strict=False))
        complete = len(group.images) == len(group.labels) and all(
            abs(image.position - label.position) == 1 for image, label in pairs
        )
        if complete:
            for image, label in pairs:
                self._add_sample(key, image, [label])
            return
        texts = sorted({self._labels.read(label.member)[0] for label in group.labels})
        if len(texts) == 1:
            self._add_last(key, group.images, group.labels)
            return
        self._result.ignored[METADATA_RULE] += len(group.labels)
        for image in group.images:
            problem = f"its labels differ: {texts[0]!r} and {texts[1]!r}"
            self._result.samples.append(Sample(self._path.name, key, image.member, "", problem))

    def _add_last(self, key: str, images: Sequence[Part], labels: Sequence[Part]) -> None:
        """Add the last of images in the same field; images whose names differ in upper case are all rejected."""
        last = images[-1]
        if len({image.name for image in images}) > 1:
            self._result.ignored[METADATA_RULE] += len(labels)
            for image in images:
                other = next(other for other in images if other.name != image.name)
                self._reject(image.member, f"{base_name(other.name)} has the same key and field")
            return
        for image in images[:-1]:
            self._reject(image.member, REPLACED)
        self._add_sample(key, last, labels)

    def _add_sample(self, key: str, image: Part, labels: Sequence[Part]) -> None:
        """Add an image with the last of its labels, which have the same text."""
        self._result.ignored[METADATA_RULE] += len(labels)
        if not labels:
            problem = f"no .{self._labels.field} beside it"
            self._result.samples.append(Sample(self._path.name, key, image.member, "", problem))
            return
        label = labels[-1].member
        text, reason = self._labels.read(label)
        self._result.samples.append(Sample(self._path.name, key, image.member, text, reason, label.offset))

    def _account(self, metadata: Sequence[Part], image_keys: set[str]) -> None:
        """Count the metadata beside images, and reject the rest."""
        given = self._fields.image_members
        rule, reason = (
            (OTHER_FIELDS_RULE, f"no .{' or .'.join(given)} beside it") if given else (METADATA_RULE, NO_IMAGE)
        )
        for part in metadata:
            if any(key in image_keys for key in beginnings(part.name)):
                self._result.ignored[rule] += 1
            else:
                self._reject(part.member, reason)

    def _reject(self, member: tars.Member, reason: str) -> None:
        self._result.rejected.append(Rejected(where(self._path.name, member), reason))


def where(shard: str, member: tars.Member) -> str:
    """Return a member's name in messages and in the manifest."""
    return f"{readable(shard)}: {member.name}"
