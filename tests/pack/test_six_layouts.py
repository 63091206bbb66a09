"""A set of twelve colours gives the same shards, with the right labels, from six layouts with names or numbers.

`test_colour_coded` trains a net on each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow
from pyarrow import parquet

from alexnet_dist.data.choices import SplitName
from alexnet_dist.pack.packing import pack
from support.colours import colour_images, packed_colours
from support.folders import contents, request
from support.layouts import Images, class_folders, flat, image_lists, kaggle, named_shards, source_path

IDS = tuple(f"n{number:08d}" for number in range(1, 13))
NUMBERS = tuple(str(number) for number in range(1, 13))
ORDERS: tuple[tuple[SplitName, SplitName], ...] = (("train", "val"), ("val", "train"))


def kaggle_tree(root: Path, images: Images) -> Path:
    kaggle(root, images)
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{name} a colour\n" for name in IDS))
    return root


def parquet_table(root: Path, images: Images) -> Path:
    """Write the classes' names in the metadata, in another order than that of the text."""
    names = IDS[::-1]
    root.mkdir()
    for split, files in (("train", images.train), ("val", images.val)):
        table = pyarrow.table(
            {
                "image": [{"bytes": data, "path": f"{stem}.JPEG"} for _, stem, data in flat(files)],
                "label": [names.index(name) for name, _, _ in flat(files)],
            }
        )
        features = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return root


LAYOUTS: Mapping[str, tuple[tuple[str, ...], Callable[[Path, Images], Path]]] = {
    "folder": (IDS, class_folders),
    "numeric folder": (NUMBERS, class_folders),
    "list": (NUMBERS, image_lists),
    "webdataset": (NUMBERS, named_shards),
    "parquet": (IDS, parquet_table),
    "kaggle": (IDS, kaggle_tree),
}


def test_twelve_colours_give_the_same_shards_from_every_layout(tmp_path: Path) -> None:
    packed: dict[str, dict[str, bytes]] = {}
    for number, (layout, (classes, write)) in enumerate(LAYOUTS.items()):
        root = write(tmp_path / f"{layout} source", colour_images(classes))
        for split in ORDERS[number % 2]:
            pack(request(source_path(root, layout, split), tmp_path / layout, split))
        labels = [name.zfill(2) if classes is NUMBERS else name for name in classes]
        assert packed_colours(tmp_path / layout, "val") == [(name, c) for c, name in enumerate(labels) for _ in "ab"]
        assert packed_colours(tmp_path / layout, "train") == [(name, c) for c, name in enumerate(labels) for _ in "abc"]
        files = contents(tmp_path / layout)
        packed[layout] = {name: content for name, content in files.items() if not name.endswith(".json")}
    assert [layout for layout, files in packed.items() if files != packed["folder"]] == []
