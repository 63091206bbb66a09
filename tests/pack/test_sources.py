"""What is listed of a source, under which labels, and what is refused before any image is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data.manifest import Rejected, SourceId, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.layouts import find as find_any
from alexnet_dist.pack.sources.source import File, Source, divide
from alexnet_dist.pack.sources.source import listed as source_of
from support.folders import write_folder


def find(
    root: Path, split: SplitName, holdout: float | None = None, seed: int = 0, train: tuple[str, ...] | None = None
) -> Source:
    """List a source of class folders, as what it looks like."""
    source = find_any(root, "auto", split, holdout, seed, train)
    assert isinstance(source, Source)
    return source


def touch(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(source: Source) -> list[str]:
    return [file.name for file in source.files]


def test_labels_are_places_of_sorted_folder_names(tmp_path: Path) -> None:
    for name in ("pear/2.jpg", "apple/9.png", "pear/1", "Zebra/deep/er/x.JPEG"):
        touch(tmp_path / name, b"x" * len(name))
    source = find(tmp_path, "train", None, 0, None)
    assert source.classes == ("Zebra", "apple", "pear")
    assert source.files == (
        File("Zebra/deep/er/x.JPEG", 0, 20, "Zebra/deep/er/x.JPEG"),
        File("apple/9.png", 1, 11, "apple/9.png"),
        File("pear/1", 2, 6, "pear/1"),
        File("pear/2.jpg", 2, 10, "pear/2.jpg"),
    )


def test_the_order_does_not_depend_on_the_endings(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/1-2.jpg", "a/1 b"):
        touch(tmp_path / name)
    assert names(find(tmp_path, "train")) == ["a/1.jpg", "a/1 b", "a/1-2.jpg"]


def test_what_cannot_be_an_image_is_listed_with_its_reason(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "good.jpg")
    touch(tmp_path / "a" / ".DS_Store")
    touch(tmp_path / "README.txt")
    touch(tmp_path / ".cache" / "x.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    touch(tmp_path / "a" / os.fsdecode(b"\xff.jpg"))
    source = find(tmp_path, "train", None, 0, None)
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
    assert names(find(source, "train", None, 0, None)) == ["a/1.jpg"]
    (source / "a" / "up").symlink_to(source)
    with pytest.raises(UserError, match="link to a folder above itself"):
        find(source, "train", None, 0, None)


@pytest.mark.parametrize("held_out", ["val", "validation", "valid", "test"])
def test_train_and_val_folders(tmp_path: Path, held_out: str) -> None:
    write_folder(tmp_path / "train", {"a": 1, "b": 2, "c": 1})
    write_folder(tmp_path / held_out, {"b": 1, "c": 1})
    touch(tmp_path / "notes.txt")
    train, val = (find(tmp_path, split, None, 0, None) for split in ("train", "val"))
    assert names(train) == ["a/000.jpg", "b/000.jpg", "b/001.jpg", "c/000.jpg"]
    assert train.rejected == ()
    assert val.classes == train.classes
    assert [(file.name, file.label) for file in val.files] == [("b/000.jpg", 1), ("c/000.jpg", 2)]


@pytest.mark.parametrize("held_out", ["val", "valid"])
def test_val_goes_before_test(tmp_path: Path, held_out: str) -> None:
    write_folder(tmp_path / "train", {"a": 1})
    write_folder(tmp_path / "test", {"a": 2})
    write_folder(tmp_path / held_out, {"a": 3})
    assert len(find(tmp_path, "val", None, 0, None).files) == 3
    assert len(find(tmp_path, "test", None, 0, None).files) == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 1, "train": 1})
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert find(tmp_path, "train", None, 0, None).classes == ("bus", "train")


def test_a_class_may_be_called_like_a_tar(tmp_path: Path) -> None:
    write_folder(tmp_path, {"road.tar": 1})
    assert find(tmp_path, "train", None, 0, None).classes == ("road.tar",)


def test_files_alike_but_for_their_reason_have_an_order(tmp_path: Path) -> None:
    """As two rows of parquet, the first of which is no image and so takes no room in the spool."""
    good, bad = File("a/1.jpg", 0, 9, "s", 0, None, 5), File("a/1.jpg", 0, 9, "s", 0, "empty file", 0)
    assert source_of(tmp_path, ("a",), [bad, good], []).files == (good, bad)


def test_a_plain_val_folder_takes_the_labels_of_the_packed_train_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b": 1})
    source = find(tmp_path, "val", None, 0, ("a", "b", "c"))
    assert source.classes == ("a", "b", "c")
    assert source.files[0].label == 1


def refused(root: Path, message: str, *, split: SplitName = "train", holdout: float | None = None,
            train: tuple[str, ...] | None = None) -> None:  # fmt: skip
    with pytest.raises(UserError, match=message):
        find(root, split, holdout, 0, train)


def test_refusals_name_the_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such folder")
    refused(tmp_path, "holds no class folders")
    write_folder(tmp_path / "set" / "train", {"a": 2, "b": 2})
    refused(tmp_path / "set", r"no val/ or validation/ or valid/ or test/.*--holdout 0\.1", split="val")
    (tmp_path / "set" / "train" / "hollow").mkdir()
    refused(tmp_path / "set", "train/hollow: an empty class folder")
    touch(tmp_path / "set" / "train" / "hollow" / ".hidden")
    refused(tmp_path / "set", "train/hollow: an empty class folder")


def test_refusals_between_train_and_val(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 2, "b": 2})
    write_folder(tmp_path / "val", {"a": 1, "kiwi": 1})
    refused(tmp_path, "val/kiwi: no class of the train split is called kiwi", split="val")
    refused(tmp_path, "1 more, such as b and 1 missing, such as c", split="val", train=("a", "c"))
    refused(tmp_path, "has val/: leave --holdout out", holdout=0.1)


def test_a_class_folder_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"caf\xe9") / "1.jpg")
    refused(tmp_path, r"caf\\xe9 is not UTF-8")


def test_the_id_tells_sources_apart_and_not_their_places(tmp_path: Path) -> None:
    one = find(write_folder(tmp_path / "1", {"a": 2, "b": 1}), "train", None, 0, None)
    same = find(write_folder(tmp_path / "2", {"a": 2, "b": 1}), "train", None, 0, None)
    touch(tmp_path / "2" / "a" / "000.jpg", b"other")
    other = find(tmp_path / "2", "train", None, 0, None)
    assert one.id == same.id
    assert one.id.files == 3
    assert one.id.sha256 != other.id.sha256


def listed(counts: list[int]) -> Source:
    files = tuple(
        File(f"c{label}/{number:04d}", label, 1, "") for label, count in enumerate(counts) for number in range(count)
    )
    return Source(Path(), tuple(f"c{label}" for label in range(len(counts))), files, (), SourceId(len(files), "0" * 64))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_holdout_is_disjoint_complete_and_of_every_class(counts: list[int], holdout: float, seed: int) -> None:
    source = listed(counts)
    train, val = (divide(source, split, holdout, seed) for split in ("train", "val"))
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
    alone, among = divide(listed([30]), "val", 0.3, 0), divide(listed([30, 20]), "val", 0.3, 0)
    assert set(alone.files) == {file for file in among.files if file.label == 0}
    assert set(alone.files) != set(divide(listed([30]), "val", 0.3, 1).files)
    assert set(alone.files) < set(divide(listed([30]), "val", 0.5, 0).files)


def test_a_holdout_of_one_image_is_refused_by_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "lonely": 1})
    refused(tmp_path, "lonely: holds one file, and --holdout needs two", holdout=0.5)


def test_a_train_folder_alone_may_be_divided(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 4})
    assert len(find(tmp_path, "val", 0.25, 0, None).files) == 1
