"""Parquet files with other columns than image and label, and what their labels are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.pack.__main__ import main
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.options import ReadOptions
from support.colours import COLOURS, colour_image, packed_colours
from support.folders import SIZE, encoded, photo, request


def columns(image: str | None = None, label: str | None = None) -> ReadOptions:
    return ReadOptions(columns=SampleFields(image, label))


def write(
    root: Path,
    table: Mapping[str, Any],
    names: Mapping[str, Sequence[str]] | None = None,
    split: str = "train",
) -> Path:
    """Write a split as one file; names: of the labels in each column, in the metadata as Hugging Face writes them."""
    features = {column: {"names": list(of_column)} for column, of_column in (names or {}).items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    root.mkdir(exist_ok=True)
    path = root / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table(dict(table)).replace_schema_metadata(metadata), path)
    return root


def cifar(root: Path, labels: Sequence[int], split: str = "train", **names: Sequence[str]) -> Path:
    """Write CIFAR-100's columns: the colour of an image is its fine label."""
    table = {
        "img": [{"bytes": colour_image(label, number), "path": None} for number, label in enumerate(labels)],
        "fine_label": list(labels),
        "coarse_label": [label // 2 for label in labels],
    }
    return write(root, table, names, split)


def test_other_columns_are_named_with_the_options_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = cifar(tmp_path / "source", range(4))
    arguments = [str(source), str(tmp_path / "out"), "--size", str(SIZE), "--processes", "1"]
    assert run_command(main, arguments) == 2
    message = capsys.readouterr().err
    assert "has no column image and no column label; its columns are img, fine_label, coarse_label" in message
    assert "--image-column img --label-column fine_label" in message
    assert "download" not in message
    main([*arguments, "--image-column", "img", "--label-column", "fine_label"])
    assert packed_colours(tmp_path / "out", "train") == [(str(label), label) for label in range(4)]


def test_labels_that_nothing_names_are_numbers_in_their_order(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", [3, 0, 11, 2, 1, 10, 3])
    cifar(source, [11, 2, 3], "test")
    reading = columns("img", "fine_label")
    train = pack(request(source, tmp_path / "out", reading=reading)).manifest
    assert [described.name for described in train.classes] == ["00", "01", "02", "03", "10", "11"]
    val = pack(request(source, tmp_path / "out", "test", reading=reading)).manifest
    assert val.classes == train.classes
    assert packed_colours(tmp_path / "out", "train") == [(f"{n:02d}", n) for n in (0, 1, 2, 3, 3, 10, 11)]
    assert packed_colours(tmp_path / "out", "test") == [("02", 2), ("03", 3), ("11", 11)]


def test_a_column_has_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, coarse = [f"fine {name}" for name in "dcba"], ["warm", "cold"]
    source = cifar(tmp_path / "source", range(4), fine_label=fine, coarse_label=coarse)
    pack(request(source, tmp_path / "fine", reading=columns("img", "fine_label")))
    assert packed_colours(tmp_path / "fine", "train") == [(f"fine {name}", "dcba".index(name)) for name in "abcd"]
    manifest = pack(request(source, tmp_path / "coarse", reading=columns("img", "coarse_label"))).manifest
    assert [described.name for described in manifest.classes] == ["cold", "warm"]
    assert np.bincount(np.load(tmp_path / "coarse" / "train.index.npy")["label"]).tolist() == [2, 2]
    assert "note" not in capsys.readouterr().err


def test_another_column_is_another_source(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", range(4))
    pack(request(source, tmp_path / "out", reading=columns("img", "fine_label")))
    assert pack(request(source, tmp_path / "out", reading=columns("img", "fine_label"))).new_images == 0
    with pytest.raises(UserError, match="already packed with other settings: source"):
        pack(request(source, tmp_path / "out", reading=columns("img", "coarse_label")))


def test_the_column_of_labels_that_is_given_goes_before_the_names_of_images(tmp_path: Path) -> None:
    names = ["1_n01440764.JPEG", "2_n02105855.JPEG", "3_n03347037.JPEG"]
    rows = {
        "image": [{"bytes": colour_image(number), "path": name} for number, name in enumerate(names)],
        "label": [0, 1, 1],
    }
    source = write(tmp_path / "source", rows, {"label": ["fish", "dog or engine"]})
    with pytest.raises(
        UserError, match=r"row 2 is of class n03347037 by its image's name and has label 1, but another"
    ):
        pack(request(source, tmp_path / "out"))
    pack(request(source, tmp_path / "labels", reading=columns(label="label")))
    assert packed_colours(tmp_path / "labels", "train") == [("dog or engine", 1), ("dog or engine", 2), ("fish", 0)]


def test_rows_without_bytes_are_listed_and_do_not_take_their_class_with_them(tmp_path: Path) -> None:
    good = {"bytes": encoded(photo(1)), "path": None}
    rows = {"image": [good, {"bytes": None, "path": "2.jpg"}, good, None], "label": [0, 1, 1, 0]}
    source = write(tmp_path / "source", rows, {"label": ["cat", "dog"]})
    manifest = pack(request(source, tmp_path / "out")).manifest
    assert manifest.images == 2
    assert {rejected.reason for rejected in manifest.rejected} == {"no bytes in its row"}
    assert Rejected("dog/2.jpg", "no bytes in its row") in manifest.rejected
    rows = {"image": [good, {"bytes": None, "path": "2.jpg"}], "label": [0, 1]}
    source = write(tmp_path / "lost", rows, {"label": ["cat", "dog"]})
    with pytest.raises(UserError, match=r"(?s)none of the files of class dog .*dog/2\.jpg: no bytes in its row"):
        pack(request(source, tmp_path / "out lost"))


def test_a_class_that_the_metadata_names_and_no_row_has_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat", "unicorn", "dog"]
    rows = {"image": [{"bytes": encoded(photo(number)), "path": None} for number in range(2)], "label": [0, 2]}
    manifest = pack(request(write(tmp_path / "source", rows, {"label": names}), tmp_path / "out")).manifest
    assert [described.name for described in manifest.classes] == ["cat", "dog"]
    assert "no row is of unicorn, which the files name as classes" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["cat", "cat"], ["a/b", "a|b"], ["cat", " "]])
def test_names_that_would_merge_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    rows = {"image": [{"bytes": encoded(photo(number)), "path": None} for number in range(2)], "label": [0, 1]}
    with pytest.raises(UserError, match=r"names two labels of column label .* which would be one class"):
        pack(request(write(tmp_path / "source", rows, {"label": names}), tmp_path / "out"))


def test_numbers_of_val_are_not_taken_for_the_names_of_train(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", range(4), fine_label=["d", "c", "b", "a"])
    pack(request(source, tmp_path / "out", reading=columns("img", "fine_label")))
    cifar(tmp_path / "val", range(4), "val")
    with pytest.raises(UserError, match="not the classes of the packed train split: 4 more, such as 0"):
        pack(request(tmp_path / "val", tmp_path / "out", "val", reading=columns("img", "fine_label")))


def test_options_for_another_layout_are_refused(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", range(len(COLOURS)))
    with pytest.raises(UserError, match="--image-field and --label-field are for samples in shards, but its layout is"):
        pack(request(source, tmp_path / "out", reading=ReadOptions(fields=SampleFields("jpg", None))))
    with pytest.raises(UserError, match="--image-column and --label-column are for parquet files, but its layout is"):
        pack(request(source, tmp_path / "out", layout="folder", reading=columns("img")))


def test_names_with_and_without_a_wordnet_id_do_not_make_two_classes_of_one(tmp_path: Path) -> None:
    names, source = ["1_n01440764.JPEG", "2.jpg"], tmp_path / "source"
    rows = [{"bytes": colour_image(1), "path": name} for name in names]
    for order in (rows, rows[::-1]):
        write(source, {"image": order, "label": [0, 0]}, {"label": ["fish"]})
        with pytest.raises(
            UserError, match=r"row 1: the name of its image, .*_n01440764\.JPEG.* has|2\.jpg, has no Word"
        ):
            pack(request(source, tmp_path / "out"))
    for number, row in enumerate(rows):
        write(source, {"image": [row], "label": [0]}, {"label": ["fish"]})
        (source / "train-00000-of-00001.parquet").rename(source / f"train-{number}.parquet")
    with pytest.raises(UserError, match="have a WordNet id in their name, such as n01440764, and others are of fish"):
        pack(request(source, tmp_path / "out"))
    assert pack(request(source, tmp_path / "named", reading=columns(label="label"))).manifest.images == 2


def test_files_whose_names_have_no_split_are_listed(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", range(3))
    cifar(source, range(2), "test")
    (source / "extra.parquet").write_bytes(b"PAR1")
    manifest = pack(request(source, tmp_path / "out", reading=columns("img", "fine_label"))).manifest
    reason = "its name has no split, unlike those of other files here, such as train-00000-of-00001.parquet"
    assert manifest.rejected == (Rejected("extra.parquet", reason),)
    assert manifest.seen == 4
    (source / "train-00000-of-00001.parquet").rename(source / "0000.parquet")
    (source / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"holds no class folders.* 0000\.parquet is read if its name begins with its"):
        pack(request(source, tmp_path / "other"))


def test_upper_case_in_the_names_of_files_is_known(tmp_path: Path) -> None:
    source = cifar(tmp_path / "source", range(3))
    (source / "train-00000-of-00001.parquet").rename(source / "Train-00000-of-00001.PARQUET")
    assert pack(request(source, tmp_path / "out", reading=columns("img", "fine_label"))).manifest.images == 3
