"""The layout 'list': its lines, its classes in the order of their labels, and the lines that are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from support.folders import image_source


def write_list(root: Path, lines: list[str], images: list[str]) -> Path:
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    path = root / "list.txt"
    path.write_text("\n".join(lines))
    return path


def test_classes_that_are_numbers_are_their_own_labels(tmp_path: Path) -> None:
    images = [f"{number}.jpg" for number in range(12)]
    train = image_source(write_list(tmp_path, [f"{number}.jpg\t{number}" for number in range(12)], images))
    assert train.classes == tuple(f"{number:02d}" for number in range(12))
    assert {int(file.path.removesuffix(".jpg")): file.label for file in train.files} == {n: n for n in range(12)}
    val = image_source(write_list(tmp_path, ["3.jpg\t3", "11.jpg\t11"], []), train_classes=train.classes)
    assert [(file.name, file.label) for file in val.files] == [("03/3.jpg", 3), ("11/11.jpg", 11)]


def test_a_class_is_what_follows_the_tab_or_the_last_blank(tmp_path: Path) -> None:
    lines = ["# path, class", "", "a cat.jpg\ttabby cat", "b cat.jpg tabby", "c/dogs/c/1.jpg \t c "]
    source = image_source(write_list(tmp_path, lines, ["a cat.jpg", "b cat.jpg", "c/dogs/c/1.jpg"]))
    assert source.classes == ("c", "tabby", "tabby cat")
    assert [(file.name, file.path) for file in source.files] == [
        ("c/1.jpg", "c/dogs/c/1.jpg"), ("tabby cat/a cat.jpg", "a cat.jpg"), ("tabby/b cat.jpg", "b cat.jpg"),
    ]  # fmt: skip


def test_what_is_not_there_is_rejected_by_its_path(tmp_path: Path) -> None:
    source = image_source(write_list(tmp_path, ["a/1.jpg\ta", "a/gone.jpg\ta", "a\ta"], ["a/1.jpg"]))
    assert [file.name for file in source.files] == ["a/1.jpg"]
    assert [(rejected.file, rejected.reason) for rejected in source.rejected] == [
        ("a/gone.jpg", "cannot be read: No such file or directory"), ("a", "not a regular file"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "train", "message"),
    [
        (["1.jpg\ta", "1.jpg"], None, r"line 2: '1\.jpg'; expected a path, a tab and a class"),
        (["1.jpg\ta/b"], None, r"line 1: .*expected a path, a tab and a class"),
        (["\ta"], None, r"line 1: .*expected a path, a tab and a class"),
        (["# nothing"], None, "lists no images"),
        (["1.jpg\ta", "2.jpg\tkiwi"], ("a", "b"), "line 2: no class of the train split is called 'kiwi'"),
        (["1.jpg\t7"], ("00", "01"), "line 1: no class of the train split is called '7'"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    tmp_path: Path, lines: list[str], train: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=rf"list\.txt: {message}"):
        image_source(write_list(tmp_path, lines, ["1.jpg"]), train_classes=train)


def test_a_picture_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match=r"1\.jpg: neither a folder nor a text file"):
        image_source(tmp_path / "1.jpg")


def test_a_list_whose_paths_all_miss_names_the_first_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists").mkdir()
    path = write_list(tmp_path / "lists", ["# path, class", "a/1.jpg\ta", "b/1.jpg\tb"], [])
    tried = rf"none of its 2 images can be read\. Line 2 is {path.parent}/a/1\.jpg: cannot be read: No such file"
    with pytest.raises(UserError, match=rf"list\.txt: {tried}.*Paths are relative to the folder of the list$"):
        image_source(path)
    write_list(tmp_path, [], ["a/1.jpg", "b/1.jpg"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"from the current folder a/1\.jpg can be read: move the list to {tmp_path}"):
        image_source(path)


def test_a_name_may_have_characters_that_divide_lines_elsewhere(tmp_path: Path) -> None:
    images = ["a\x85b.jpg", "c\u2028d.jpg"]
    source = image_source(write_list(tmp_path, [f"{name}\tx" for name in images], images))
    assert [file.path for file in source.files] == images
    assert source.seen == 2


def test_lines_are_counted(tmp_path: Path) -> None:
    lines = ["# path, class", "", "1.jpg\ta", "gone.jpg\ta", "2.jpg\ta", ""]
    source = image_source(write_list(tmp_path, lines, ["1.jpg", "2.jpg"]))
    assert (source.seen, len(source.files), len(source.rejected)) == (5, 2, 1)
    assert source.ignored == {"blank lines and comments": 2}


def test_windows_line_ends_are_no_part_of_a_class(tmp_path: Path) -> None:
    path = write_list(tmp_path, [], ["1.jpg", "2.jpg"])
    path.write_bytes(b"1.jpg\ta\r\n2.jpg\tb\r\n")
    assert image_source(path).classes == ("a", "b")
