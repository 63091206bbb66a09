"""How the labels of lists and shards are read: as names of classes, and as indices only where nothing else fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.class_texts import read_texts
from alexnet_dist.pack.sources.classes import matching_classes
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.pack.sources.listing import ImageSource
from alexnet_dist.pack.sources.webdataset import list_split
from support.colours import colour_image
from support.folders import image_source, request
from support.layouts import tar_of

IDS = ("n01440764", "n02105855", "n03347037")


def shard(root: Path, labels: Mapping[str, str], split: str = "train", field: str = "cls") -> Path:
    """Write a shard with an image for each key, and return its folder."""
    root.mkdir(parents=True, exist_ok=True)
    members = [
        member
        for number, (key, label) in enumerate(labels.items())
        for member in ((f"{key}.jpg", colour_image(number % 12)), (f"{key}.{field}", label.encode()))
    ]
    (root / f"{split}-0.tar").write_bytes(tar_of(members))
    return root


def labels_of(source: ImageSource) -> dict[str, str]:
    """Return the name of each file's class by the file's own name."""
    return {file.name.rpartition("/")[2].partition(".")[0]: source.classes[file.label] for file in source.files}


def read(texts: str, classes: tuple[str, ...] | None) -> dict[str, str]:
    return read_texts({text: f"at {text}" for text in texts.split()}, classes, "SOURCE").class_of


@pytest.mark.parametrize(
    ("texts", "classes", "expected"),
    [
        ("1 2 3", None, "1 2 3"),
        ("1 2 10", None, "01 02 10"),
        ("1 2", ("1", "2", "3"), "1 2"),
        ("0 2 5", ("0", "2", "5"), "0 2 5"),
        ("1 002", ("01", "02"), "01 02"),
        ("0 1 2", IDS, " ".join(IDS)),
        ("2", IDS, IDS[2]),
        ("00 02", IDS, f"{IDS[0]} {IDS[2]}"),
        ("cat 7", ("7", "cat"), "cat 7"),
        ("9" * 5000, ("9" * 5000, "a"), "9" * 5000),
    ],
)
def test_a_name_goes_before_an_index(texts: str, classes: tuple[str, ...] | None, expected: str) -> None:
    assert list(read(texts, classes).values()) == expected.split()


@pytest.mark.parametrize(
    ("texts", "classes", "message"),
    [
        ("0 1 2", ("1", "2", "3"), "at 0: the label 0 could be an index, of class 1; or a name, as .* 1 is a name"),
        ("0 1", ("2", "5", "7"), "at 0: the label 0 could be an index, of class 2; .*the classes are called 2 to 7"),
        ("cat 1", ("cat", "dog"), "at 1: the label 1 could be an index, of class dog; .*the label cat is a name"),
        ("1 2", IDS, "1 could be class n02105855, counted from 0, or n01440764, counted from 1"),
        ("1 2 3", IDS, "at 3: no class of the train split is called '3'.*their indices would be 0 to 2"),
        ("0 kiwi", IDS, "at kiwi: no class of the train split is called 'kiwi': it has 3 classes, n01440764 to n0334"),
        ("001", ("1", "01", "a"), "SOURCE: the class 001 could be 1 or 01"),
        ("-1", None, "at -1: every label is -1: a split without labels"),
        ("-1", IDS, "at -1: every label is -1: a split without labels"),
    ],
)  # fmt: skip
def test_what_has_two_readings_or_none_is_refused(texts: str, classes: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(texts, classes)


def test_the_reading_as_indices_is_noted_once() -> None:
    (note,) = read_texts({"0": "at 0", "2": "at 2"}, IDS, "SOURCE").notes
    assert note.startswith("SOURCE: no label is the name of a class of the packed train split")
    assert note.endswith("0 is n01440764, 2 is n03347037")
    (note,) = read_texts({"2": "at 2"}, IDS, "SOURCE").notes
    assert note.endswith("no label is 0, so check that they do not count from 1")
    assert read_texts({"1": "at 1"}, ("1", "2"), "SOURCE").notes == ()


def test_numbers_match_whatever_their_zeros() -> None:
    assert matching_classes(["1", "01", "0010", "x", "3"], ("01", "10", "x")) == {
        "1": "01", "01": "01", "0010": "10", "x": "x",
    }  # fmt: skip


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 2, 5), (8, 9, 10)])
def test_labels_of_val_are_those_of_train_in_shards(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shard(source, {f"a{number}": str(number) for number in numbers})
    shard(source, {f"b{number}": str(number) for number in numbers[:2]}, "val")
    train = image_source(source)
    val = image_source(source, train_classes=train.classes)
    assert {key[1:]: int(name) for key, name in labels_of(val).items()} == {str(n): n for n in numbers[:2]}
    assert val.notes == ()
    pack(request(source, out))
    assert pack(request(source, out, "val")).manifest.classes == pack(request(source, out)).manifest.classes


def test_val_first_is_refused_later_if_train_has_other_classes(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shard(source, {f"a{number}": str(number) for number in (1, 2, 3)})
    shard(source, {f"b{number}": str(number) for number in (1, 2)}, "val")
    pack(request(source, out, "val"))
    with pytest.raises(UserError, match=r"val is already packed with 2 classes.*1 more, such as 3"):
        pack(request(source, out))


def test_a_list_of_indices_is_read_beside_named_classes(tmp_path: Path) -> None:
    """Caffe's val.txt has indices of the sorted WordNet ids."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(colour_image(number))
    (tmp_path / "val.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 2\n")
    val = image_source(tmp_path / "val.txt", train_classes=IDS)
    assert labels_of(val) == {str(number): IDS[number] for number in range(3)}
    assert len(val.notes) == 1


