"""A source that says itself that it is incomplete: refused by what it names, unless --allow-missing; gaps are noted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.pack.__main__ import main
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.completeness import check_parts
from alexnet_dist.pack.sources.layouts import list_split
from alexnet_dist.pack.sources.options import ReadOptions
from support.folders import SIZE, image_source, request
from support.layouts import CLASSES, WRITERS, draw_images, tar_of

ALLOW = ReadOptions(allow_missing=True)


def refusal(root: Path, split: SplitName = "train") -> str:
    with pytest.raises(UserError) as caught:
        list_split(root, "auto", split, None, 0, None)
    return str(caught.value)


def missing(root: Path, split: SplitName = "train") -> tuple[str, ...]:
    return list_split(root, "auto", split, None, 0, None, ALLOW).missing


def notes(root: Path, split: SplitName = "train") -> tuple[str, ...]:
    return list_split(root, "auto", split, None, 0, None).notes


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_a_parquet_file_that_the_names_of_others_count_is_binding(tmp_path: Path) -> None:
    root = touch(tmp_path, "data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet")
    message = refusal(root)
    assert "data: lacks 1 of the 3 files of train-*-of-3: train-00001-of-00003.parquet" in message
    assert "--allow-missing" in message
    assert missing(root) == ("data: 1 of the 3 files of train-*-of-3: train-00001-of-00003.parquet",)
    touch(root, "data/train-00001-of-00003.parquet")
    assert missing(root) == ()
    assert notes(root) == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002-0123456789abcdef.parquet"], r"of train-\*-of-2: train-00001-of-00002-\*\.parquet"),
        (["a-1-of-3.tar", "a-3-of-3.tar"], r"lacks 1 of the 3 .*: a-2-of-3\.tar"),
        (["a-0-of-3.tar"], r"lacks 2 of the 3 .*: a-1-of-3\.tar, a-2-of-3\.tar"),
        (["a-0-of-2.tar", "a-1-of-2.tar", "b-1-of-2.tar"], r"lacks 1 of the 2 files of b-\*-of-2: b-0-of-2\.tar"),
        (["a-0-of-1.tar", "a-0-of-2.tar"], "parts of two versions of one set"),
        (["a-0-of-2-0123456789.tar", "a-0-of-2-9876543210.tar"], "are one part: remove one"),
        (["a-0-of-2.tar", "a-1-of-2.tar", "a-2-of-2.tar"], "cannot be one of 2 parts numbered from 1"),
        (["a-0-of-1.tar", "a.tar"], r"a\.tar lies beside a-0-of-1\.tar, which is a part"),
        (["a-0-of-99999999.tar"], "lacks 99999998 of the 99999999 files"),
    ],
)
def test_names_of_parts_that_do_not_make_a_whole(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_parts(tmp_path, names, allow_missing=False)


@pytest.mark.parametrize(
    "names",
    [
        ["a-1-of-2.tar", "a-2-of-2.tar"],
        ["train-00000-of-00002-0123456789.parquet", "train-00001-of-00002-9876543210.parquet"],
        ["a-0.tar", "a-1.tar", "b-1.tar", "b-2.tar", "c.tar", "train-2012.tar", "a-of-b.tar"],
    ],
)
def test_names_of_whole_sets(tmp_path: Path, names: list[str]) -> None:
    assert check_parts(tmp_path, names, allow_missing=False) == ((), ())


def test_several_sets_of_parts_are_noted(tmp_path: Path) -> None:
    names = ["train-00-of-02.parquet", "train-01-of-02.parquet", "train_small-0-of-1.parquet"]
    (note,) = check_parts(tmp_path, names, allow_missing=False).notes
    assert "2 sets of files are all packed: train-*-of-2, train_small-*-of-1" in note


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-0.tar", "a-3.tar"], "a-*.tar have gaps, such as 1 (2 up to 3)"),
        (["a-7.tar"], "a-*.tar have gaps, such as 1 (6 up to 7)"),
        (["a-0.tar", "a-20250101.tar"], "such as 1 (20250100 up to 20250101)"),
    ],
)
def test_gaps_in_numbers_are_a_note(tmp_path: Path, names: list[str], message: str) -> None:
    (note,) = check_parts(tmp_path, names, allow_missing=False).notes
    assert message in note


def test_gaps_between_archives_of_hugging_face_and_between_shards_are_noted(tmp_path: Path) -> None:
    root = touch(tmp_path / "tars", "data/train_images_0.tar.gz", "data/train_images_3.tar.gz")
    assert "train_images_*.tar.gz have gaps, such as 1 (2 up to 3)" in notes(root)[0]
    (tmp_path / "shards").mkdir()
    for number in (0, 4):
        shard = tar_of([(f"{number}.cls", b"a"), (f"{number}.jpg", b"x")])
        (tmp_path / "shards" / f"train-{number:04d}.tar").write_bytes(shard)
    assert "train-*.tar have gaps, such as 1 (3 up to 4)" in notes(tmp_path / "shards")[0]


def test_a_packed_set_that_lacks_a_shard_of_its_manifest_is_refused(tmp_path: Path) -> None:
    source = WRITERS["folder"](tmp_path / "source", draw_images())
    shards = tmp_path / "shards"
    pack(request(source, shards))
    (shards / "train-000002.tar").unlink()
    message = refusal(shards)
    assert "lacks 1 of the 7 shards of train.manifest.json: train-000002.tar" in message
    manifest = pack(request(shards, tmp_path / "out", reading=ALLOW)).manifest
    assert manifest.missing == ("shards: 1 of the 7 shards of train.manifest.json: train-000002.tar",)


def without_image_of_val(root: Path) -> str:
    next((root / "ILSVRC" / "Data" / "CLS-LOC" / "val").glob("*0003.JPEG")).unlink()
    return "val: lacks 1 of the 10 images that LOC_val_solution.csv names: ILSVRC2012_val_00000003"


def without_class_of_kaggle(root: Path) -> str:
    folder = root / "ILSVRC" / "Data" / "CLS-LOC" / "train" / CLASSES[2]
    folder.rename(root / "elsewhere")
    return f"train: lacks 1 of the 5 classes that LOC_synset_mapping.txt names: {CLASSES[2]}"


def rewrite(path: Path, keep: Callable[[str], bool]) -> None:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar]
        contents = [(name, file.read()) for name, file in members if file is not None and keep(name)]
    path.write_bytes(tar_of(contents))


def without_class_tar(root: Path) -> str:
    rewrite(root / "ILSVRC2012_img_train.tar", lambda name: not name.startswith(CLASSES[2]))
    return f"train.tar: lacks 1 of the 5 classes that ILSVRC2012_devkit_t12.tar.gz names: {CLASSES[2]}"


def without_member_of_val(root: Path) -> str:
    rewrite(root / "ILSVRC2012_img_val.tar", lambda name: "00000004" not in name)
    return "val.tar: lacks 1 of the 10 images that the ground truth counts: number 4"


@pytest.mark.parametrize(
    ("layout", "split", "remove"),
    [
        ("kaggle", "val", without_image_of_val),
        ("kaggle", "train", without_class_of_kaggle),
        ("ilsvrc2012", "train", without_class_tar),
        ("ilsvrc2012", "val", without_member_of_val),
    ],
)
def test_tables_of_images_and_classes_are_binding(
    tmp_path: Path, layout: str, split: SplitName, remove: Callable[[Path], str]
) -> None:
    root = WRITERS[layout](tmp_path / "set", draw_images())
    complete = image_source(root, split)
    expected = remove(root)
    assert expected in refusal(root, split)
    source = list_split(root, "auto", split, None, 0, None, ALLOW)
    assert len(source.missing) == 1
    assert source.missing[0].endswith(expected.replace(": lacks", ":"))
    # The labels of the others stay those of the complete set.
    assert getattr(source, "classes", None) == complete.classes == CLASSES


def test_what_is_packed_without_missing_parts_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = WRITERS["parquet"](tmp_path / "set", draw_images())
    (root / "data" / "train-00001-of-00002.parquet").unlink()
    arguments = [str(root), str(tmp_path / "out"), "--size", str(SIZE), "--processes", "1"]
    assert run_command(main, arguments) == 2
    assert "train-00001-of-00002.parquet" in capsys.readouterr().err
    main([*arguments, "--allow-missing"])
    said = capsys.readouterr()
    statement = "data: 1 of the 2 files of train-*-of-2: train-00001-of-00002.parquet"
    assert f"INCOMPLETE: packed with --allow-missing, although the source lacks:\n  {statement}" in said.err
    assert json.loads(said.out.splitlines()[-1])["missing"] == [statement]
    assert manifests.load(tmp_path / "out" / "train.manifest.json").missing == (statement,)
    main([*arguments, "--allow-missing"])
    assert "INCOMPLETE" in capsys.readouterr().err


def test_a_complete_set_has_no_trace_of_it_in_its_manifest(tmp_path: Path) -> None:
    """So that the identity of a set is the same as before there were such keys."""
    source = WRITERS["folder"](tmp_path / "source", draw_images())
    pack(request(source, tmp_path / "out"))
    text = (tmp_path / "out" / "train.manifest.json").read_text()
    assert json.loads(text).keys().isdisjoint({"ignored", "missing"})
    assert manifests.load(tmp_path / "out" / "train.manifest.json").text == text
