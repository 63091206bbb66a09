"""ImageNet as Hugging Face holds it: parquet files, or tar.gz files of images named ``..._n01440764.JPEG``.

Neither can be entered in the middle at a bearable price, so both are streams: read once, from front to back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_dist.data.manifest import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.source import LARGEST_FILE_BYTES, Container, Stream

PARQUET, TAR_GZ = "parquet", "huggingface-tar"
PATTERNS: Mapping[str, Mapping[SplitName, tuple[str, ...]]] = {
    PARQUET: {
        "train": ("train*.parquet",),
        "val": ("val*.parquet",),  # val- and validation-
        "test": ("test*.parquet",),
    },
    TAR_GZ: {"train": ("train_images_*.tar.gz",), "val": ("val_images.tar.gz",), "test": ("test_images.tar.gz",)},
}
NAMED_BY_CLASS = re.compile(r"(.+)_(n\d{8})(\.\w+)$")
ROWS_AT_ONCE = 64


class Met(NamedTuple):
    """An image met in a container: its name ``class/file``, its class, and its bytes or why there are none.

    at_bytes: how much of the container has been read.
    """

    name: str
    kind: str
    data: bytes
    size_bytes: int
    problem: str | None
    at_bytes: int = 0


def find(root: Path, kind: str, split: SplitName) -> Stream:
    """Return the containers of a split in `root` or root/data, by their names."""
    for folder in (root / "data", root):
        paths = sorted({path for pattern in PATTERNS[kind][split] for path in folder.glob(pattern)})
        if paths:
            containers = tuple(Container(str(path.relative_to(root)), path.stat().st_size) for path in paths)
            return Stream(root, kind, containers)
    raise UserError(f"{root}: holds no {' or '.join(PATTERNS[kind][split])} for split {split}, nor does its data/")


def meet(path: Path, kind: str) -> Iterator[Met]:
    """Yield the images of a container in their order; raises UserError naming it where it is damaged."""
    return _from_parquet(path) if kind == PARQUET else _from_tar(path)


def _from_tar(path: Path) -> Iterator[Met]:
    with tars.unzipped(path) as stream:
        read_at = tars.Forward(stream)
        for member in tars.members(read_at, str(path)):
            yield _met(path, member, read_at)._replace(at_bytes=stream.at_bytes)


def _met(path: Path, member: tars.Member, read_at: tars.Forward) -> Met:
    plain = member.name.rsplit("/", 1)[-1]
    parts = NAMED_BY_CLASS.match(plain)
    problem = member.problem or (None if parts else "its name does not end in a WordNet id")
    if problem is not None or parts is None:
        return Met(member.name, "", b"", member.size_bytes, problem)
    name = f"{parts[2]}/{parts[1]}{parts[3]}"
    if member.size_bytes > LARGEST_FILE_BYTES:
        return Met(name, parts[2], b"", member.size_bytes, None)
    data = read_at(member.offset, member.size_bytes)
    if len(data) < member.size_bytes:
        raise UserError(f"{path}: ends inside {member.name:.100}: download it again")
    return Met(name, parts[2], data, member.size_bytes, None)


def _from_parquet(path: Path) -> Iterator[Met]:
    """Yield a parquet file's rows; the class is in the image's own name, or else the label's name in the metadata."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: read by pyarrow, which is not installed: pip install 'alexnet_dist[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = _label_names(file.schema_arrow.metadata)
            row, rows, size_bytes = 0, file.metadata.num_rows, path.stat().st_size
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image", "label"]):
                for value in batch.to_pylist():
                    row += 1
                    at_bytes = row * size_bytes // max(rows, 1)
                    yield _row(path, row - 1, value, names)._replace(at_bytes=at_bytes)
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as parquet with the columns image and label ({reason:.200}): download it again"
        ) from None


def _label_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Return the names of the labels 0, 1, ... that the writer noted, or none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _row(path: Path, row: int, value: Mapping[str, Any], names: list[str]) -> Met:
    image, label = value["image"], value["label"]
    data = image.get("bytes") if isinstance(image, Mapping) else image
    given = str(image.get("path") or "") if isinstance(image, Mapping) else ""
    plain = given.rsplit("/", 1)[-1] or f"{path.stem}-{row:08d}.jpg"
    if not isinstance(label, int) or label < 0:
        raise UserError(f"{path}: row {row} has the label {label!r}: a split without labels cannot be packed")
    parts = NAMED_BY_CLASS.match(plain)
    if parts:
        kind, plain = parts[2], f"{parts[1]}{parts[3]}"
    elif names:
        if label >= len(names):
            raise UserError(f"{path}: row {row} has the label {label}, and the file names {len(names)} labels")
        kind = names[label].replace("/", "|")
    else:
        raise UserError(f"{path}: row {row}: neither its image's name nor the file's metadata names its class")
    if not isinstance(data, bytes):
        return Met(f"{kind}/{plain}", kind, b"", 0, "no bytes in its row")
    return Met(f"{kind}/{plain}", kind, data, len(data), None)
