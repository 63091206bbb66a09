"""The images and labels that have one key in a shard, and the doubts about which of them belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.shard_keys import beginnings
from alexnet_dist.pack.sources.shard_members import Kind


class Part(NamedTuple):
    """An image or a label; position: among the images and labels of the shard. name: without a leading ./"""

    position: int
    name: str
    member: tars.Member


@dataclass
class Group:
    """The images and labels of one key."""

    images: list[Part] = field(default_factory=list)
    labels: list[Part] = field(default_factory=list)


class Doubt(NamedTuple):
    """Two members of a shard that could belong to one sample or to two.

    kind: what both are; None for an image and a label. fields: what follows the key in the name of each.
    """

    shard: str
    key: str
    kind: Kind | None
    names: tuple[str, str]
    fields: tuple[str, str]


def find_conflicts(shard: str, key: str, group: Group) -> list[Doubt]:
    """Return a doubt for the images and one for the labels of a group, if they are in several fields."""
    conflicts: list[Doubt] = []
    for kind, parts in ((Kind.IMAGE, group.images), (Kind.LABEL, group.labels)):
        other = next((part for part in parts if _field(part, key) != _field(parts[0], key)), None)
        if other is not None:
            conflicts.append(_doubt(shard, key, kind, parts[0], other))
    return conflicts


def find_unpaired(shard: str, groups: Mapping[str, Group]) -> list[Doubt]:
    """Return a doubt for each image or label that is alone, but would not be if its key ended at another dot."""
    incomplete = {key: group for key, group in groups.items() if not (group.images and group.labels)}
    if not incomplete:
        return []
    images = {key: part for group in groups.values() for part in group.images for key in beginnings(part.name)}
    return [doubt for key in incomplete for doubt in _doubts_about(shard, key, groups, images)]


def _doubts_about(shard: str, key: str, groups: Mapping[str, Group], images: Mapping[str, Part]) -> Iterator[Doubt]:
    """Yield the doubt about a group that lacks an image or a label; images: by what their names begin with."""
    group = groups[key]
    alone = (group.labels or group.images)[0]
    if group.labels and key in images:
        yield _doubt(shard, key, None, images[key], alone)
        return
    shorter = next((other for other in beginnings(alone.name) if other != key and other in groups), None)
    if shorter is None or not groups[shorter].images:
        return
    other = groups[shorter]
    if group.images and other.labels:
        yield _doubt(shard, shorter, Kind.IMAGE, other.images[0], alone)
    elif group.labels and other.labels:
        yield _doubt(shard, shorter, Kind.LABEL, other.labels[0], alone)
    elif group.labels:
        yield _doubt(shard, shorter, None, other.images[0], alone)


def _field(part: Part, key: str) -> str:
    return part.name[len(key) + 1 :].lower()


def _doubt(shard: str, key: str, kind: Kind | None, first: Part, second: Part) -> Doubt:
    return Doubt(shard, key, kind, (first.name, second.name), (_field(first, key), _field(second, key)))
