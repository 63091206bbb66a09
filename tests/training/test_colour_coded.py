"""A set of twelve colours, packed from six layouts, is learned without an error: no label is shifted in any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from alexnet_dist.data.choices import SplitName
from alexnet_dist.evaluate import main as evaluate
from alexnet_dist.pack.packing import pack
from support.colours import colour_images, packed_colours
from support.folders import contents, request
from support.layouts import Images, class_folders, flat, image_lists, kaggle, named_shards, source_path
from support.training import train_here

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


def test_a_colour_coded_set_of_every_layout_is_learned_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed: dict[str, dict[str, bytes]] = {}
    for number, (layout, (classes, write)) in enumerate(LAYOUTS.items()):
        root = write(tmp_path / f"{layout} source", colour_images(classes, train=24, val=2))
        for split in ORDERS[number % 2]:
            pack(request(source_path(root, layout, split), tmp_path / layout, split, size=32, samples_per_shard=50))
        labels = [name.zfill(2) if classes is NUMBERS else name for name in classes]
        assert packed_colours(tmp_path / layout, "val") == [(name, c) for c, name in enumerate(labels) for _ in "ab"]
        files = contents(tmp_path / layout)
        packed[layout] = {name: content for name, content in files.items() if not name.endswith(".json")}
    # One set of shards, so one training is that of each.
    assert [layout for layout, files in packed.items() if files != packed["folder"]] == []
    changes = "model.classes=12 data.global_batch=24 data.workers=0 data.colour_noise=0 optim.learning_rate=0.004"
    changes += " model.layers.fc6.dropout=0 model.layers.fc7.dropout=0 optim.patience=1000 metrics.port=null"
    run = [
        f"data.root={tmp_path / 'parquet'}",
        f"run.directory={tmp_path / 'run'}",
        "run.steps=168",
        "run.log_every=50",
    ]
    train_here([Path(__file__).parents[1] / "support" / "tiny.yaml"], [*run, *changes.split()])
    last = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["top1_error"] == 0
    capsys.readouterr()
    evaluate([str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1_error"] == 0
