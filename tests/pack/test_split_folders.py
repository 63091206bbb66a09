"""Which folders are splits and which are classes: a SOURCE one level off, or folders of another kind, are refused."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.layouts import list_split
from alexnet_dist.pack.sources.names import split_of
from alexnet_dist.pack.sources.split_folders import BOXES
from support.folders import contents, encoded, image_source, photo, request, write_folder
from support.layouts import CLASSES, WRITERS, draw_images, kaggle


def write_splits(root: Path, *splits: str) -> Path:
    """Write class folders of a and b for each split, of different images."""
    for seed, split in enumerate(splits):
        write_folder(root / split, {"a": 2, "b": 1 + seed}, seed=seed)
    return root


def write_images(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(photo(number)))
    return folder


def refusal(root: Path, split: SplitName = "train", train_classes: tuple[str, ...] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        image_source(root, split, train_classes=train_classes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("train_set", "train"), ("trainset", "train"),
        ("train2012", "train"), ("Training Images", "train"), ("ILSVRC2012_img_train", "train"), ("val", "val"),
        ("Val", "val"), ("validation", "val"), ("valid", "val"), ("imagenet-val", "val"), ("test", "test"),
        ("Testing", "test"), ("images", None), ("trains", None), ("train_val", None), ("n01440764", None),
        ("invalid", None), ("bullet train", None), ("data", None), ("", None),
    ],
)  # fmt: skip
def test_a_folder_is_named_for_a_split_in_any_case_and_usual_spelling(name: str, split: SplitName | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train", "Val"),
        ("training", "validation"),
        ("TRAIN", "TEST"),
        ("train_set", "val_set"),
        ("Training", "Testing"),
    ],
)
def test_splits_in_other_spellings_are_kept_apart(tmp_path: Path, train: str, val: str) -> None:
    write_splits(tmp_path, train, val)
    listed = {split: image_source(tmp_path, split) for split in ("train", "val")}
    assert {source.classes for source in listed.values()} == {("a", "b")}
    assert [source.folder.name for source in listed.values()] == [train, val]
    assert [len(source.files) for source in listed.values()] == [3, 4]


@pytest.mark.parametrize("above", ["imagenet", "images", "my data", "deep/down"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_source_one_level_too_high_is_named(tmp_path: Path, above: str, split: SplitName) -> None:
    write_splits(tmp_path / above, "train", "val")
    message = refusal(tmp_path, split, ("a", "b") if split == "val" else None)
    assert f"SOURCE is probably {tmp_path / above}, not {tmp_path}" in message
    assert len(image_source(tmp_path / above, split).files) == (3 if split == "train" else 4)


def test_a_readme_beside_the_splits_makes_no_class_of_them(tmp_path: Path) -> None:
    write_splits(tmp_path / "imagenet", "train", "val")
    (tmp_path / "imagenet" / "README.md").write_text("read me")
    assert "imagenet: holds no images, only folders such as train/, val/" in refusal(tmp_path)


@pytest.mark.parametrize("below", ["ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"])
def test_kaggles_tree_one_level_too_low_is_named(tmp_path: Path, below: str) -> None:
    root = kaggle(tmp_path / "kaggle", draw_images(train=1, val=1))
    (root / "ILSVRC" / "Annotations" / "CLS-LOC" / "val").mkdir(parents=True)
    (root / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / "1.xml").write_text("<annotation/>")
    assert f"SOURCE is probably {root}" in refusal(root / below, "val", CLASSES)


def test_kaggles_tree_one_level_too_high_is_named(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "imagenet-object-localization-challenge", draw_images(train=1, val=1))
    assert f"SOURCE is probably {root}, not {tmp_path}" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_val_alone_is_no_class(tmp_path: Path, split: SplitName) -> None:
    write_splits(tmp_path, "val")
    message = refusal(tmp_path, split, ("a", "b") if split == "val" else None)
    assert "a class folder is named like a split: val" in message
    assert f"SOURCE is probably {tmp_path / 'val'}, with --split val" in message
    assert len(image_source(tmp_path / "val", "val", train_classes=("a", "b")).files) == 3


@pytest.mark.parametrize("names", [["val"], ["train", "test"], ["ILSVRC2012_img_val"], ["Test", "a"]])
def test_flat_folders_of_splits_are_no_classes(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_images(tmp_path / name, ["1.jpg", "2.jpg"])
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    message = refusal(tmp_path, "val")
    assert "a class folder is named like a split" in message
    assert "It holds no class folders either" in message


def test_a_flat_validation_folder_beside_its_ground_truth_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 1, "b": 1})
    write_images(tmp_path / "val", ["ILSVRC2012_val_00000001.JPEG"])
    (tmp_path / "val" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    for root in (tmp_path, tmp_path / "val"):
        assert "val: holds no class folders" in refusal(root, "val", ("a", "b"))


def test_a_split_among_the_class_folders_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 1, "b": 1, "val": 1})
    assert "train: a class folder is named like a split: val" in refusal(tmp_path)


def test_a_class_called_train_is_noted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 1, "train": 1})
    assert "taken for a class called train" in image_source(tmp_path).notes[0]


def test_train_that_could_be_a_class_of_folders_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 2, "train/steam": 1, "train/diesel": 1})
    assert "train/ could be the training split, because it holds folders, or a class" in refusal(tmp_path)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    write_splits(tmp_path, "train", "val", "validation")
    assert "val/ and validation/ are both named for one split" in refusal(tmp_path, "val")
    write_splits(tmp_path, "Train")
    assert "Train/ and train/ are both named for one split" in refusal(tmp_path)


def test_folders_beside_the_splits_are_noted(tmp_path: Path) -> None:
    write_splits(tmp_path, "train", "val")
    write_folder(tmp_path, {"cats": 1})
    assert image_source(tmp_path).notes == (f"{tmp_path}: not read, because it belongs to no split: cats/",)


@pytest.mark.parametrize("layout", ["parquet", "ilsvrc2012", "kaggle"])
def test_class_folders_beside_archives_are_noted(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "set", draw_images(train=1, val=1))
    before = list_split(root, "auto", "train", None, 0, None).notes
    write_splits(root, "train", "val")
    notes = list_split(root, "auto", "train", None, 0, None).notes
    assert notes == (
        *before,
        f"{root}: read as layout {layout}; train/, val/ not read: for class folders, add --layout folder",
    )


def test_a_folder_named_for_another_split_is_noted(tmp_path: Path) -> None:
    write_splits(tmp_path, "val", "test")
    (note,) = image_source(tmp_path / "val", "train").notes
    assert "is called like val and packed as train: if that is not meant, use --split val" in note
    assert image_source(tmp_path / "test", "val").notes == ()


def tiny_imagenet(root: Path) -> Path:
    """Write tiny-ImageNet's layout: images/ and boxes in each class folder, and val/ flat with a table."""
    for seed, name in enumerate(CLASSES[:3]):
        write_folder(root / "train" / name, {"images": 2}, seed=seed)
        (root / "train" / name / f"{name}{BOXES}").write_text("000.jpg\t0\t0\t9\t9\n")
    write_images(root / "val" / "images", [f"val_{number}.JPEG" for number in range(6)])
    rows = [f"val_{number}.JPEG\t{CLASSES[number % 3]}\t0\t0\t9\t9\n" for number in range(6)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    return root


def test_tiny_imagenet_is_packed_as_its_class_folders_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    for seed, name in enumerate(CLASSES[:3]):
        write_folder(tmp_path / "plain", {name: 2}, seed=seed)
    manifest = pack(request(root, tmp_path / "out")).manifest
    assert "read as tiny-ImageNet" in capsys.readouterr().err
    assert (manifest.rejected, manifest.ignored) == ((), {"box files": 3})
    pack(request(tmp_path / "plain", tmp_path / "expected"))
    packed, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
    assert all(packed[name] == content for name, content in expected.items() if not name.endswith(".json"))


def test_tiny_imagenets_val_is_refused_with_the_command_that_lists_it(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    message = refusal(root, "val")
    assert "val/images: not a class" in message
    command = message.partition("val.txt: ")[2]
    assert command.startswith("awk ")
    subprocess.run(command, shell=True, check=True)
    source = image_source(root / "val" / "val.txt", "val", train_classes=CLASSES[:3])
    assert [(file.path, file.label) for file in source.files if file.label == 1] == [
        ("images/val_1.JPEG", 1), ("images/val_4.JPEG", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("extra", ["n01440764/notes.md", "n01440764/more/1.jpg", "n01440764/1.jpg"])
def test_what_is_not_quite_tiny_imagenet_is_not_read_as_it(tmp_path: Path, extra: str) -> None:
    root = tiny_imagenet(tmp_path / "tiny") / "train"
    write_images((root / extra).parent, [Path(extra).name])
    assert "holds no images, only folders such as images/" in refusal(root)


def test_one_class_called_images_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"images": 3})
    assert "images: not a class: expected a folder of images for each class" in refusal(tmp_path)


def test_folders_inside_class_folders_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "a/more": 3, "b": 1})
    source = image_source(tmp_path)
    assert len(source.files) == 6
    assert "3 files lie in folders inside class folders, such as a/more/00" in source.notes[0]


