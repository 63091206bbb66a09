"""The layouts 'parquet' and 'huggingface-tar': ImageNet as published on Hugging Face.

These are parquet files, or tar.gz files of images named ``..._n01440764.JPEG``. Random access to either is too slow, so
both are streams: each container is read once, from start to end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack import gzip_tars, tars
from alexnet_dist.pack.sources.listing import LARGEST_FILE_BYTES, Container, StreamSource
from alexnet_dist.pack.sources.names import PARQUET, TAR_GZ, base_name

PATTERNS: Mapping[str, Mapping[SplitName, tuple[str, ...]]] = {
    PARQUET: {
        "train": ("train*.parquet",),
        "val": ("val*.parquet",),  # val- and validation-
        "test": ("test*.parquet",),
    },
    TAR_GZ: {"train": ("train_images_*.tar.gz",), "val": ("val_images.tar.gz",), "test": ("test_images.tar.gz",)},
}
NAME_WITH_CLASS = re.compile(r"(.+)_(n\d{8})(\.\w+)$")
BATCH_ROWS = 64


class StreamImage(NamedTuple):
    """An image read from a container.

    name: ``class/file``. problem: why it cannot be an image; `data` is empty then, and for an image above
    LARGEST_FILE_BYTES. container_read_bytes: how much of the container has been read.
    """

    name: str
    class_name: str
    data: bytes
    size_bytes: int
    problem: str | None
    container_read_bytes: int = 0


def list_containers(root: Path, layout: str, split: SplitName) -> StreamSource:
    """Return the containers of a split in `root` or root/data, sorted by name; raises UserError if there are none."""
    patterns = PATTERNS[layout][split]
    for folder in (root / "data", root):
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        if paths:
            containers = tuple(Container(str(path.relative_to(root)), path.stat().st_size) for path in paths)
            return StreamSource(root, layout, containers)
    raise UserError(f"{root}: holds no {' or '.join(patterns)} for split {split}, and neither does its data/")


def read_container(path: Path, layout: str) -> Iterator[StreamImage]:
    """Yield the images of a container in their order; raises UserError naming it if it is damaged."""
    return _read_parquet(path) if layout == PARQUET else _read_tar(path)


def _read_tar(path: Path) -> Iterator[StreamImage]:
    with gzip_tars.open_gzip(path) as stream:
        read_at = gzip_tars.ForwardReader(stream)
        for member in tars.members(read_at, str(path)):
            yield _member_image(path, member, read_at)._replace(container_read_bytes=stream.compressed_bytes)


def _member_image(path: Path, member: tars.Member, read_at: gzip_tars.ForwardReader) -> StreamImage:
    class_name, file_name = _split_name(base_name(member.name))
    problem = member.problem or (None if class_name else "its name does not end in a WordNet id")
    if problem is not None:
        return StreamImage(member.name, "", b"", member.size_bytes, problem)
    name = f"{class_name}/{file_name}"
    if member.size_bytes > LARGEST_FILE_BYTES:
        return StreamImage(name, class_name, b"", member.size_bytes, None)
    data = read_at(member.offset, member.size_bytes)
    if len(data) < member.size_bytes:
        raise UserError(f"{path}: ends inside {member.name:.100}: download it again")
    return StreamImage(name, class_name, data, member.size_bytes, None)


def _split_name(name: str) -> tuple[str, str]:
    """Split ``x_n01440764.JPEG`` into n01440764 and x.JPEG; the class is empty if the name has none."""
    match = NAME_WITH_CLASS.match(name)
    return (match[2], f"{match[1]}{match[3]}") if match else ("", name)


def _read_parquet(path: Path) -> Iterator[StreamImage]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: pyarrow, which reads it, is not installed: pip install 'alexnet_dist[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            label_names = _label_names(file.schema_arrow.metadata)
            row, rows, size_bytes = 0, file.metadata.num_rows, path.stat().st_size
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["image", "label"]):
                for value in batch.to_pylist():
                    image = _row_image(path, row, value, label_names)
                    row += 1
                    yield image._replace(container_read_bytes=row * size_bytes // max(rows, 1))
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as parquet with the columns image and label ({reason:.200}): download it again"
        ) from None


def _label_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Return the names of the labels 0, 1, ... from the metadata of the file, or an empty list."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _row_image(path: Path, row: int, value: Mapping[str, Any], label_names: list[str]) -> StreamImage:
    """Return the image of a row; its class is in the image's own name, or else in `label_names`."""
    image, label = value["image"], value["label"]
    data, image_path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
    if not isinstance(label, int) or label < 0:
        raise UserError(f"{path}: row {row} has the label {label!r}: a split without labels cannot be packed")
    class_name, file_name = _split_name(base_name(str(image_path or "")) or f"{path.stem}-{row:08d}.jpg")
    if not class_name and label_names:
        if label >= len(label_names):
            raise UserError(f"{path}: row {row} has the label {label}, but the file names {len(label_names)} labels")
        class_name = label_names[label].replace("/", "|")
    elif not class_name:
        raise UserError(f"{path}: row {row}: neither its image's name nor the file's metadata names its class")
    name = f"{class_name}/{file_name}"
    if not isinstance(data, bytes):
        return StreamImage(name, class_name, b"", 0, "no bytes in its row")
    return StreamImage(name, class_name, data, len(data), None)
