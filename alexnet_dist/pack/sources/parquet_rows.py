"""Reads the rows of a parquet file as images: one column holds them, another one their labels.

The class of a row is the WordNet id in its image's name, unless the column of the labels was given; otherwise the name
that the metadata gives to the label; otherwise the label itself, a whole number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_dist.errors import UserError
from alexnet_dist.pack.file_kinds import read_start, wrong_kind
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.names import base_name
from alexnet_dist.pack.sources.stream_image import StreamImage, split_name

BATCH_ROWS = 64
IMAGE, LABEL = "image", "label"  # the columns, unless others are given


def read_parquet(path: Path, columns: SampleFields) -> Iterator[StreamImage]:
    """Yield the image of each row; raises UserError for a file that is damaged or has other columns."""
    pyarrow = _import_pyarrow(path)
    from pyarrow import parquet

    image_column, label_column = columns.image or IMAGE, columns.label or LABEL
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, (image_column, label_column))
            names = _label_names(path, file.schema_arrow.metadata, label_column)
            classes = _RowClasses(path, names, ids_in_names=columns.label is None)
            row, rows, size_bytes = 0, file.metadata.num_rows, path.stat().st_size
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[image_column, label_column]):
                for value in batch.to_pylist():
                    image = classes.image(row, value[image_column], value[label_column])
                    row += 1
                    yield image._replace(container_read_bytes=row * size_bytes // max(rows, 1))
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = wrong_kind(path, read_start(path), "a parquet file")
        raise UserError(
            f"{path}: {problem or f'cannot be read as parquet ({reason:.200}): download it again'}"
        ) from None


def unused_label_names(path: Path, columns: SampleFields, classes: set[str]) -> list[str]:
    """Return the names that a file's metadata gives to labels and that are not among `classes`.

    The list is empty if none of them is, because then the classes are WordNet ids.
    """
    _import_pyarrow(path)
    from pyarrow import parquet

    names = _label_names(path, parquet.read_schema(path).metadata, columns.label or LABEL)
    unused = [name for name in names if name not in classes]
    return unused if len(unused) < len(names) else []


def _import_pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            f"{path}: pyarrow, which reads it, is not installed: pip install 'alexnet_dist[parquet]'"
        ) from None
    return pyarrow


def _check_columns(path: Path, schema: Any, columns: Sequence[str]) -> None:
    """Raise UserError if a file does not have these columns; it names those that it has, and the options."""
    absent = [column for column in columns if column not in schema.names]
    if not absent:
        return
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    images = [name for name, kind in kinds.items() if kind.startswith(("struct<bytes", "binary", "large_binary"))]
    labels = [name for name, kind in kinds.items() if kind.startswith(("int", "uint"))]
    raise UserError(
        f"{path}: has no column {' and no column '.join(absent)}; its columns are {', '.join(schema.names)}. Give the "
        f"columns of the images and of their labels, for example --image-column {(images or ['IMAGE'])[0]} "
        f"--label-column {(labels or ['LABEL'])[0]}"
    )


def _label_names(path: Path, metadata: Mapping[bytes, bytes] | None, column: str) -> list[str]:
    """Return the names of the labels 0, 1, ... from the metadata of the file, or an empty list."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = [str(name).replace("/", "|") for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
    repeated = next((name for number, name in enumerate(names) if not name.strip() or name in names[:number]), None)
    if repeated is not None:
        raise UserError(
            f"{path}: its metadata names two labels of column {column} {repeated!r}, which would be one class: rename "
            "one in the data set"
        )
    return names


class _RowClasses:
    """Determines the class of each row of a file."""

    def __init__(self, path: Path, label_names: list[str], ids_in_names: bool) -> None:
        self._path, self._label_names, self._ids_in_names = path, label_names, ids_in_names
        self._first_has_id: bool | None = None
        self._labels: dict[str, int] = {}
        self._ids: dict[int, str] = {}

    def image(self, row: int, image: Any, label: Any) -> StreamImage:
        """Return the image of a row; raises UserError if its class is not known, or has two readings."""
        data, image_path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
        if type(label) is not int or label < 0:
            raise UserError(f"{self._path}: row {row} has the label {label!r}: a split without labels cannot be packed")
        name = base_name(str(image_path or "")) or f"{self._path.stem}-{row:08d}.jpg"
        class_name, file_name = split_name(name) if self._ids_in_names else ("", name)
        self._check_like_first(row, name, has_id=bool(class_name))
        if class_name:
            self._check_one_reading(row, class_name, label)
        elif not self._label_names:
            class_name = str(label)
        elif label < len(self._label_names):
            class_name = self._label_names[label]
        else:
            raise UserError(
                f"{self._path}: row {row} has the label {label}, but the file names {len(self._label_names)} labels"
            )
        name = f"{class_name}/{file_name}"
        if not isinstance(data, bytes):
            return StreamImage(name, class_name, b"", 0, "no bytes in its row")
        return StreamImage(name, class_name, data, len(data), None)

    def _check_like_first(self, row: int, name: str, has_id: bool) -> None:
        """Raise UserError if only some names have a WordNet id: one class would have two names."""
        if self._first_has_id is None:
            self._first_has_id = has_id
        if self._first_has_id != has_id:
            this_row, first_row = ("has a WordNet id", "has none") if has_id else ("has no WordNet id", "has one")
            raise UserError(
                f"{self._path}: row {row}: the name of its image, {name:.60}, {this_row}, but that of row 0 "
                f"{first_row}: add --label-column {LABEL} to take the labels as classes"
            )

    def _check_one_reading(self, row: int, class_name: str, label: int) -> None:
        """Raise UserError if the WordNet ids in the images' names divide the rows differently from the labels."""
        other_label, other_id = self._labels.setdefault(class_name, label), self._ids.setdefault(label, class_name)
        if (other_label, other_id) != (label, class_name):
            raise UserError(
                f"{self._path}: row {row} is of class {class_name} by its image's name and has label {label}, but "
                f"another row is of {other_id} with label {label}, or of {class_name} with label {other_label}: add "
                f"--label-column {LABEL} to take the labels as classes"
            )
