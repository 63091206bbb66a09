"""Packing writes the same bytes for any number of processes, and shards that other programs can read."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
import pytest
import simplejpeg
from pyarrow import parquet

from alexnet_dist.data.manifest import INDEX_DTYPE, Manifest, Rejected
from alexnet_dist.data.transform import training_image
from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from support.folders import OPTIONS, SIZE, contents, encoded, photo, request, write_folder
from support.layouts import CLASSES, WRITERS, draw_images, table_of, tar_of


def read_index(out: Path, manifest: Manifest) -> npt.NDArray[np.void]:
    index: npt.NDArray[np.void] = np.load(out / manifest.index.name)
    return index


def decoded(out: Path, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Decode all images at their offsets in the index, and check their checksums."""
    images = []
    index = iter(read_index(out, manifest))
    for shard in manifest.shards:
        tar = (out / shard.name).read_bytes()
        for _ in range(shard.images):
            row = next(index)
            jpeg = tar[row["offset"] : row["offset"] + row["size"]]
            assert zlib.crc32(jpeg) == row["crc32"]
            images.append(simplejpeg.decode_jpeg(jpeg, "RGB", strict=True))
    return np.stack(images)


def test_what_is_packed(source: Path, tmp_path: Path) -> None:
    packed = pack(request(source, tmp_path))
    manifest = packed.manifest
    assert packed.new_images == manifest.images == 28
    assert [described.name for described in manifest.classes] == ["a", "b", "c"]
    assert manifest.rejected == (Rejected("a/README.txt", "not a JPEG or PNG"), Rejected("b/.hidden", "hidden"))
    assert sorted(contents(tmp_path)) == [
        *(f"train-{number:06d}.tar" for number in range(6)), "train.index.npy", "train.manifest.json", "train.mean.npy",
    ]  # fmt: skip
    assert [shard.images for shard in manifest.shards].count(5) >= 4
    index = read_index(tmp_path, manifest)
    assert index.dtype == INDEX_DTYPE
    assert np.bincount(index["label"]).tolist() == [11, 9, 8]
    assert index["label"].tolist() != sorted(index["label"])
    assert decoded(tmp_path, manifest).shape == (28, SIZE, SIZE, 3)


def test_two_processes_write_the_same_bytes(source: Path, reference: Path, tmp_path: Path) -> None:
    pack(request(source, tmp_path, processes=2))
    assert contents(tmp_path) == contents(reference)


def test_seed_and_split_decide_the_order(source: Path, reference: Path, tmp_path: Path) -> None:
    other = pack(request(source, tmp_path / "seed", seed=1)).manifest
    val = pack(request(source, tmp_path / "val", split="val")).manifest
    labels = [np.load(reference / "train.index.npy")["label"].tolist()]
    labels += [
        read_index(tmp_path / "seed", other)["label"].tolist(),
        read_index(tmp_path / "val", val)["label"].tolist(),
    ]
    assert labels[0] != labels[1] != labels[2] != labels[0]
    assert val.mean is None
    assert val.colour is None


def test_mean_and_covariance_are_those_of_the_decoded_shards(tmp_path: Path) -> None:
    """Files that are copied without re-encoding have the same pixels in the shards as in the statistics."""
    for number in range(13):
        path = tmp_path / "source" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(number, SIZE, SIZE)))
    manifest = pack(request(tmp_path / "source", tmp_path / "out")).manifest
    images = decoded(tmp_path / "out", manifest).astype(np.float64)
    mean = np.load(tmp_path / "out" / "train.mean.npy")
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, images.mean(0).astype(np.float32).transpose(2, 0, 1))
    assert manifest.colour is not None
    np.testing.assert_allclose(manifest.colour.mean, images.reshape(-1, 3).mean(0), rtol=1e-13)
    np.testing.assert_allclose(manifest.colour.covariance, np.cov(images.reshape(-1, 3).T, bias=True), rtol=1e-11)


def test_the_statistics_are_of_the_resized_pixels(source: Path, reference: Path) -> None:
    images = [training_image(path.read_bytes(), OPTIONS)[1] for path in source.rglob("*.jpg")]
    mean = np.load(reference / "train.mean.npy")
    np.testing.assert_array_equal(mean, np.mean(images, axis=0).astype(np.float32).transpose(2, 0, 1))


def test_tar_reads_a_shard(reference: Path) -> None:
    listed = subprocess.run(
        ["tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--file", reference / "train-000000.tar"],
        check=True, capture_output=True, text=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[-1] for line in listed[:2]] == ["00000000.cls", "00000000.jpg"]
    assert len({line.split()[-1] for line in listed}) == len(listed)
    for line in listed:
        assert line.startswith("-rw-r--r-- 0/0 ")
        assert "1970-01-01 00:00:00" in line
    with tarfile.open(reference / "train-000000.tar") as tar:
        assert all((member.uname, member.gname) == ("root", "root") for member in tar)


