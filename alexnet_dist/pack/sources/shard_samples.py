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


class Doubt(NamedTuple):
    """Two members of a shard that could belong to one sample or to two.

    kind: what both are; None for an image and a label. fields: what follows the key in the name of each.
    """

    shard: str
    key: str
    kind: Kind | None
    names: tuple[str, str]
    fields: tuple[str, str]


@dataclass
class ShardSamples:
    """What a shard holds in one reading of its keys.

    conflicts: keys with images, or labels, in several fields. unpaired: labels without an image that could belong to
    one in another reading. Their members are accounted for only if there are no conflicts.
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


class _Part(NamedTuple):
    """An image or a label; position: among the images and labels of the shard. name: without a leading ./"""

    position: int
    name: str
    member: tars.Member


@dataclass
class _Group:
    """The images and labels of one key."""

    images: list[_Part] = field(default_factory=list)
    labels: list[_Part] = field(default_factory=list)


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
        parts: dict[Kind, list[_Part]] = {Kind.IMAGE: [], Kind.LABEL: [], Kind.METADATA: [], Kind.OTHER: []}
        position = 0
        for member in tars.file_members(self._path):
            self._result.seen += 1
            name = member.name.removeprefix("./")
            if member.problem is not None or name.startswith(".") or "/." in name:
                self._reject(member, member.problem or HIDDEN)
                continue
            kind = member_kind(member, self._fields, self._descriptor)
            position += kind in (Kind.IMAGE, Kind.LABEL)
            parts[kind].append(_Part(position, name, member))
        groups = self._groups(parts[Kind.IMAGE], parts[Kind.LABEL])
        for key, group in groups.items():
            self._add_group(key, group)
        self._account(parts[Kind.METADATA], {key for key, group in groups.items() if group.images})
        for part in parts[Kind.OTHER]:
            self._reject(part.member, UNKNOWN_TYPE)
        self._find_unpaired(groups)
        return self._result

    def _groups(self, images: list[_Part], labels: list[_Part]) -> dict[str, _Group]:
        """Return the images and labels of each key."""
        groups: dict[str, _Group] = {}
        image_key, label_key = self._reading.image_key, self._reading.label_key
        if image_key is not None:
            for part in images:
                folder, slash, name = part.name.rpartition("/")
                groups.setdefault(folder + slash + image_key(name), _Group()).images.append(part)
        for part in labels:
            folder, slash, name = part.name.rpartition("/")
            key = longest_key(part.name, groups) if label_key is None else folder + slash + label_key(name)
            groups.setdefault(key, _Group()).labels.append(part)
        if image_key is None:
            keys = set(groups)
            for part in images:
                groups.setdefault(longest_key(part.name, keys), _Group()).images.append(part)
        return groups

    def _add_group(self, key: str, group: _Group) -> None:
        images, labels = group.images, group.labels
        if len(images) == 1 and len(labels) == 1:
            self._add_sample(key, images[0], labels)
            return
        conflicts = [
            _conflict(self._path.name, key, kind, parts)
            for kind, parts in ((Kind.IMAGE, images), (Kind.LABEL, labels))
            if len({_field(part, key) for part in parts}) > 1
        ]
        if conflicts:
            self._result.conflicts += conflicts
        elif not images:
            for label in labels:
                self._reject(label.member, NO_IMAGE)
        elif not labels:
            self._add_last(key, images, [])
        else:
            self._add_repeated(key, group)

    def _add_repeated(self, key: str, group: _Group) -> None:
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

    def _add_last(self, key: str, images: Sequence[_Part], labels: Sequence[_Part]) -> None:
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

    def _add_sample(self, key: str, image: _Part, labels: Sequence[_Part]) -> None:
        """Add an image with the last of its labels, which have the same text."""
        self._result.ignored[METADATA_RULE] += len(labels)
        if not labels:
            problem = f"no .{self._labels.field} beside it"
            self._result.samples.append(Sample(self._path.name, key, image.member, "", problem))
            return
        label = labels[-1].member
        text, reason = self._labels.read(label)
        self._result.samples.append(Sample(self._path.name, key, image.member, text, reason, label.offset))

    def _account(self, metadata: Sequence[_Part], image_keys: set[str]) -> None:
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

    def _find_unpaired(self, groups: dict[str, _Group]) -> None:
        """Note the labels without an image that belong to one if the key ends at another dot."""
        lone = [(key, group.labels[0]) for key, group in groups.items() if not group.images]
        if not lone:
            return
        images = {key: part for group in groups.values() for part in group.images for key in beginnings(part.name)}
        unlabelled = {key: group.images[0] for key, group in groups.items() if not group.labels}
        for key, label in lone:
            shorter = next((unlabelled[other] for other in beginnings(label.name) if other in unlabelled), None)
            image = images.get(key, shorter)
            if image is not None:
                names = (image.name, label.name)
                fields = (_field(image, key), _field(label, key))
                self._result.unpaired.append(Doubt(self._path.name, key, None, names, fields))

    def _reject(self, member: tars.Member, reason: str) -> None:
        self._result.rejected.append(Rejected(where(self._path.name, member), reason))


def where(shard: str, member: tars.Member) -> str:
    """Return a member's name in messages and in the manifest."""
    return f"{readable(shard)}: {member.name}"


def _field(part: _Part, key: str) -> str:
    return part.name[len(key) + 1 :].lower()


def _conflict(shard: str, key: str, kind: Kind, parts: Sequence[_Part]) -> Doubt:
    first = parts[0]
    second = next(part for part in parts if _field(part, key) != _field(first, key))
    return Doubt(shard, key, kind, (first.name, second.name), (_field(first, key), _field(second, key)))
