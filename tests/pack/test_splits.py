"""Train and val in one folder of shards have the same classes and size, and share no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from support.folders import request, write_folder


def test_a_holdout_packs_every_image_once(tmp_path: Path) -> None:
    source, out = write_folder(tmp_path / "source", {"a": 10, "b": 20}), tmp_path / "out"
    train = pack(request(source, out, holdout=0.2)).manifest
    val = pack(request(source, out, "val", holdout=0.2)).manifest
    assert (train.images, val.images) == (24, 6)
    assert train.classes == val.classes
    assert train.source == val.source
    assert np.bincount(np.load(out / "val.index.npy")["label"]).tolist() == [2, 4]
    assert not (out / "val.mean.npy").exists()


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("val", "train")])
def test_a_holdout_that_could_overlap_is_refused(tmp_path: Path, first: SplitName, second: SplitName) -> None:
    source, out = write_folder(tmp_path / "source", {"a": 10}), tmp_path / "out"
    other = write_folder(tmp_path / "other", {"a": 10}, seed=1)
    pack(request(source, out, first, holdout=0.2))
    for mismatched in (
        request(source, out, second),
        request(source, out, second, holdout=0.3),
        request(source, out, second, holdout=0.2, seed=1),
        request(other, out, second, holdout=0.2),
    ):
        with pytest.raises(UserError, match="the two could share images"):
            pack(mismatched)
    pack(request(source, out, second, holdout=0.2))


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("val", "train")])
def test_train_and_val_of_the_same_files_are_refused(tmp_path: Path, first: SplitName, second: SplitName) -> None:
    source, out = write_folder(tmp_path / "source", {"a": 3}), tmp_path / "out"
    pack(request(source, out, first))
    with pytest.raises(UserError, match=r"from the same files.*--holdout 0\.1"):
        pack(request(source, out, second))


def test_val_from_its_own_folder_has_trains_labels(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "images", {"a": 3, "b": 3, "c": 3})
    val = write_folder(tmp_path / "held out", {"c": 2}, seed=1)
    pack(request(train, tmp_path / "out"))
    manifest = pack(request(val, tmp_path / "out", "val")).manifest
    assert [described.name for described in manifest.classes] == ["a", "b", "c"]
    assert np.load(tmp_path / "out" / "val.index.npy")["label"].tolist() == [2, 2]


def test_splits_of_other_size_or_classes_are_refused(tmp_path: Path) -> None:
    val = write_folder(tmp_path / "val", {"a": 2})
    train = write_folder(tmp_path / "train", {"a": 2, "b": 2}, seed=1)
    pack(request(val, tmp_path / "out", "val"))
    with pytest.raises(UserError, match="val is already packed with 1 classes"):
        pack(request(train, tmp_path / "out"))
    with pytest.raises(UserError, match="val is already packed with --size 16"):
        pack(request(train, tmp_path / "out", size=24))


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("val", "train")])
def test_splits_that_are_encoded_unlike_each_other_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: SplitName, second: SplitName
) -> None:
    for seed, split in enumerate(("train", "val")):
        write_folder(tmp_path / "source" / split, {"a": 2}, seed=seed)
    pack(request(tmp_path / "source", tmp_path / "out", first, quality=80, filter="bilinear", samples_per_shard=3))
    assert capsys.readouterr().err.count("note: ") == 0
    pack(request(tmp_path / "source", tmp_path / "out", second, chroma="444"))
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert f"{first} is packed with --quality 80 --chroma 420 --filter bilinear, and {second} with --quality 90" in note


def test_val_before_train_with_fewer_classes_says_to_begin_with_train(tmp_path: Path) -> None:
    pack(request(write_folder(tmp_path / "held out", {"a": 2}), tmp_path / "out", "val"))
    with pytest.raises(
        UserError, match=r"1 more, such as b\. If val lacks classes, start over and pack train first: d"
    ):
        pack(request(write_folder(tmp_path / "images", {"a": 2, "b": 2}, seed=1), tmp_path / "out"))


def test_classes_without_images_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "source" / "train", {"a": 2, "b": 2, "c": 2})
    write_folder(tmp_path / "source" / "val", {"b": 2}, seed=1)
    pack(request(tmp_path / "source", tmp_path / "out"))
    assert "has no images" not in capsys.readouterr().err
    pack(request(tmp_path / "source", tmp_path / "out", "val"))
    assert "val has no images of 2 of the 3 classes: a, c" in capsys.readouterr().err
