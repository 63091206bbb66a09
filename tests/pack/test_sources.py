"""The listing of a source: its files, their labels, its holdout, and the sources that are rejected before reading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected, SourceId
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.listing import ImageFile, ImageSource, apply_holdout, build_source
from support.folders import image_source, write_folder


def touch(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(source: ImageSource) -> list[str]:
    return [file.name for file in source.files]


def test_labels_are_indices_of_the_sorted_folder_names(tmp_path: Path) -> None:
    for name in ("pear/2.jpg", "apple/9.png", "pear/1", "Zebra/0.jpg", "Zebra/deep/er/x.JPEG"):
        touch(tmp_path / name, b"\xff\xd8\xff".ljust(len(name), b"x"))
    source = image_source(tmp_path, "train")
    assert source.classes == ("Zebra", "apple", "pear")
    assert source.files == (
        ImageFile("Zebra/0.jpg", 0, 11, "Zebra/0.jpg"),
        ImageFile("Zebra/deep/er/x.JPEG", 0, 20, "Zebra/deep/er/x.JPEG"),
        ImageFile("apple/9.png", 1, 11, "apple/9.png"),
        ImageFile("pear/1", 2, 6, "pear/1"),
        ImageFile("pear/2.jpg", 2, 10, "pear/2.jpg"),
    )
    assert [note for note in source.notes if "1 files lie in folders inside" in note and "Zebra/deep/er/x.JPEG" in note]


def test_the_order_does_not_depend_on_the_endings(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/1-2.jpg", "a/1 b"):
        touch(tmp_path / name)
    assert names(image_source(tmp_path, "train")) == ["a/1.jpg", "a/1 b", "a/1-2.jpg"]


def test_what_cannot_be_an_image_is_listed_with_its_reason(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "good.jpg")
    touch(tmp_path / "a" / ".DS_Store")
    touch(tmp_path / "README.txt")
    touch(tmp_path / ".cache" / "x.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    touch(tmp_path / "a" / os.fsdecode(b"\xff.jpg"))
    source = image_source(tmp_path, "train")
    assert names(source) == ["a/good.jpg"]
    assert source.classes == ("a",)
    assert set(source.rejected) == {
        Rejected("a/.DS_Store", "hidden"),
        Rejected("README.txt", "not in a class folder"),
        Rejected(".cache", "hidden"),
        Rejected("a/gone.jpg", "a link to nothing"),
        Rejected("a/pipe.jpg", "not a regular file"),
        Rejected("a/\\xff.jpg", "its name is not UTF-8"),
    }


def test_class_folders_may_be_links_but_not_loops(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.jpg")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").symlink_to(tmp_path / "elsewhere")
    assert names(image_source(source, "train")) == ["a/1.jpg"]
    (source / "a" / "up").symlink_to(source)
    with pytest.raises(UserError, match="link to a folder above itself"):
        image_source(source, "train")


@pytest.mark.parametrize("held_out", ["val", "validation", "valid", "test"])
def test_train_and_val_folders(tmp_path: Path, held_out: str) -> None:
    write_folder(tmp_path / "train", {"a": 1, "b": 2, "c": 1})
    write_folder(tmp_path / held_out, {"b": 1, "c": 1})
    touch(tmp_path / "notes.txt")
    train, val = (image_source(tmp_path, split) for split in ("train", "val"))
    assert names(train) == ["a/000.jpg", "b/000.jpg", "b/001.jpg", "c/000.jpg"]
    assert train.rejected == ()
    assert val.classes == train.classes
    assert [(file.name, file.label) for file in val.files] == [("b/000.jpg", 1), ("c/000.jpg", 2)]


@pytest.mark.parametrize("held_out", ["val", "valid"])
def test_val_goes_before_test(tmp_path: Path, held_out: str) -> None:
    write_folder(tmp_path / "train", {"a": 1})
    write_folder(tmp_path / "test", {"a": 2})
    write_folder(tmp_path / held_out, {"a": 3})
    assert len(image_source(tmp_path, "val").files) == 3
    assert len(image_source(tmp_path, "test").files) == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 1, "train": 1})
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert image_source(tmp_path, "train").classes == ("bus", "train")


def test_a_class_may_be_called_like_a_tar(tmp_path: Path) -> None:
    write_folder(tmp_path, {"road.tar": 1})
    assert image_source(tmp_path, "train").classes == ("road.tar",)


def test_files_that_differ_only_in_their_reason_have_an_order(tmp_path: Path) -> None:
    """Like two rows of a parquet file, the first of which is not an image and so has no bytes in the spool."""
    good, bad = ImageFile("a/1.jpg", 0, 9, "s", 0, None, 5), ImageFile("a/1.jpg", 0, 9, "s", 0, "empty file", 0)
    assert build_source(tmp_path, ("a",), [bad, good], []).files == (good, bad)


def test_a_plain_val_folder_takes_the_labels_of_the_packed_train_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b": 1})
    source = image_source(tmp_path, "val", train_classes=("a", "b", "c"))
    assert source.classes == ("a", "b", "c")
    assert source.files[0].label == 1


def check_rejected(
    root: Path,
    message: str,
    *,
    split: SplitName = "train",
    holdout: float | None = None,
    train_classes: tuple[str, ...] | None = None,
) -> None:
    with pytest.raises(UserError, match=message):
        image_source(root, split, holdout=holdout, train_classes=train_classes)


def test_refusals_name_the_folder(tmp_path: Path) -> None:
    check_rejected(tmp_path / "nowhere", "nowhere: no such folder")
    check_rejected(tmp_path, "holds no class folders")
    write_folder(tmp_path / "set" / "train", {"a": 2, "b": 2})
    check_rejected(tmp_path / "set", r"no val/ or validation/ or valid/ or test/.*--holdout 0\.1", split="val")
    (tmp_path / "set" / "train" / "hollow").mkdir()
    check_rejected(tmp_path / "set", "train/hollow: an empty class folder")
    touch(tmp_path / "set" / "train" / "hollow" / ".hidden")
    check_rejected(tmp_path / "set", "train/hollow: an empty class folder")


def test_refusals_between_train_and_val(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 2, "b": 2})
    write_folder(tmp_path / "val", {"a": 1, "kiwi": 1})
    check_rejected(tmp_path, "val/kiwi: no class of the train split is called kiwi", split="val")
    check_rejected(tmp_path, "1 more, such as b and 1 missing, such as c", split="val", train_classes=("a", "c"))
    check_rejected(tmp_path, "has val/: remove --holdout", holdout=0.1)


def test_a_class_folder_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"caf\xe9") / "1.jpg")
    check_rejected(tmp_path, r"caf\\xe9 is not UTF-8")


def test_the_id_distinguishes_sources_and_ignores_their_paths(tmp_path: Path) -> None:
    first = image_source(write_folder(tmp_path / "1", {"a": 2, "b": 1}), "train")
    same = image_source(write_folder(tmp_path / "2", {"a": 2, "b": 1}), "train")
    touch(tmp_path / "2" / "a" / "000.jpg", b"other")
    other = image_source(tmp_path / "2", "train")
    assert first.id == same.id
    assert first.id.files == 3
    assert first.id.sha256 != other.id.sha256


def source_of(counts: list[int]) -> ImageSource:
    files = tuple(
        ImageFile(f"c{label}/{number:04d}", label, 1, "")
        for label, count in enumerate(counts)
        for number in range(count)
    )
    return ImageSource(
        Path(), tuple(f"c{label}" for label in range(len(counts))), files, (), SourceId(len(files), "0" * 64)
    )


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_holdout_is_disjoint_complete_and_of_every_class(counts: list[int], holdout: float, seed: int) -> None:
    source = source_of(counts)
    train, val = (apply_holdout(source, split, holdout, seed) for split in ("train", "val"))
    assert sorted(train.files + val.files) == list(source.files)
    assert train.classes == val.classes == source.classes
    assert train.id == source.id
    for label, count in enumerate(counts):
        held_out = sum(file.label == label for file in val.files)
        assert 1 <= held_out <= count - 1
        assert abs(held_out - holdout * count) <= 1
        if count * holdout >= 1 and count * (1 - holdout) >= 1:
            assert held_out == round(holdout * count)


def test_a_holdout_depends_on_names_seed_and_class_alone() -> None:
    alone, among = apply_holdout(source_of([30]), "val", 0.3, 0), apply_holdout(source_of([30, 20]), "val", 0.3, 0)
    assert set(alone.files) == {file for file in among.files if file.label == 0}
    assert set(alone.files) != set(apply_holdout(source_of([30]), "val", 0.3, 1).files)
    assert set(alone.files) < set(apply_holdout(source_of([30]), "val", 0.5, 0).files)


def test_a_holdout_of_one_image_is_refused_by_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "lonely": 1})
    check_rejected(tmp_path, "lonely: holds one file, and --holdout needs two", holdout=0.5)


def test_a_train_folder_alone_may_be_divided(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 4})
    assert len(image_source(tmp_path, "val", holdout=0.25).files) == 1