def test_a_class_of_folders_alone_is_refused_and_the_levels_below_searched(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a/x": 2, "a/y": 1})
    assert f"SOURCE is probably {tmp_path / 'set' / 'a'}, not" in refusal(tmp_path / "set")
    write_folder(tmp_path / "set", {"b/x": 2})
    assert f"SOURCE is probably {tmp_path / 'set' / 'a'}, {tmp_path / 'set' / 'b'}, not" in refusal(tmp_path / "set")


def test_parquet_files_one_level_too_high_are_found(tmp_path: Path) -> None:
    (tmp_path / "set" / "cifar10" / "plain_text").mkdir(parents=True)
    (tmp_path / "set" / "cifar10" / "plain_text" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert f"SOURCE is probably {tmp_path / 'set' / 'cifar10' / 'plain_text'}" in refusal(tmp_path / "set" / "cifar10")


def test_numeric_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """As in lists and shards: with names in the order of text, label 1 would be class 10."""
    write_folder(tmp_path / "train", {str(number): 1 for number in range(12)})
    write_folder(tmp_path / "val", {str(number): 1 for number in (2, 10)}, seed=1)
    train, val = (image_source(tmp_path, split) for split in ("train", "val"))
    assert train.classes == tuple(f"{number:02d}" for number in range(12))
    assert {int(file.path.split("/")[0]): file.label for file in train.files} == {n: n for n in range(12)}
    assert [(file.name, file.label) for file in val.files] == [("02/000.jpg", 2), ("10/000.jpg", 10)]
    # A set that an earlier version packed, in the order of text, keeps its labels.
    earlier = tuple(sorted(str(number) for number in range(12)))
    source = image_source(tmp_path, "val", train_classes=earlier)
    assert [(file.name, file.label) for file in source.files] == [("10/000.jpg", 2), ("2/000.jpg", 4)]


def test_numeric_folders_of_val_are_read_as_the_labels_of_a_list_are(tmp_path: Path) -> None:
    """As in ImageNetV2, whose folders are called after the indices of ImageNet's classes."""
    write_folder(tmp_path, {"0": 1, "2": 1})
    source = image_source(tmp_path, "val", train_classes=CLASSES)
    assert [(file.name, file.label) for file in source.files] == [(f"{CLASSES[n]}/000.jpg", n) for n in (0, 2)]
    assert "the labels are read as indices of its classes: 0 is n01440764, 2 is n03347037" in source.notes[0]
    assert "the label 0 could be an index, of class 1; or a name" in refusal(tmp_path, "val", ("1", "2", "3"))
    write_folder(tmp_path, {"7": 1})
    assert "no class of the train split is called '7': it has 5 classes" in refusal(tmp_path, "val", CLASSES)


def test_two_folders_of_one_number_are_not_merged(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1": 1, "01": 1, "2": 1})
    assert "the folders 01 and 1 are one number" in refusal(tmp_path)
