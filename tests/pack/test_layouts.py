"""All layouts of one set of images give the same shards, and each is detected from its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.evaluate import main as evaluate
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.layouts import detect_layout, list_split
from support.folders import contents, image_source, request
from support.layouts import CLASSES, DESCRIPTIONS, WRITERS, Images, draw_images, source_path
from support.runs import SIZE, write_run

LAYOUTS = tuple(WRITERS)
WITH_DESCRIPTIONS = ("ilsvrc2012", "ilsvrc2010", "kaggle")


@pytest.fixture(scope="module")
def images() -> Images:
    return draw_images()


@pytest.fixture(scope="module")
def sets(images: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the set in every layout."""
    root = tmp_path_factory.mktemp("sets")
    return {layout: write(root / layout, images) for layout, write in WRITERS.items()}


def pack_both(root: Path, layout: str, out: Path, processes: int = 1) -> Path:
    for split in ("train", "val"):
        pack(request(source_path(root, layout, split), out, split, processes=processes if split == "train" else 1))
    return out


@pytest.fixture(scope="module")
def reference(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_both(sets["folder"], "folder", tmp_path_factory.mktemp("reference"))


def manifest(out: Path, split: str) -> dict[str, Any]:
    """Return a manifest without what depends on the layout: words of classes, and the source and its other files."""
    content: dict[str, Any] = json.loads((out / f"{split}.manifest.json").read_text())
    content["classes"] = [described["name"] for described in content["classes"]]
    content.pop("source")
    content.pop("ignored", None)
    return content


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised(sets: dict[str, Path], layout: str) -> None:
    assert detect_layout(source_path(sets[layout], layout, "train")) == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_shards(
    sets: dict[str, Path], reference: Path, tmp_path: Path, layout: str
) -> None:
    out = pack_both(sets[layout], layout, tmp_path / "out", processes=2 if layout == "parquet" else 1)
    expected, packed = contents(reference), contents(out)
    assert packed.keys() == expected.keys()
    for name, content in expected.items():
        assert name.endswith(".json") or packed[name] == content, name
    for split in ("train", "val"):
        actual, expected_manifest = manifest(out, split), manifest(reference, split)
        assert actual["rejected"] == expected_manifest["rejected"]
        assert actual == expected_manifest


def test_the_reference_has_the_quirks_in_it(reference: Path) -> None:
    content = manifest(reference, "train")
    assert content["images"] == 5 * 5 + 7
    assert [(rejected["file"], rejected["reason"]) for rejected in content["rejected"]] == [
        ("n07583066/n07583066_90000.JPEG", "damaged or truncated JPEG"),
        ("n07583066/n07583066_90001.JPEG", "empty file"),
        ("n13037406/n13037406_90000.JPEG", "not a JPEG or PNG"),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_indices_of_the_sorted_wordnet_ids(sets: dict[str, Path], layout: str, images: Images) -> None:
    """Check the labels of validation images by name: the development kit's own numbers must not be used as labels."""
    expected = {stem[-3:]: CLASSES.index(name) for name, of_class in images.val.items() for stem, _ in of_class}
    if layout in ("huggingface-tar", "parquet"):
        return  # streams are listed only when they are read; test_every_layout_gives_the_same_shards covers them
    source = image_source(source_path(sets[layout], layout, "val"), train_classes=CLASSES)
    assert {file.stem.rsplit("_n", 1)[0][-3:]: file.label for file in source.files} == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_are_kept_where_the_source_has_them(sets: dict[str, Path], tmp_path: Path, layout: str) -> None:
    pack(request(source_path(sets[layout], layout, "train"), tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "train.manifest.json").read_text())
    expected = DESCRIPTIONS if layout in WITH_DESCRIPTIONS else dict.fromkeys(CLASSES)
    assert {described["name"]: described["words"] for described in content["classes"]} == expected


def test_val_of_ilsvrc_may_be_packed_first(sets: dict[str, Path], reference: Path, tmp_path: Path) -> None:
    pack(request(sets["ilsvrc2012"], tmp_path, "val"))
    assert np.array_equal(np.load(tmp_path / "val.index.npy"), np.load(reference / "val.index.npy"))
    pack(request(sets["ilsvrc2012"], tmp_path, "train"))
    assert (tmp_path / "train.mean.npy").read_bytes() == (reference / "train.mean.npy").read_bytes()


def test_2010_has_a_test_split_with_labels(sets: dict[str, Path], tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        packed = pack(request(sets["ilsvrc2010"], tmp_path, split)).manifest
        assert packed.split == split
    test, val = (np.load(tmp_path / f"{split}.index.npy") for split in ("test", "val"))
    assert np.bincount(test["label"]).tolist() == np.bincount(val["label"]).tolist() == [2] * 5


def test_a_run_is_evaluated_on_the_test_split_of_2010(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = write_run(tmp_path / "home", (3,), f"model.classes={len(CLASSES)}")
    for split in ("train", "test"):
        pack(request(sets["ilsvrc2010"], tmp_path / "out", split, size=SIZE))
    shutil.copy(tmp_path / "out" / "train.manifest.json", directory)
    capsys.readouterr()
    evaluate([str(directory), "--data", str(tmp_path / "out"), "--split", "test", "--views", "10", "--device", "cpu"])
    said = capsys.readouterr().out
    assert said.startswith(f"{directory} (step 3): top-1 error ")
    assert said.endswith(" on 10 images of test, 10 views an image\n")


def test_our_own_shards_may_be_packed_again(reference: Path, tmp_path: Path) -> None:
    """Pack them at another size; classes and their words come from the manifest."""
    smaller = pack(request(reference, tmp_path / "out", size=12)).manifest
    assert [described.name for described in smaller.classes] == list(CLASSES)
    assert smaller.images == manifest(reference, "train")["images"]
    labels, size = np.load(tmp_path / "out" / "train.index.npy")["label"], smaller.size
    assert np.bincount(labels).tolist() == np.bincount(np.load(reference / "train.index.npy")["label"]).tolist()
    assert size == 12


@pytest.mark.parametrize("layout", ["parquet", "huggingface-tar"])
def test_a_stream_is_known_again(sets: dict[str, Path], tmp_path: Path, layout: str) -> None:
    """It is recognized without being read again: only the names and sizes of its containers remain."""
    copy = tmp_path / "copy"
    shutil.copytree(sets[layout], copy)
    pack(request(copy, tmp_path / "out"))
    for path in (copy / "data").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert pack(request(copy, tmp_path / "out")).new_images == 0
    next((copy / "data").glob("train*")).write_bytes(b"other")
    with pytest.raises(UserError, match="already packed with other settings: source"):
        pack(request(copy, tmp_path / "out"))


def check_split(root: Path, layout: str, split: SplitName, train_classes: tuple[str, ...] | None = None) -> None:
    list_split(source_path(root, layout, split), "auto", split, None, 0, train_classes)


@pytest.mark.parametrize(
    ("layout", "split", "missing", "message"),
    [
        ("ilsvrc2012", "val", "ILSVRC2012_devkit_t12.tar.gz", r"no ILSVRC2012_devkit\*\.tar\.gz beside"),
        ("ilsvrc2012", "train", "ILSVRC2012_img_train.tar", r"ILSVRC2012_img_train\.tar: no such file"),
        ("ilsvrc2012", "test", "", "has no labels for its test images"),
        ("ilsvrc2010", "test", "ILSVRC2010_test_ground_truth.txt", "test_ground_truth.txt: No such file"),
        ("kaggle", "val", "LOC_val_solution.csv", r"LOC_val_solution\.csv: cannot be read"),
        ("kaggle", "train", "LOC_synset_mapping.txt", r"LOC_synset_mapping\.txt: cannot be read"),
        ("kaggle", "test", "", "no labels for its test images"),
        ("parquet", "val", "data/validation-00000-of-00001.parquet", r"holds no val\*\.parquet for split val"),
        ("webdataset", "val", "imagenet-validation-0000.tar", "none of its 3 tars is named for split val"),
    ],
)
def test_what_is_missing_is_named(
    images: Images, tmp_path: Path, layout: str, split: SplitName, missing: str, message: str
) -> None:
    root = WRITERS[layout](tmp_path / "set", images)
    if missing:
        (root / missing).unlink()
    with pytest.raises(UserError, match=message):
        check_split(root, layout, split)


def test_a_kit_of_another_set_is_refused(images: Images, tmp_path: Path) -> None:
    root = WRITERS["ilsvrc2012"](tmp_path / "set", images)
    with pytest.raises(UserError, match="is of n13037406, which is not among the train split's classes"):
        check_split(root, "ilsvrc2012", "val", CLASSES[:4])
    with pytest.raises(UserError, match="not the classes of the packed train split: 1 more, such as n13037406"):
        check_split(root, "ilsvrc2012", "train", CLASSES[:4])


def test_what_could_be_two_layouts_is_asked_for(tmp_path: Path, images: Images) -> None:
    root = WRITERS["webdataset"](tmp_path / "set", images)
    (root / "cats").mkdir()
    with pytest.raises(UserError, match=r"has shards \(\*\.tar\) and the folder cats/; choose one"):
        detect_layout(root)
    assert image_source(root, "train", layout="webdataset").id.files == 35


def test_shards_are_not_packed_over_themselves(sets: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="is the images' own folder"):
        pack(request(sets["webdataset"], sets["webdataset"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_photographs_give_the_same_shards_everywhere(
    photographs: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pack every layout with 1, 2 and 5 processes, at the image size of ImageNet."""
    images, root = draw_images(train=190, val=10, photographs=photographs), tmp_path_factory.mktemp("photographs")
    expected: dict[str, bytes] = {}
    for number, (layout, write) in enumerate(WRITERS.items()):
        write(root / layout, images)
        for processes in (1, 2, 5) if layout == "folder" else ((1, 2, 5)[number % 3],):
            out = root / f"{layout}-{processes}"
            for split in ("train", "val"):
                source = source_path(root / layout, layout, split)
                packed = pack(request(source, out, split, processes=processes, size=256, samples_per_shard=100))
                print(f"{layout}, {processes} processes: {packed.manifest.images} images of {split}")
            shards = {name: content for name, content in contents(out).items() if not name.endswith(".json")}
            expected = expected or shards
            different = [name for name in expected | shards if shards.get(name) != expected.get(name)]
            assert not different, (layout, processes)
            shutil.rmtree(out)
        shutil.rmtree(root / layout)
