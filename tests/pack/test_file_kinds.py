"""Files that are not what their names say: the message says what they are and what to type."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from support.folders import encoded, photo, request
from support.layouts import tar_of

SHARD = tar_of([("1.cls", b"a"), ("1.jpg", encoded(photo(1)))])
PAGE = b"\n<!DOCTYPE html><html><body>Log in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def check_refused(root: Path, name: str, content: bytes, message: str) -> None:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        pack(request(root, root.parent / "out"))
    assert f"{name}: {message}" in str(caught.value)
    assert "download it again" not in str(caught.value) or "web page" in message
    (root / name).unlink()


@pytest.mark.parametrize("name", ["train-0.tar", "ILSVRC2012_img_train.tar", "n01440764.tar"])
def test_a_compressed_file_named_tar(tmp_path: Path, name: str) -> None:
    path = tmp_path / "source" / name
    for content, message in (
        (gzip.compress(SHARD), f"is a gzip file and not a tar: unpack it with gzip -dc {path} > NEW"),
        (bz2.compress(SHARD), f"is a bzip2 file and not a tar: unpack it with bzip2 -dc {path} > NEW"),
        (lzma.compress(SHARD), f"is a xz file and not a tar: unpack it with xz -dc {path} > NEW"),
        (b"PK\x03\x04" + bytes(600), "is a zip file and not a tar"),
        (PAGE + bytes(600), "is a web page and not a tar"),
        (POINTER + bytes(600), "is a pointer of Git LFS and not a tar: fetch the file with git lfs pull"),
    ):
        check_refused(tmp_path / "source", name, content, message)


def test_what_is_named_tar_gz_and_parquet(tmp_path: Path) -> None:
    for name in ("train_images_0.tar.gz", "train-00000-of-00001.parquet"):
        expected = "a gzip file" if name.endswith("gz") else "a parquet file"
        for content, message in (
            (SHARD, f"is a tar and not {expected}"),
            (PAGE, f"is a web page and not {expected}"),
            (POINTER, f"is a pointer of Git LFS and not {expected}"),
            (b"PK\x03\x04" + bytes(600), f"is a zip file and not {expected}"),
        ):
            check_refused(tmp_path / "source", name, content, message)
    check_refused(tmp_path / "source", "train_images_0.tar.gz", b"PAR1" + bytes(600), "is a parquet file and not")
    check_refused(tmp_path / "source", "train-0.parquet", gzip.compress(SHARD), "is a gzip file and not a parquet file")


def test_a_tar_whose_first_member_is_named_like_another_format(tmp_path: Path) -> None:
    shard = tar_of([("BZh1.cls", b"a"), ("BZh1.jpg", encoded(photo(1)))])
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train-0.tar").write_bytes(shard)
    assert pack(request(tmp_path / "source", tmp_path / "out")).manifest.images == 1


@pytest.mark.parametrize("name", ["train-0.tar", "imagenet.zip", "train_images_0.tar.gz", "train-0.parquet"])
def test_an_archive_given_as_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SHARD)
    with pytest.raises(UserError, match=f"an archive; expected the folder with it as SOURCE: {tmp_path}$"):
        pack(request(tmp_path / name, tmp_path / "out"))