def test_webdataset_reads_the_shards(reference: Path) -> None:
    manifest = json.loads((reference / "train.manifest.json").read_text())
    shards = [str(reference / shard["name"]) for shard in manifest["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # webdataset leaves files open, and warns about its own defaults
        import webdataset

        samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    index = np.load(reference / "train.index.npy")
    assert [int(sample["cls"]) for sample in samples] == index["label"].tolist()
    assert [zlib.crc32(sample["jpg"]) for sample in samples] == index["crc32"].tolist()
    keys = [sample["__key__"] for sample in samples]
    assert keys == sorted(set(keys))
    assert all(len(key) == 8 for key in keys)


def test_out_inside_the_source_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path, {"a": 1})
    with pytest.raises(UserError, match="lies inside"):
        pack(request(source, source / "shards"))
    assert not (source / "shards").exists()


def test_out_among_the_splits_of_a_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, split in enumerate(("train", "val")):
        write_folder(source / split, {"a": 1}, seed=number)
    for out, message in (
        (source, "is the images' own folder"),
        (source / "train", "is the images' own folder"),
        (source / "train" / "shards", "lies inside the images' folder"),
        (source / "val", "lies inside the images' folder"),
        (source / "val" / "a" / "shards", "lies inside the images' folder"),
    ):
        with pytest.raises(UserError, match=message):
            pack(request(source, out))
    assert len(contents(source)) == 2
    assert pack(request(source, source / "shards")).manifest.images == 1
    assert pack(request(source, source / "shards", "val")).manifest.images == 1


def test_a_disk_that_is_too_small_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"29 images need about 54\.5 kB, but only 1\.0 kB is free"):
        pack(request(source, tmp_path))


def test_a_disk_that_is_too_small_for_a_stream_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = WRITERS["parquet"](tmp_path / "source", draw_images())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 0))
    with pytest.raises(UserError, match="the spooled images and the shards need about"):
        pack(request(source, tmp_path / "out"))
    assert not list(tmp_path.glob("out/**/spool-*"))


def test_a_class_without_a_usable_image_is_refused(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(source, images)
    (images / "webp").mkdir()
    (images / "webp" / "1.jpg").write_bytes(b"RIFF....WEBP")
    with pytest.raises(
        UserError, match=r"(?s)images: none of the files of class webp .*webp/1\.jpg: not a JPEG or PNG"
    ):
        pack(request(images, tmp_path / "out"))
    assert not (tmp_path / "out" / "train.manifest.json").exists()


def test_files_of_one_name_are_judged_each_by_itself(tmp_path: Path) -> None:
    """As in parquet rows that are all named image.jpg, and in shards whose keys each start from 0."""
    good, bad = [encoded(photo(number)) for number in range(2)], b"no image"
    rows = [{"bytes": data, "path": "image.jpg"} for data in (*good, bad)]
    features = {"info": {"features": {"label": {"names": ["cat"]}}}}
    table = pyarrow.table({"image": rows, "label": [0, 0, 0]})
    (tmp_path / "rows").mkdir()
    (tmp_path / "shards").mkdir()
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "rows" / "train-0.parquet"
    )
    for number, data in enumerate((*good, bad)):
        members = [("0000.cls", b"cat"), ("0000.jpg", data)]
        (tmp_path / "shards" / f"train-{number}.tar").write_bytes(tar_of(members))
    for source in ("rows", "shards"):
        manifest = pack(request(tmp_path / source, tmp_path / f"out-{source}")).manifest
        assert manifest.images == 2
        assert manifest.rejected == (
            Rejected(f"cat/{'image' if source == 'rows' else '0000'}.jpg", "not a JPEG or PNG"),
        )


def test_a_class_of_a_stream_without_a_usable_image_is_named_by_its_source(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows = [("1_n01440764.JPEG", CLASSES[0], encoded(photo(1))), ("2_n02105855.JPEG", CLASSES[1], b"no image")]
    parquet.write_table(table_of(rows), tmp_path / "rows" / "train-0.parquet")
    with pytest.raises(UserError, match=r"rows: none of the files of class n02105855 .* start over: delete"):
        pack(request(tmp_path / "rows", tmp_path / "out"))


def test_no_manifest_is_written_that_nothing_could_read(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["cat\0dog"]}}}}
    table = pyarrow.table({"image": [{"bytes": encoded(photo(1)), "path": "1.jpg"}], "label": [0]})
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "train-0.parquet"
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    with pytest.raises(UserError, match=r"(?s)manifest\.json \(not written\): classes\.0\.name: .*cat.*rename that in"):
        pack(request(tmp_path / "source", tmp_path / "out"))
    assert not (tmp_path / "out" / "train.manifest.json").exists()


def test_a_shard_of_rejects_alone_is_left_out(source: Path, tmp_path: Path) -> None:
    manifest = pack(request(source, tmp_path, samples_per_shard=1)).manifest
    assert len(manifest.shards) == manifest.images == 28
    assert len(list(tmp_path.glob("*.tar"))) == 28
    assert manifest.shards[-1].name == "train-000028.tar"
    assert decoded(tmp_path, manifest).shape[0] == 28


def test_a_failure_within_a_shard_leaves_nothing_behind_to_complain(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    real = Path.read_bytes
    calls = iter(range(100))
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: real(path) + b"x" * (path.suffix == ".jpg" and next(calls) > 2)
    )
    with pytest.raises(UserError, match="changed while"):
        pack(request(source, tmp_path / "out"))
    gc.collect()
    assert not complaints


def test_a_file_that_changes_or_cannot_be_read_stops_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + b"x" * (path.suffix == ".jpg"))
    with pytest.raises(UserError, match=r"\.jpg: changed while it was packed"):
        pack(request(source, tmp_path / "1"))

    def fail(_path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UserError, match=r"cannot be read: Input/output error"):
        pack(request(source, tmp_path / "2"))
