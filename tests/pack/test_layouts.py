"""All layouts of one set of images give the same shards, and each is recognised by what lies in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_dist.data.manifest import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.run import pack
from alexnet_dist.pack.sources.layouts import find, recognise
from support.arranged import ARRANGE, CLASSES, WORDS, Images, draw, place_of
from support.folders import contents, request

LAYOUTS = tuple(ARRANGE)
WITH_WORDS = ("ilsvrc2012", "ilsvrc2010", "kaggle")


@pytest.fixture(scope="module")
def images() -> Images:
    return draw()


@pytest.fixture(scope="module")
def sets(images: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the set in every layout."""
    root = tmp_path_factory.mktemp("sets")
    return {layout: arrange(root / layout, images) for layout, arrange in ARRANGE.items()}


def pack_both(root: Path, layout: str, out: Path, processes: int = 1) -> Path:
    for split in ("train", "val"):
        pack(request(place_of(root, layout, split), out, split, processes=processes if split == "train" else 1))
    return out


@pytest.fixture(scope="module")
def reference(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_both(sets["folder"], "folder", tmp_path_factory.mktemp("reference"))


def manifest(out: Path, split: str) -> dict[str, Any]:
    """Return a manifest without what tells of the layout: words, and how the source was identified."""
    content: dict[str, Any] = json.loads((out / f"{split}.manifest.json").read_text())
    content["classes"] = [kind["name"] for kind in content["classes"]]
    content.pop("source")
    return content


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised(sets: dict[str, Path], layout: str) -> None:
    assert recognise(place_of(sets[layout], layout, "train")) == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_shards(
    sets: dict[str, Path], reference: Path, tmp_path: Path, layout: str
) -> None:
    out = pack_both(sets[layout], layout, tmp_path / "out", processes=2 if layout == "parquet" else 1)
    expected, found = contents(reference), contents(out)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert name.endswith(".json") or found[name] == content, name
    for split in ("train", "val"):
        here, there = manifest(out, split), manifest(reference, split)
        assert here["rejected"] == there["rejected"]
        assert here == there


def test_the_reference_has_the_quirks_in_it(reference: Path) -> None:
    content = manifest(reference, "train")
    assert content["images"] == 5 * 5 + 7
    assert [(one["file"], one["reason"]) for one in content["rejected"]] == [
        ("n07583066/n07583066_90000.JPEG", "damaged or truncated JPEG"),
        ("n07583066/n07583066_90001.JPEG", "empty file"),
        ("n13037406/n13037406_90000.JPEG", "not a JPEG or PNG"),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_places_among_the_sorted_wordnet_ids(sets: dict[str, Path], layout: str, images: Images) -> None:
    """Validation images of every layout, by their names: the development kit's own order must not come through."""
    expected = {stem[-3:]: CLASSES.index(name) for name, several in images.val.items() for stem, _ in several}
    if layout in ("huggingface-tar", "parquet"):
        return  # listed only when they are read; the shards above are the same
    source = find(place_of(sets[layout], layout, "val"), "auto", "val", None, 0, CLASSES)
    found = {file.stem.rsplit("_n", 1)[0][-3:]: file.label for file in source.files}  # type: ignore[union-attr]
    assert found == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_are_kept_where_the_source_has_them(sets: dict[str, Path], tmp_path: Path, layout: str) -> None:
    pack(request(place_of(sets[layout], layout, "train"), tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "train.manifest.json").read_text())
    expected = WORDS if layout in WITH_WORDS else dict.fromkeys(CLASSES)
    assert {kind["name"]: kind["words"] for kind in content["classes"]} == expected


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


def test_our_own_shards_may_be_packed_again(reference: Path, tmp_path: Path) -> None:
    """To another size, for one; classes and words come from the manifest."""
    smaller = pack(request(reference, tmp_path / "out", size=12)).manifest
    assert [kind.name for kind in smaller.classes] == list(CLASSES)
    assert smaller.images == manifest(reference, "train")["images"]
    labels, size = np.load(tmp_path / "out" / "train.index.npy")["label"], smaller.size
    assert np.bincount(labels).tolist() == np.bincount(np.load(reference / "train.index.npy")["label"]).tolist()
    assert size == 12


@pytest.mark.parametrize("layout", ["parquet", "huggingface-tar"])
def test_a_stream_is_known_again(sets: dict[str, Path], tmp_path: Path, layout: str) -> None:
    """Without being read again: its containers are gone but for their names and sizes."""
    copy = tmp_path / "copy"
    shutil.copytree(sets[layout], copy)
    pack(request(copy, tmp_path / "out"))
    for path in (copy / "data").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert pack(request(copy, tmp_path / "out")).new_images == 0
    next((copy / "data").glob("train*")).write_bytes(b"other")
    with pytest.raises(UserError, match="packed already, with other source"):
        pack(request(copy, tmp_path / "out"))


def split_of(root: Path, layout: str, split: SplitName, train: tuple[str, ...] | None = None) -> None:
    find(place_of(root, layout, split), "auto", split, None, 0, train)


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
    root = ARRANGE[layout](tmp_path / "set", images)
    if missing:
        (root / missing).unlink()
    with pytest.raises(UserError, match=message):
        split_of(root, layout, split)


def test_a_kit_of_another_set_is_refused(images: Images, tmp_path: Path) -> None:
    root = ARRANGE["ilsvrc2012"](tmp_path / "set", images)
    with pytest.raises(UserError, match="is of n13037406, which is not among the train split's classes"):
        split_of(root, "ilsvrc2012", "val", CLASSES[:4])
    with pytest.raises(UserError, match="not the classes of the packed train split: 1 more, such as n13037406"):
        split_of(root, "ilsvrc2012", "train", CLASSES[:4])


def test_what_could_be_two_layouts_is_asked_for(tmp_path: Path, images: Images) -> None:
    root = ARRANGE["webdataset"](tmp_path / "set", images)
    (root / "cats").mkdir()
    with pytest.raises(UserError, match=r"has shards \(\*\.tar\) and the folder cats/; say which"):
        recognise(root)
    assert find(root, "webdataset", "train", None, 0, None).id.files == 35


def test_shards_are_not_packed_over_themselves(sets: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="is the images' own folder"):
        pack(request(sets["webdataset"], sets["webdataset"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_photographs_give_the_same_shards_everywhere(
    photographs: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From every layout, by 1, 2 and 5 processes, at the size of ImageNet's."""
    images, root = draw(train=190, val=10, photographs=photographs), tmp_path_factory.mktemp("photographs")
    expected: dict[str, bytes] = {}
    for number, (layout, arrange) in enumerate(ARRANGE.items()):
        arrange(root / layout, images)
        for processes in (1, 2, 5) if layout == "folder" else ((1, 2, 5)[number % 3],):
            out = root / f"{layout}-{processes}"
            for split in ("train", "val"):
                source = place_of(root / layout, layout, split)
                packed = pack(request(source, out, split, processes=processes, size=256, samples_per_shard=100))
                print(f"{layout}, {processes} processes: {packed.manifest.images} images of {split}")
            found = {name: content for name, content in contents(out).items() if not name.endswith(".json")}
            expected = expected or found
            different = [name for name in expected | found if found.get(name) != expected.get(name)]
            assert not different, (layout, processes)
            shutil.rmtree(out)
        shutil.rmtree(root / layout)
