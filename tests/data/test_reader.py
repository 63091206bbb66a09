"""Reading packed shards: the right bytes for each id, and an error that names the file for every mismatch."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from alexnet_dist.data import shards
from alexnet_dist.data.manifest import INDEX_DTYPE
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.errors import UserError

Pack = Callable[..., Path]


def change(root: Path, split: str = "train", **keys: object) -> None:
    """Change keys of a manifest by hand."""
    path = root / f"{split}.manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def replace_index(root: Path, index: npt.NDArray[np.generic]) -> None:
    """Write another index and its hash into the manifest: damage that no hash detects."""
    np.save(root / "train.index.npy", index)
    digest = hashlib.sha256((root / "train.index.npy").read_bytes()).hexdigest()
    change(root, index={"name": "train.index.npy", "sha256": digest})


def test_each_id_gives_its_bytes_and_label(pack_tiny: Pack) -> None:
    jpegs = [bytes([65 + position]) * (position + 1) for position in range(20)]
    split = Split.open(pack_tiny(jpegs), "train")
    assert (split.images, split.counts) == (20, (7, 1, 12))
    assert [bytes(split.jpeg(sample)) for sample in range(20)] == jpegs
    assert [split.label(sample) for sample in range(20)] == [sample % 5 for sample in range(20)]
    assert split.labels.tolist() == [sample % 5 for sample in range(20)]


def test_bytes_are_read_in_place(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    third, fourth = split.jpeg(3), split.jpeg(4)
    assert isinstance(third, memoryview)
    assert isinstance(fourth, memoryview)
    assert third.readonly
    assert third.obj is fourth.obj


def test_more_shards_than_may_be_open(pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    jpegs = [bytes([position]) * 5 for position in range(9)]
    split = Split.open(pack_tiny(jpegs, counts=[1] * 9), "train")
    first = split.jpeg(0)
    for _ in range(2):
        assert [bytes(split.jpeg(sample)) for sample in range(9)] == jpegs
    assert bytes(first) == jpegs[0]


def test_mean_and_components_of_train(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(), "train")
    assert split.mean.dtype == np.float32
    assert split.mean.shape == (3, 16, 16)
    assert split.mean[1, 0, 0] == pytest.approx(25.6)
    np.testing.assert_allclose(split.components @ split.components.T, [[30, 2, 1], [2, 20, 3], [1, 3, 10]], atol=1e-12)


def test_val_has_neither_mean_nor_components(pack_tiny: Pack) -> None:
    split = Split.open(pack_tiny(split="val"), "val")
    assert len(split.jpeg(19)) > 0
    with pytest.raises(UserError, match=r"val\.manifest\.json: no mean image"):
        _ = split.mean
    with pytest.raises(UserError, match=r"val\.manifest\.json: no colour covariance"):
        _ = split.components


@pytest.mark.parametrize("sample", [-1, 20])
def test_an_id_outside_the_split_is_an_error(pack_tiny: Pack, sample: int) -> None:
    with pytest.raises(IndexError):
        Split.open(pack_tiny(), "train").jpeg(sample)


def test_a_changed_byte_is_a_bad_sample(pack_tiny: Pack) -> None:
    root = pack_tiny()
    split = Split.open(root, "train")
    good = bytes(split.jpeg(8))
    with (root / "train-000002.tar").open("r+b") as file:
        file.seek(512 + 20)
        file.write(b"\xff\x00\x13")
    with pytest.raises(BadSample, match=r"sample 8 \(train-000002\.tar, byte 512\): .*crc32") as caught:
        split.jpeg(8)
    assert (caught.value.sample, caught.value.shard, caught.value.offset) == (8, "train-000002.tar", 512)
    assert caught.value.kind == "checksum"
    assert good[:2] == b"\xff\xd8"
    split.jpeg(9)


def test_a_report_crosses_process_borders() -> None:
    report = pickle.loads(pickle.dumps(BadSample(8, "train-000002.tar", 512, "truncated", "damaged")))
    assert isinstance(report, BadSample)
    assert (report.sample, report.shard, report.offset, report.reason) == (8, "train-000002.tar", 512, "truncated")
    assert report.kind == "damaged"


@pytest.mark.parametrize("name", ["train.manifest.json", "train.index.npy", "train.mean.npy", "train-000001.tar"])
def test_a_missing_file_is_named(pack_tiny: Pack, name: str) -> None:
    root = pack_tiny()
    (root / name).unlink()
    with pytest.raises(UserError, match=name):
        Split.open(root, "train")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train-000002.tar", r"bytes, expected \d+ by train\.manifest\.json"),
        ("train.index.npy", r"sha256 [0-9a-f]{12}\.\.\., expected"),
        ("train.mean.npy", r"sha256 [0-9a-f]{12}\.\.\., expected"),
    ],
)
def test_a_file_of_another_length_is_named(pack_tiny: Pack, name: str, expected: str) -> None:
    root = pack_tiny()
    with (root / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=f"{name}: .*{expected}"):
        Split.open(root, "train")


def test_a_manifest_under_another_splits_name_is_refused(pack_tiny: Pack) -> None:
    root = pack_tiny()
    (root / "train.manifest.json").rename(root / "val.manifest.json")
    with pytest.raises(UserError, match=r"val\.manifest\.json: it describes split train, expected val"):
        Split.open(root, "val")


def test_an_index_of_another_shape_is_refused(pack_tiny: Pack) -> None:
    root = pack_tiny()
    replace_index(root, np.zeros(19, dtype=INDEX_DTYPE))
    with pytest.raises(UserError, match=r"train\.index\.npy: .*\(19,\), expected .*\(20,\)"):
        Split.open(root, "train")


def test_an_index_that_is_no_array_is_refused(pack_tiny: Pack) -> None:
    root = pack_tiny()
    replace_index(root, np.array([{"pickled": True}], dtype=object))
    with pytest.raises(UserError, match=r"train\.index\.npy: not a NumPy array file"):
        Split.open(root, "train")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("offset", -1, "bytes inside its shard"),
        ("offset", 2**63 - 1, "bytes inside its shard"),
        ("size", 0, "bytes inside its shard"),
        ("size", 2**31 - 1, "bytes inside its shard"),
        ("label", -1, "a label from 0 to 4"),
        ("label", 5, "a label from 0 to 4"),
    ],
)
def test_an_index_that_points_outside_is_refused(pack_tiny: Pack, field: str, value: int, expected: str) -> None:
    root = pack_tiny()
    index = np.load(root / "train.index.npy")
    index[field][13] = value
    replace_index(root, index)
    with pytest.raises(UserError, match=rf"train\.index\.npy: row 13 does not have {expected}"):
        Split.open(root, "train")
