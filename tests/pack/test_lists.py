"""Lists of images, and the class names that lists and shards share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.classes import sorted_classes
from alexnet_dist.pack.sources.shard_files import split_shards
from support.folders import encoded, image_source, photo, request, write_folder
from support.layouts import CLASSES, draw_images, kaggle, tar_of


def write_list(folder: Path, lines: str, name: str = "list.txt") -> Path:
    """Write a list beside images of the classes a and b, two each."""
    if not (folder / "a").exists():
        write_folder(folder, {"a": 2, "b": 2})
    (folder / name).write_text(lines, encoding="utf-8")
    return folder / name


def test_one_number_written_twice_is_one_class(tmp_path: Path) -> None:
    assert sorted_classes({"1", "01", "2"}) == ("01", "02")
    assert sorted_classes({"10", "9", "007"}) == ("007", "009", "010")
    assert sorted_classes({"10", "9", "a"}) == ("10", "9", "a")
    assert sorted_classes(set()) == ()
    lines = "a/000.jpg 1\na/001.jpg 01\nb/000.jpg 2\n"
    pack(request(write_list(tmp_path / "source", lines), tmp_path / "out"))
    manifest = manifests.load(tmp_path / "out" / "train.manifest.json")
    assert [described.name for described in manifest.classes] == ["01", "02"]


def test_names_that_are_not_utf8_are_listed_readably(tmp_path: Path) -> None:
    strange = os.fsdecode(b"\xff")
    root = kaggle(tmp_path / "kaggle", draw_images(train=1, val=2))
    (root / "ILSVRC/Data/CLS-LOC/val" / f"{strange}.JPEG").write_bytes(b"x")
    known = next((root / "ILSVRC/Data/CLS-LOC/val").glob("ILSVRC*"))
    (known.parent / f"{known.stem}.{strange}").write_bytes(b"x")
    rejected_files = {rejected.file for rejected in image_source(root, train_classes=CLASSES).rejected}
    assert rejected_files == {"\\xff.JPEG", f"{known.stem}.\\xff"}
    shards = tmp_path / "shards"
    shards.mkdir()
    members = [("1.jpg", b"x"), ("2.cls", b"a"), ("2.jpg", encoded(photo(1)))]
    (shards / f"train-{strange}.tar").write_bytes(tar_of(members))
    assert image_source(shards).rejected == (Rejected("train-\\xff.tar: 1.jpg", "no .cls beside it"),)
    pack(request(shards, tmp_path / "out"))
    assert manifests.load(tmp_path / "out" / "train.manifest.json").images == 1


def test_a_class_that_loses_all_its_files_is_refused(tmp_path: Path) -> None:
    lines = "a/000.jpg a\nb/gone.jpg b\na/gone.jpg a\nb/lost.jpg b\n"
    with pytest.raises(UserError, match=r"list\.txt: line 2: b/gone\.jpg: none of the files of class b can be used"):
        image_source(write_list(tmp_path, lines))
    write_list(tmp_path, "a/000.jpg a\nb/000.jpg b\na/gone.jpg a\n")
    assert len(image_source(tmp_path / "list.txt").rejected) == 1
    write_list(tmp_path, "a/000.jpg a\n")
    assert image_source(tmp_path / "list.txt", train_classes=("a", "b")).classes == ("a", "b")


def test_a_label_that_cannot_be_a_class_makes_none(tmp_path: Path) -> None:
    members = [("1.cls", b"a/b"), ("1.jpg", b"x"), ("2.cls", b"a"), ("2.jpg", b"y")]
    (tmp_path / "train-0.tar").write_bytes(tar_of(members))
    source = image_source(tmp_path)
    assert source.classes == ("a",)
    assert source.rejected == (Rejected("train-0.tar: 1.jpg", "its .cls is 'a/b'"),)
    members = [("n01440764_1.jpg", b"x"), ("2.cls", b"a"), ("2.jpg", b"y")]
    (tmp_path / "train-0.tar").write_bytes(tar_of(members))
    with pytest.raises(UserError, match=r"train-0\.tar: n01440764_1\.jpg: none of the files of class n01440764"):
        image_source(tmp_path)


def test_shards_without_any_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(tar_of([("1.jpg", b"x"), ("1.txt", b"cat")]))
    with pytest.raises(UserError, match=r"no image has a class: expected a \.cls"):
        image_source(tmp_path)


def test_shards_named_valid_are_val(tmp_path: Path) -> None:
    for name in ("train-0.tar", "valid-0.tar", "test-0.tar"):
        (tmp_path / name).write_bytes(tar_of([]))
    assert split_shards(tmp_path, "val") == ["valid-0.tar"]


def test_a_repeated_line_is_refused(tmp_path: Path) -> None:
    root = write_list(tmp_path, "a/000.jpg a\nb/000.jpg b\n./a/000.jpg a\n")
    with pytest.raises(UserError, match=r"list\.txt: lines 1 and 3 both list \./a/000\.jpg"):
        image_source(root)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert image_source(write_list(tmp_path, "\ufeffa/000.jpg a\nb/000.jpg b\n")).rejected == ()
    root = kaggle(tmp_path / "kaggle", draw_images(train=1, val=1))
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        (root / name).write_text("\ufeff" + (root / name).read_text(), encoding="utf-8")
    assert image_source(root, train_classes=CLASSES).classes == CLASSES
