"""The class of an image in shards and parquet files whose names do not contain it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from support.folders import encoded, image_source, photo, request
from support.layouts import tar_of


def write_shard(root: Path, split: str, labels: dict[str, str | None]) -> None:
    """Write one shard with a sample for each key; a label of None means no .cls."""
    members: list[tuple[str, bytes]] = []
    for key, label in labels.items():
        members += [(f"{key}.cls", label.encode())] if label is not None else []
        members += [(f"{key}.jpg", b"x")]
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}-0000.tar").write_bytes(tar_of(members))


def labels_in(root: Path, train_classes: tuple[str, ...] | None = None) -> dict[str, int]:
    source = image_source(root, layout="webdataset", train_classes=train_classes)
    return {file.name: file.label for file in source.files}


def test_a_cls_of_text_names_the_class(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", {"0": "pear\n", "1": "apple", "2": "pear"})
    assert labels_in(tmp_path) == {"pear/0.jpg": 1, "apple/1.jpg": 0, "pear/2.jpg": 1}


def test_a_cls_that_is_a_number_is_a_label(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", {f"key{number}": str(number) for number in range(12)})
    write_shard(tmp_path, "val", {"a": "10", "b": "2"})
    assert labels_in(tmp_path) == {f"{number:02d}/key{number}.jpg": number for number in range(12)}
    assert labels_in(tmp_path, tuple(f"{number:02d}" for number in range(12))) == {"10/a.jpg": 10, "02/b.jpg": 2}
    assert labels_in(tmp_path, tuple("lkjihgfedcba"[::-1])) == {"k/a.jpg": 10, "c/b.jpg": 2}
    with pytest.raises(
        UserError, match=r"val-0000\.tar: a\.jpg: no class of the train split is called '10': it has 3 classes"
    ):
        labels_in(tmp_path, ("x", "y", "z"))


def test_samples_without_a_usable_cls_are_rejected_by_name(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", {"0": "a", "1": None, "2": "x" * 257, "3": "../a"})
    source = image_source(tmp_path, layout="webdataset")
    assert [file.name for file in source.files] == ["a/0.jpg"]
    assert [(rejected.file, rejected.reason) for rejected in source.rejected] == [
        ("train-0000.tar: 1.jpg", "no .cls beside it"),
        ("train-0000.tar: 2.jpg", "its .cls has 257 bytes"),
        ("train-0000.tar: 3.jpg", "its .cls is '../a'"),
    ]


def write_parquet(path: Path, labels: list[int], names: list[str]) -> None:
    """Write images whose names have no class, and the labels' names in metadata as Hugging Face writes them."""
    table = pyarrow.table(
        {
            "image": [{"bytes": encoded(photo(number)), "path": f"{number}.jpg"} for number in range(len(labels))],
            "label": labels,
        }
    )
    metadata = json.dumps({"info": {"features": {"label": {"names": names}}}})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)


def test_a_parquet_files_labels_have_the_names_that_it_notes(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_parquet(source / "train-00000-of-00001.parquet", [0, 1, 2, 0], ["pear", "apple", "and/or"])
    manifest = pack(request(source, out)).manifest
    assert [described.name for described in manifest.classes] == ["and|or", "apple", "pear"]
    assert np.bincount(np.load(out / "train.index.npy")["label"]).tolist() == [1, 1, 2]
    write_parquet(source / "train-00000-of-00001.parquet", [0, 3], ["pear", "apple", "and/or"])
    with pytest.raises(UserError, match="row 1 has the label 3, but the file names 3 labels"):
        pack(request(source, tmp_path / "other"))
