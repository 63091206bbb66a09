"""The label of every packed image is the class that it has in the list or the shards, seen from the image's colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.pack.packing import pack
from support.colours import colour_images, packed_colours
from support.folders import contents, request
from support.layouts import Images, class_folders, image_lists, named_shards, source_path

NUMBERS = tuple(str(number) for number in range(1, 13))
SPARSE = ("0", "2", "5", "10", "11", "20", "100", "101", "102", "7", "8", "9")
NAMES = tuple(f"{letter} class" for letter in "lkjihgfedcba")
ORDERS: tuple[tuple[SplitName, SplitName], ...] = (("train", "val"), ("val", "train"))


def compound_shards(root: Path, images: Images) -> Path:
    """Write shards with dots in the keys, and another field for the image than for the label."""
    dotted = [{name: [(f"n.{stem}", data) for stem, data in files] for name, files in split.items()}
              for split in (images.train, images.val)]  # fmt: skip
    return named_shards(root, Images(*dotted), "input.jpg", "outputs.cls")


WRITERS: Mapping[str, Callable[[Path, Images], Path]] = {
    "list": image_lists,
    "webdataset": named_shards,
    "compound": compound_shards,
}


def pack_splits(root: Path, layout: str, out: Path, order: tuple[SplitName, ...], processes: int = 1) -> Path:
    for split in order:
        pack(request(source_path(root, layout, split), out, split, processes=processes))
    return out


def expected(classes: tuple[str, ...], images: int) -> list[tuple[str, int]]:
    """Return the class, as packed, and the colour of each image."""
    width = max(map(len, classes)) if classes[0].isdigit() else 0
    return sorted((name.zfill(width), colour) for colour, name in enumerate(classes) for _ in range(images))


TRAIN_FIRST, VAL_FIRST = ORDERS


@pytest.mark.parametrize(
    ("layout", "order", "processes"),
    [
        *((layout, order, 1) for layout in ("list", "webdataset") for order in ORDERS),
        ("list", TRAIN_FIRST, 2),
        ("webdataset", VAL_FIRST, 2),
        *(
            pytest.param(layout, order, processes, marks=pytest.mark.slow)  # each process takes 2 s to start
            for layout in ("list", "webdataset")
            for order in ORDERS
            for processes in (2, 5)
        ),
    ],
)
def test_labels_are_those_of_the_source(
    tmp_path: Path, layout: str, processes: int, order: tuple[SplitName, ...]
) -> None:
    root = WRITERS[layout](tmp_path / "source", colour_images(NUMBERS, train=2, val=1))
    out = pack_splits(root, layout, tmp_path / "out", order, processes)
    assert packed_colours(out, "train") == expected(NUMBERS, 2)
    assert packed_colours(out, "val") == expected(NUMBERS, 1)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("classes", [SPARSE, NAMES], ids=["sparse numbers", "names"])
@pytest.mark.parametrize("layout", list(WRITERS))
def test_labels_of_any_names_are_those_of_the_source(
    tmp_path: Path, layout: str, classes: tuple[str, ...], order: tuple[SplitName, ...]
) -> None:
    root = WRITERS[layout](tmp_path / "source", colour_images(classes, train=2, val=1))
    out = pack_splits(root, layout, tmp_path / "out", order)
    assert packed_colours(out, "train") == expected(classes, 2)
    assert packed_colours(out, "val") == expected(classes, 1)


@pytest.fixture(scope="module")
def numeric_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the shards and indices of numeric class folders."""
    root = tmp_path_factory.mktemp("folders")
    class_folders(root / "source", colour_images(NUMBERS))
    out = pack_splits(root / "source", "folder", root / "out", ("train", "val"))
    assert packed_colours(out, "train") == expected(NUMBERS, 3)
    return {name: content for name, content in contents(out).items() if not name.endswith(".json")}


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("layout", ["folder", "list", "webdataset"])
def test_numeric_classes_give_the_bytes_of_numeric_folders(
    numeric_folders: dict[str, bytes], tmp_path: Path, layout: str, order: tuple[SplitName, ...]
) -> None:
    write = {**WRITERS, "folder": class_folders}[layout]
    root = write(tmp_path / "source", colour_images(NUMBERS))
    out = pack_splits(root, layout, tmp_path / "out", order)
    packed = {name: content for name, content in contents(out).items() if not name.endswith(".json")}
    assert packed.keys() == numeric_folders.keys()
    assert [name for name, content in packed.items() if content != numeric_folders[name]] == []


def test_a_split_of_indices_beside_a_split_of_names_keeps_its_classes(tmp_path: Path) -> None:
    """Train has the names of the classes, and the labels of val are their indices in alphabetical order."""
    train = class_folders(tmp_path / "train source", Images(colour_images(NAMES).train, {}))
    renamed = {str(sorted(NAMES).index(name)): files for name, files in colour_images(NAMES).val.items()}
    val = named_shards(tmp_path / "val source", Images({}, renamed))
    for name in ("train-0000.tar", "train-0001.tar", "train-0002.tar"):
        (val / name).unlink()
    pack(request(train / "train", tmp_path / "out"))
    pack(request(val, tmp_path / "out", "val"))
    assert packed_colours(tmp_path / "out", "val") == expected(NAMES, 2)
