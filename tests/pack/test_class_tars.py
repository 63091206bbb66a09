"""ILSVRC's training tar unpacked once, a folder with a tar for each class, gives the shards of the tar itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import shard
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.layouts import detect_layout
from support.folders import contents, extract, image_source, request
from support.layouts import CLASSES, Images, draw_images, ilsvrc2012, tar_of


@pytest.fixture(scope="module")
def images() -> Images:
    return draw_images(train=3)


def unpack_once(root: Path, folder: Path) -> Path:
    """Replace the training tar in `root` by its members in a folder, as `tar -x` does."""
    folder.mkdir(parents=True, exist_ok=True)
    extract(root / "ILSVRC2012_img_train.tar", folder)
    (root / "ILSVRC2012_img_train.tar").unlink()
    return root


def check_same_set(root: Path, images: Images, tmp_path: Path) -> None:
    """Check both splits against those of the archives, with only two tars open at a time."""
    archives = ilsvrc2012(tmp_path / "archives", images)
    for split in ("train", "val"):
        pack(request(archives, tmp_path / "expected", split))
        pack(request(root, tmp_path / "out", split))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("folder", ["", "train", "ILSVRC2012_img_train"])
def test_class_tars_give_the_shards_of_the_training_tar(
    images: Images, tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ilsvrc2012(tmp_path / "set", images)
    unpack_once(root, root / folder)
    assert detect_layout(root) == "ilsvrc2012"
    monkeypatch.setattr(shard, "MAX_OPEN_ARCHIVES", 2)
    check_same_set(root, images, tmp_path)
    assert "a tar for each of 5 classes" in capsys.readouterr().err


def test_a_folder_of_class_tars_alone_is_enough_for_train(images: Images, tmp_path: Path) -> None:
    root = unpack_once(ilsvrc2012(tmp_path / "set", images), tmp_path / "tars")
    source = image_source(tmp_path / "tars")
    assert source.classes == CLASSES
    assert detect_layout(root) == "ilsvrc2012"  # for val; the folder of train is elsewhere
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train\.tar: no such file; .* add --layout folder"):
        image_source(root)


def test_no_more_tars_are_open_than_allowed(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpack_once(ilsvrc2012(tmp_path / "set", images), tmp_path / "set")
    monkeypatch.setattr(shard, "MAX_OPEN_ARCHIVES", 2)
    opened: set[int] = set()
    most = 0
    real_open, real_close = os.open, os.close

    def open_tar(path: Path, flags: int) -> int:
        nonlocal most
        descriptor = real_open(path, flags)
        opened.add(descriptor)
        most = max(most, len(opened))
        return descriptor

    def close_tar(descriptor: int) -> None:
        opened.discard(descriptor)
        real_close(descriptor)

    reader = shard._FileReader(root, "start over")
    source = image_source(root)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_tar)
        patched.setattr(os, "close", close_tar)
        sizes = {file.name: len(reader.read(file)) for file in source.files}
        reader.close()
    assert (most, opened) == (2, set())
    assert sizes == {file.name: file.size_bytes for file in source.files}


def test_what_lies_among_the_class_tars_is_rejected_or_noted(images: Images, tmp_path: Path) -> None:
    root = unpack_once(ilsvrc2012(tmp_path / "set", images), tmp_path / "set" / "train")
    (root / "train" / "README").write_text("read me")
    (root / "train" / "n01440764").mkdir()
    source = image_source(root)
    assert source.rejected == (Rejected("train/README", "not a class's tar"),)
    assert "not read, because it is beside the class tars: n01440764/" in source.notes[1]


def test_class_tars_beside_the_training_tar_are_not_read(images: Images, tmp_path: Path) -> None:
    root = ilsvrc2012(tmp_path / "set", images)
    (root / "n01440764.tar").write_bytes(b"")
    source = image_source(root)
    assert len(source.files) == 25
    assert "not read, because ILSVRC2012_img_train.tar holds the class tars too" in source.notes[0]


def test_class_tars_beside_shards_are_two_readings(images: Images, tmp_path: Path) -> None:
    root = unpack_once(ilsvrc2012(tmp_path / "set", images), tmp_path / "tars")
    assert root
    (tmp_path / "tars" / "extra-0.tar").write_bytes(tar_of([("1.cls", b"1"), ("1.jpg", b"x")]))
    with pytest.raises(UserError, match=r"class tars .* choose one with --layout ilsvrc2012 or --layout webdataset"):
        image_source(tmp_path / "tars")
    source = image_source(tmp_path / "tars", layout="ilsvrc2012")
    assert source.rejected == (Rejected("extra-0.tar", "not a class's tar"),)


def test_an_empty_class_tar_is_refused(images: Images, tmp_path: Path) -> None:
    root = unpack_once(ilsvrc2012(tmp_path / "set", images), tmp_path / "set" / "train")
    (root / "train" / "n02105855.tar").write_bytes(tar_of([]))
    with pytest.raises(UserError, match=r"train/n02105855\.tar: holds no images: download it again"):
        image_source(root)
