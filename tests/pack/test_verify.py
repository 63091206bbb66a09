"""pack --verify finds any damage to a packed split, and names the damaged file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.pack.__main__ import main
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.verify import verify
from support.folders import request, write_folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    pack(request(write_folder(root / "source", {"a": 12, "b": 9}), root / "out"))
    return root / "out"


@pytest.fixture
def out(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_whole_split_is_found_whole(packed: Path, processes: int) -> None:
    assert verify(packed, "train", processes).images == 21


def test_the_command_needs_no_source(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(packed), "--verify", "--processes", "1"])
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["images"] == 21
    assert "verified: every hash" in printed.err
    with pytest.raises(UserError, match="expected SOURCE and OUT"):
        main([str(packed)])


def test_verifying_a_packed_source_reports_its_speed(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "16", "--samples-per-shard", "5", "--processes", "1"]
    main([str(packed.parent / "source"), str(packed), "--verify", *options])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images_per_second"] > 0


@pytest.mark.parametrize("at", [0, 700, 5000, -1])
def test_any_changed_byte_is_found(out: Path, at: int) -> None:
    for name in ("train-000001.tar", "train-000003.tar"):
        content = bytearray((out / name).read_bytes())
        content[at] ^= 1
        (out / name).write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)2 of 5 shards of train .*train-000001\.tar: sha256 .*train-000003\.tar"):
        verify(out, "train", 1)


def test_more_damage_than_is_listed(out: Path) -> None:
    for number in range(5):
        path = out / f"train-{number:06d}.tar"
        path.write_bytes(b"x" * path.stat().st_size)
    (out / "train-000005.tar").write_bytes(b"a file that is not in the manifest")
    with pytest.raises(UserError, match="5 of 5 shards"):
        verify(out, "train", 1)


def reseal(out: Path, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Change the index and its hash in the manifest, so that no hash shows the change."""
    index = np.load(out / "train.index.npy")
    change(index)
    np.save(out / "train.index.npy", index)
    path = out / "train.manifest.json"
    content = json.loads(path.read_text())
    content["index"]["sha256"] = hashlib.sha256((out / "train.index.npy").read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crc32", 5, r"the crc32 of the image at byte \d+ is not the one in the index"),
        ("label", 1, r"its \.cls members and the index disagree about the labels of its images"),
        ("size", 100, "its headers and the index disagree about where its images are"),
        ("offset", 0, "its headers and the index disagree about where its images are"),
    ],
)
def test_an_index_that_lies_is_found(out: Path, field: str, value: int, message: str) -> None:
    labels = np.load(out / "train.index.npy")["label"]
    row = int((labels == 0).argmax())

    def change(index: np.ndarray[Any, Any]) -> None:
        index[field][row] = value

    reseal(out, change)
    with pytest.raises(UserError, match=rf"(?s)1 of 5 shards.*train-00000{row // 5}\.tar: .*{message}"):
        verify(out, "train", 1)
