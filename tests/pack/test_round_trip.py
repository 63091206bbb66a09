"""The label of every packed image is the class that it has in the source, as seen from the image's colour.

`test_label_round_trip` does the same for lists and shards.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.pack.packing import pack
from support.colours import colour_images, packed_colours
from support.folders import contents, request
from support.layouts import CLASSES, WRITERS, Images

LAYOUTS = ("folder", "kaggle", "ilsvrc2012", "parquet", "huggingface-tar")
ORDERS: tuple[tuple[SplitName, SplitName], ...] = (("train", "val"), ("val", "train"))
TRAIN_FIRST, VAL_FIRST = ORDERS
TRAIN, VAL = 3, 2


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return images of one colour for each class in every layout; the numbers of val are not in the order of labels."""
    drawn, root = colour_images(CLASSES, TRAIN, VAL), tmp_path_factory.mktemp("sets")
    order = iter((7, 2, 10, 5, 1, 9, 3, 8, 6, 4))
    val = {
        name: [(f"ILSVRC2012_val_{next(order):08d}", data) for _, data in of_class]
        for name, of_class in drawn.val.items()
    }
    return {layout: WRITERS[layout](root / layout, Images(drawn.train, val)) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def expected(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the shards of the class folders, whose labels are checked."""
    return pack_splits(sets["folder"], tmp_path_factory.mktemp("expected"), TRAIN_FIRST, 1)


def pack_splits(root: Path, out: Path, order: tuple[SplitName, ...], processes: int) -> dict[str, bytes]:
    """Pack both splits, check the labels of all images by their colour, and return the shards."""
    for split in order:
        pack(request(root, out, split, processes=processes))
    for split, images in (("train", TRAIN), ("val", VAL)):
        assert packed_colours(out, split) == [
            (name, label) for label, name in enumerate(CLASSES) for _ in range(images)
        ]
    return {name: content for name, content in contents(out).items() if not name.endswith(".json")}


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_those_of_the_source_in_both_orders_of_splits(
    sets: dict[str, Path], expected: dict[str, bytes], tmp_path: Path, layout: str, order: tuple[SplitName, ...]
) -> None:
    assert pack_splits(sets[layout], tmp_path / "out", order, 1) == expected


@pytest.mark.parametrize(
    ("layout", "order", "processes"),
    [
        # test_layouts packs parquet files with two.
        ("kaggle", VAL_FIRST, 2),
        *(
            pytest.param(layout, order, processes, marks=pytest.mark.slow)
            for layout in LAYOUTS
            for order in ORDERS
            for processes in (2, 5)
        ),
    ],
)
def test_labels_are_those_of_the_source_with_any_number_of_processes(
    sets: dict[str, Path],
    expected: dict[str, bytes],
    tmp_path: Path,
    layout: str,
    order: tuple[SplitName, ...],
    processes: int,
) -> None:
    assert pack_splits(sets[layout], tmp_path / "out", order, processes) == expected
