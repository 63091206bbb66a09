"""A written manifest is read back unchanged, and invalid files are rejected."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.data.manifest import (
    Class,
    Colour,
    Manifest,
    Options,
    Rejected,
    Shard,
    Sidecar,
    SourceId,
    load,
    manifest_path,
    parse,
    save,
)
from alexnet_dist.errors import UserError
from alexnet_dist.system.files import replace_file

Change = Callable[[dict[str, Any]], object]

MANIFEST = Manifest(
    split="train",
    size=256,
    images=1500,
    classes=(Class("n01440764", "tench"), Class("n01443537")),
    shards=(
        Shard("train-000000.tar", 1000, 24_000_000, "0" * 64),
        Shard("train-000001.tar", 500, 12_000_000, "1" * 64),
    ),
    index=Sidecar("train.index.npy", "2" * 64),
    mean=Sidecar("train.mean.npy", "3" * 64),
    colour=Colour(
        (123.1, 117.0, 104.25), ((4000.1, 3900.0, 3800.0), (3900.0, 4000.0, 3900.0), (3800.0, 3900.0, 1 / 3))
    ),
    rejected=(Rejected("n01440764/ü.txt", "not a JPEG or PNG"),),
    options=Options(seed=0, size=256, quality=90, chroma="420", filter="bicubic", samples_per_shard=1000, holdout=None),
    libraries={"numpy": "2.4.6", "torch": "2.13.0"},
    source=SourceId(1501, "4" * 64),
)


def test_round_trip(tmp_path: Path) -> None:
    path = manifest_path(tmp_path, "train")
    save(MANIFEST, path)
    assert path == tmp_path / "train.manifest.json"
    assert load(path) == MANIFEST
    assert MANIFEST.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_text_is_canonical() -> None:
    parsed = json.loads(MANIFEST.text)
    assert json.dumps(parsed, sort_keys=True, indent=1) + "\n" == MANIFEST.text
    assert MANIFEST.text.isascii()
    assert parsed["format"] == 2


def set_to(key: str, value: object) -> Change:
    """Return a change that sets a key, such as shards.0.name."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        node: Any = content
        for parent in parents:
            node = node[parent]
        node[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("images", -1),
        ("images", "1500"),
        ("images", 1500.0),
        ("images", True),
        ("format", 1),
        ("split", "test"),
        ("size", 0),
        ("classes", []),
        ("classes", None),
        ("classes.0.name", "a/b"),
        ("classes.0.name", ""),
        ("classes.0.words", 3),
        ("classes.1.colour", "red"),
        ("shards", {}),
        ("shards.0.name", "../train-000000.tar"),
        ("shards.0.name", "/etc/x.tar"),
        ("shards.0.name", "train.tar\n"),
        ("shards.1.images", 0),
        ("shards.1.size_bytes", -5),
        ("shards.1.sha256", "1" * 63),
        ("shards.1.sha256", "G" * 64),
        ("index", None),
        ("index.name", "x/../index.npy"),
        ("mean.sha256", 7),
        ("colour.mean", [1.0, 2.0]),
        ("colour.covariance.2.2", float("nan")),
        ("colour.covariance.0.0", float("inf")),
        ("rejected.0.reason", None),
        ("options.quality", 101),
        ("options.holdout", 1.5),
        ("options.seed", None),
        ("libraries.numpy", 2),
        ("source.files", 0),
        ("extra", 1),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, key: str, value: object) -> None:
    check_rejected(tmp_path, set_to(key, value), key)


@pytest.mark.parametrize("key", ["images", "index", "mean", "libraries", "options.filter", "shards.1.sha256"])
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    def remove(content: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        node: Any = content
        for parent in parents:
            node = node[parent]
        del node[last]

    check_rejected(tmp_path, remove, key)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("images", 1501, "images: 1501, but the shards' images add up to 1500"),
        ("shards.1.name", "train-000000.tar", "train-000000.tar is listed twice"),
        ("classes.0.name", "z", "sorted"),
        ("classes.0.name", "n01443537", "different names"),
        ("size", 128, "options.size is 256"),
        ("mean", None, "mean and colour"),
        ("colour", None, "mean and colour"),
        ("split", "val", "mean and colour"),
    ],
)
def test_a_contradiction_is_refused(tmp_path: Path, key: str, value: object, expected: str) -> None:
    check_rejected(tmp_path, set_to(key, value), expected)


def check_rejected(folder: Path, change: Change, expected: str) -> None:
    """Check that the changed manifest is rejected with a message that contains the file and the expected text."""
    content = json.loads(MANIFEST.text)
    change(content)
    path = manifest_path(folder, "train")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as rejected:
        load(path)
    assert str(path) in str(rejected.value)
    assert expected in str(rejected.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, "\x00\xff", '{"images": 1e999999}', '"\\ud800"'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = manifest_path(tmp_path, "val")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"val\.manifest\.json"):
        load(path)


def test_a_missing_file_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"python -m alexnet_dist\.pack SOURCE {tmp_path} --split val"):
        load(manifest_path(tmp_path, "val"))


def test_words_and_source_may_be_left_out(tmp_path: Path) -> None:
    content = json.loads(MANIFEST.text)
    del content["source"], content["classes"][1]["words"]
    path = tmp_path / "train.manifest.json"
    path.write_text(json.dumps(content))
    assert load(path).source is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_files_are_durable_before_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _descriptor: calls.append("sync"))
    real_replace = Path.replace

    def rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(Path, "replace", rename)
    replace_file(tmp_path / "file", b"content")
    assert calls == ["sync", "rename", "sync"]


def test_another_format_version_is_reported_before_other_problems() -> None:
    with pytest.raises(UserError, match=r"set: format: 1; this version of alexnet_dist reads 2\..*: pack again$"):
        parse(b'{"format": 1, "images": 3}', "set")