def test_our_own_labels_mean_the_classes_of_their_manifest(tmp_path: Path) -> None:
    source = shard(tmp_path / "source", {"a": "5", "b": "7", "c": "9"})
    packed = tmp_path / "packed"
    pack(request(source, packed))
    assert sorted(labels_of(image_source(packed)).values()) == ["5", "7", "9"]
    assert sorted(labels_of(image_source(packed, "train", train_classes=("5", "7", "8", "9"))).values()) == [
        "5",
        "7",
        "9",
    ]


def test_a_foreign_shard_beside_a_manifest_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(request(shard(tmp_path / "source", {"a": "5", "b": "7"}), packed))
    shard(packed, {"x": "0"})
    with pytest.raises(UserError, match=r"train-0\.tar: not a shard of train\.manifest\.json beside it"):
        image_source(packed)
    (packed / "train-0.tar").unlink()
    (packed / "train-000000.tar").write_bytes(tar_of([("x.cls", b"2"), ("x.jpg", b"x")]))
    with pytest.raises(UserError, match=r"x\.jpg: its label is '2', and the manifest .* has the labels 0 to 1"):
        image_source(packed)


def test_a_missing_shard_of_a_manifest_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(request(shard(tmp_path / "source", {f"k{n}": str(n % 2) for n in range(12)}), packed))
    (packed / "train-000001.tar").unlink()
    with pytest.raises(
        UserError, match=r"1 of the 3 shards of train\.manifest\.json: train-000001\.tar.*allow-missing"
    ):
        image_source(packed)
    source = list_split(packed, "train", None, allow_missing=True)
    assert len(source.missing) == 1
    assert len(source.files) == 7


def key_source(
    root: Path, labels: Mapping[str, str], train: tuple[str, ...] | None = None, label: str | None = None
) -> ImageSource:
    fields = DETECTED if label is None else SampleFields(label=label)
    return list_split(shard(root, labels), "train", train, fields)


def test_wordnet_ids_in_all_keys_name_the_classes(tmp_path: Path) -> None:
    keys = {f"{name}_{number}": str(label) for label, name in enumerate(IDS) for number in range(2)}
    assert key_source(tmp_path, keys).classes == IDS
    assert key_source(tmp_path, keys, label="cls").classes == ("0", "1", "2")
    # Labels that are names of the packed train split's classes count more than the keys.
    named = {key: f"class {label}" for key, label in keys.items()}
    source = key_source(tmp_path, named, ("class 0", "class 1", "class 2"))
    assert [source.classes[file.label] for file in source.files] == [f"class {n}" for n in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize(
    ("labels", "train", "message"),
    [
        ({f"{IDS[0]}_1": "dog", f"{IDS[0]}_2": "cat"}, None, r"_2\.jpg: its key has the class n01440764, but its"),
        ({f"{IDS[0]}_1": "dog", f"{IDS[1]}_1": "dog"}, None, r"but its label dog is that of keys with n01440764 too"),
        ({f"{IDS[0]}_1": "0", "other": "1"}, None, r"its key has the class n01440764, but the key of .*other\.jpg has"),
        ({f"{IDS[0]}_1": IDS[1]}, IDS, r"its key has the class n01440764, but its label is the class n02105855"),
        ({"n99999999_1": "0"}, IDS, "no class of the train split is called 'n99999999'"),
    ],
)  # fmt: skip
def test_keys_and_labels_that_disagree_are_refused(
    tmp_path: Path, labels: dict[str, str], train: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        key_source(tmp_path, labels, train)
    if train is None:
        key_source(tmp_path, labels, train, "cls")


def test_the_keys_of_the_train_shards_say_what_labels_mean(tmp_path: Path) -> None:
    """The labels count from 1 in another order than that of the ids, which val's own keys do not have."""
    labels = {IDS[2]: "1", IDS[0]: "2", IDS[1]: "3"}
    shard(tmp_path, {f"{name}_{number}": label for name, label in labels.items() for number in range(2)})
    shard(tmp_path, {f"val{label}": label for label in ("1", "2")}, "val")
    val = image_source(tmp_path, train_classes=IDS)
    assert labels_of(val) == {"val1": IDS[2], "val2": IDS[0]}
    assert val.notes == (
        f"{tmp_path}: the labels mean what they do in the train shards, whose keys have the classes: 1 is {IDS[2]}",
    )
    # Without ids in train's keys the labels have two readings.
    shard(tmp_path, {f"train{label}": label for label in labels.values()})
    with pytest.raises(UserError, match="1 could be class n02105855, counted from 0, or n01440764, counted from 1"):
        image_source(tmp_path, train_classes=IDS)
