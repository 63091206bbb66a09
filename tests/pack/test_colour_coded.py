"""Twelve classes distinguished by colour alone, from six layouts: each trains to no error and evaluates to none.

A label that is shifted or mixed up anywhere between the source and the net shows as an error here.
"""

from __future__ import annotations

import colorsys
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from support.folders import encoded
from support.layouts import tar_of

CLASSES = 12
SIDE = 40
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = Path(__file__).parents[1] / "support" / "tiny.yaml"
Write = Callable[[Path], dict[str, Path]]


def image(label: int, seed: int) -> bytes:
    """Return a JPEG of the class's colour with a little noise."""
    colour = np.array(colorsys.hsv_to_rgb(label / CLASSES, 0.9, 0.5 + 0.4 * (label % 2)))
    noise = np.random.default_rng([label, seed]).integers(-9, 10, (SIDE, SIDE, 3))
    return encoded(np.clip(255 * colour + noise, 0, 255).astype(np.uint8))


def images(split: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (label, number, JPEG) of a split."""
    first, count = (0, 14) if split == "train" else (1000, 4)
    for label in range(CLASSES):
        for number in range(first, first + count):
            yield label, number, image(label, number)


def wordnet_id(label: int) -> str:
    return f"n{10_000_000 + 7919 * label:08d}"


def folders(name: Callable[[int], str]) -> Write:
    def write(root: Path) -> dict[str, Path]:
        for split in ("train", "val"):
            for label, number, jpeg in images(split):
                path = root / split / name(label) / f"{number:05d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg)
        return dict.fromkeys(("train", "val"), root)

    return write


def lists(root: Path) -> dict[str, Path]:
    folders(lambda label: f"c{label}")(root)
    for split in ("train", "val"):
        rows = [f"{split}/c{label}/{number:05d}.JPEG\t{label + 1}\n" for label, number, _ in images(split)]
        (root / f"{split}.txt").write_text("".join(rows))
    return {split: root / f"{split}.txt" for split in ("train", "val")}


def shards(root: Path) -> dict[str, Path]:
    root.mkdir()
    for split in ("train", "val"):
        members: list[tuple[str, bytes]] = []
        for label, number, jpeg in images(split):
            key = f"{label}-{number:05d}"
            members += [(f"{key}.cls", str(label + 1).encode()), (f"{key}.jpg", jpeg)]
        (root / f"{split}-000000.tar").write_bytes(tar_of(members))
    return dict.fromkeys(("train", "val"), root)


def parquet_files(root: Path) -> dict[str, Path]:
    root.mkdir()
    for split in ("train", "validation"):
        rows = list(images("train" if split == "train" else "val"))
        table = pyarrow.table({
            "image": [{"bytes": jpeg, "path": f"{number:05d}-{label}.jpg"} for label, number, jpeg in rows],
            "label": [label for label, _, _ in rows],
        })  # fmt: skip
        parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return dict.fromkeys(("train", "val"), root)


def kaggle(root: Path) -> dict[str, Path]:
    data, answers = root / "ILSVRC" / "Data" / "CLS-LOC", ["ImageId,PredictionString"]
    for split in ("train", "val"):
        for label, number, jpeg in images(split):
            name = f"{split}_{label}_{number}"
            path = data / split / (wordnet_id(label) if split == "train" else "") / f"{name}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
            answers += [f"{name},{wordnet_id(label)} 1 2 3 4"] if split == "val" else []
    (root / "LOC_val_solution.csv").write_text("\n".join(answers) + "\n")
    words = "".join(f"{wordnet_id(label)} colour {label}\n" for label in range(CLASSES))
    (root / "LOC_synset_mapping.txt").write_text(words)
    return dict.fromkeys(("train", "val"), root)


LAYOUTS: Mapping[str, Write] = {
    "folders": folders(wordnet_id),
    "numeric folders": folders(lambda label: str(label + 1)),
    "a list from 1 on": lists,
    "shards from 1 on": shards,
    "parquet": parquet_files,
    "kaggle": kaggle,
}


def run(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_colours_are_learned_without_an_error(layout: str, tmp_path: Path) -> None:
    sources = LAYOUTS[layout](tmp_path / "source")
    out, directory = tmp_path / "shards", tmp_path / "run"
    for split in ("train", "val"):
        packed = run("alexnet_dist.pack", sources[split], out, "--split", split, "--size", "32", "--processes", "2")
        assert json.loads(packed.splitlines()[-1])["rejected"] == 0
    run(
        "alexnet_dist.train", "--config", TINY, f"data.root={out}", f"run.directory={directory}", "model.classes=12",
        "model.norm.alpha=0.0001", "model.layers.fc6.dropout=0", "model.layers.fc7.dropout=0", "data.global_batch=14",
        "data.colour_noise=0", "data.workers=0", "optim.learning_rate=0.005", "optim.schedule=epochs",
        "optim.drop_epochs=[14]", "run.steps=240", "run.evaluate_every=20", "run.save_every=1000", "metrics.port=null",
    )  # fmt: skip
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    result = json.loads(run("alexnet_dist.evaluate", directory, "--json"))
    assert (last["top1_error"], result["top1_error"], result["images"]) == (0.0, 0.0, 48)
