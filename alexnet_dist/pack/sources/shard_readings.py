"""The samples of all shards of a split, in the one reading of their keys that fits all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.names import base_name, readable
from alexnet_dist.pack.sources.shard_groups import Doubt
from alexnet_dist.pack.sources.shard_keys import FIRST_DOT, LAST_DOT, CommonEnd, KeyReading, common_fields, given_fields
from alexnet_dist.pack.sources.shard_members import Kind, member_kind
from alexnet_dist.pack.sources.shard_samples import ShardSamples, read_shard


def read_shards(root: Path, shards: Sequence[str], fields: SampleFields) -> tuple[ShardSamples, tuple[str, ...]]:
    """Return the samples of a split's shards, and notes for the user on how they were read.

    The key ends at the first dot of a name, unless that gives a key several images or labels. Then it ends where one
    reading pairs more images with labels; raises UserError if none does, or if two differ.
    """
    if fields.image_members or fields.label_member is not None:
        result = _read(root, shards, given_fields(fields), fields)
        if result.conflicts:
            raise UserError(_refusal(root, result.conflicts[0]))
        return result, ()
    first = _read(root, shards, FIRST_DOT, fields)
    if not first.conflicts:
        return first, ()
    readings = [LAST_DOT, *_common_fields(root, shards, fields)]
    results = [(reading, _read(root, shards, reading, fields)) for reading in readings]
    better = [
        (reading, result)
        for reading, result in results
        if not result.conflicts and len(_pairs(result)) > len(_pairs(first))
    ]
    if not better:
        raise UserError(_refusal(root, first.conflicts[0]))
    reading, best = max(better, key=lambda pair: len(_pairs(pair[1])))
    if best.unpaired:
        raise UserError(_refusal(root, best.unpaired[0]))
    for _, other in better:
        if any(_pairs(best).get(image, label) != label for image, label in _pairs(other).items()):
            raise UserError(_refusal(root, first.conflicts[0]))
    return best, (f"{root}: names of members have dots in their keys; {reading.description}",)


def _read(root: Path, shards: Sequence[str], reading: KeyReading, fields: SampleFields) -> ShardSamples:
    """Return what all shards hold in one reading."""
    total = ShardSamples()
    for shard in shards:
        total.add(read_shard(root / shard, reading, fields))
    return total


def _pairs(result: ShardSamples) -> dict[tuple[str, int], int]:
    """Return where the label of each image is that has one."""
    return {
        (sample.shard, sample.image.offset): sample.label_offset
        for sample in result.samples
        if sample.label_offset >= 0
    }


def _common_fields(root: Path, shards: Sequence[str], fields: SampleFields) -> list[KeyReading]:
    """Return the reading by the longest fields that all images and all labels share, if they share any."""
    ends = {Kind.IMAGE: CommonEnd(), Kind.LABEL: CommonEnd()}
    for shard in shards:
        with (root / shard).open("rb", buffering=0) as file:
            for member in tars.file_members(root / shard):
                name = base_name(member.name)
                if member.problem is None and not name.startswith("."):
                    end = ends.get(member_kind(member, fields, file.fileno()))
                    if end is not None:
                        end.add(name)
    reading = common_fields(ends[Kind.IMAGE], ends[Kind.LABEL])
    return [] if reading is None else [reading]


def _refusal(root: Path, doubt: Doubt) -> str:
    """Return the message about members that could belong to one sample or to two, with the options to give."""
    first, second = doubt.names
    where = f"{root / readable(doubt.shard)}: {first} and {second}"
    extensions = [name.rpartition(".")[2].lower() for name in doubt.names]
    if doubt.kind is None:
        separate, single = " ".join(_options(*extensions)), " ".join(_options(*doubt.fields))
        return f"{where} could be one sample or parts of two. For one give {single}; for two give {separate}"
    if doubt.kind is Kind.IMAGE:
        what, (choice, _), (other, _) = "images", _options(doubt.fields[0]), _options(doubt.fields[1])
        separate = " ".join(_options(extensions[0]))
    else:
        what, (_, choice), (_, other) = "labels", _options("jpg", doubt.fields[0]), _options("jpg", doubt.fields[1])
        separate = " ".join(_options("jpg", extensions[0]))
    return (
        f"{where} are {what} of one sample, {base_name(doubt.key)}, or of two. If of one, choose its field with "
        f"{choice} or {other}. If of two, give the fields that end every name, as in {separate}"
    )


def _options(image: str, label: str = "cls") -> tuple[str, str]:
    return f"--image-field {image}", f"--label-field {label}"
