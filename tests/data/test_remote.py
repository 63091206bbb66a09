"""Packed sets under a URL: the same samples as in a folder, over HTTP and S3, and errors that name the cause."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.data.remote import HEADER_BYTES, CachedShards, Remote, in_child, locate
from alexnet_dist.errors import RunError, UserError
from support.ranks import free_port
from support.remote_server import HttpServer
from support.remote_sets import edit_manifest, remote_set, samples_sha256

Pack = Callable[..., Path]


def assert_same(actual: Split, expected: Split) -> None:
    assert actual.manifest == expected.manifest
    assert samples_sha256(actual) == samples_sha256(expected)
    assert np.array_equal(actual.mean, expected.mean)
    assert np.array_equal(actual.components, expected.components)
    assert actual.to_keep() == expected.to_keep()


def test_a_set_over_http_is_the_set_in_the_folder(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    root = pack_tiny()
    for _ in range(2):
        assert_same(Split.open(remote_set(http_server.url(root) + "/", tmp_path), "train"), Split.open(root, "train"))
    assert http_server.gets() == {
        "train.manifest.json": 2, "train.index.npy": 1, "train.mean.npy": 1,
        "train-000000.tar": 1, "train-000001.tar": 1, "train-000002.tar": 1,
    }  # fmt: skip


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start moto's S3 server and return a client; the bucket is `sets`."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline_s = time.monotonic() + 30
            while time.monotonic() < deadline_s:
                try:
                    urllib.request.urlopen(endpoint, timeout=5).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            client = boto3.client("s3", endpoint_url=endpoint)
            client.create_bucket(Bucket="sets")
            yield client
        finally:
            server.kill()


def test_a_set_in_s3_is_the_set_in_the_folder(pack_tiny: Pack, bucket: Any, tmp_path: Path) -> None:
    root = pack_tiny()
    for path in root.iterdir():
        bucket.upload_file(str(path), "sets", f"tiny/v1/{path.name}")
    assert_same(Split.open(remote_set("s3://sets/tiny/v1", tmp_path), "train"), Split.open(root, "train"))
    bucket.put_object(Bucket="sets", Key="tiny/v1/train-000001.tar", Body=b"something else")
    (tmp_path / "cache").rename(tmp_path / "old")
    with pytest.raises(UserError, match=r"s3://sets/tiny/v1/train-000001\.tar: 14 bytes with sha256 .*3 times"):
        samples_sha256(Split.open(remote_set("s3://sets/tiny/v1", tmp_path), "train"))
    bucket.delete_object(Bucket="sets", Key="tiny/v1/train-000001.tar")
    with pytest.raises(UserError, match=r"s3://sets/tiny/v1/train-000001\.tar: no such file there"):
        samples_sha256(Split.open(remote_set("s3://sets/tiny/v1", tmp_path), "train"))
    with pytest.raises(UserError, match=r"s3://none/train\.manifest\.json: no such file there"):
        Split.open(remote_set("s3://none", tmp_path), "train")


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ("pipe:cat train.tar", "scheme 'pipe' is not supported"),
        ("file:///shards", "scheme 'file' is not supported"),
        ("ftp://host/shards", "scheme 'ftp' is not supported"),
        ("gs://bucket", "scheme 'gs' is not supported"),
        ("simplecache::http://host", "scheme 'simplecache' is not supported"),
        ("http:///shards", "expected SCHEME://HOST/FOLDER"),
        ("s3:bucket", "expected SCHEME://HOST/FOLDER"),
        ("http://:80/shards", "expected SCHEME://HOST/FOLDER"),
        ("http://[::1/shards", "not a valid URL; expected SCHEME://HOST:PORT/FOLDER"),
        ("http://host:99999/shards", "not a valid URL; expected SCHEME://HOST:PORT/FOLDER"),
        ("http://host:0/shards", "expected SCHEME://HOST/FOLDER"),
        ("https://host/shards?signature=1", "without query or fragment"),
    ],
)
def test_other_places_are_refused(root: str, text: str) -> None:
    with pytest.raises(UserError, match=r"data\.root: ") as caught:
        locate(root, "cache", 1)
    assert root in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ("https://me:secret@host/shards", r"https://\.\.\.@host: contains a user name or password"),
        ("ftp://me:secret@host/shards", r"ftp://\.\.\.@host/shards: scheme 'ftp' is not supported"),
        ("https://me:secret@[::1/shards", r"https://\.\.\.@\[::1/shards: not a valid URL"),
        ("https://me:secret/@host/shards", r"https://\.\.\.@host/shards: not a valid URL"),
        ("https://me:1?secret@host/shards", r"https://\.\.\.@host/shards: expected SCHEME"),
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(root: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"data\.root: {text}") as caught:
        locate(root, "cache", 1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("root", ["shards", "/a/b", "./a:b", "..", "a/http://b"])
def test_a_folder_is_a_folder(root: str) -> None:
    assert locate(root, "cache", 1) == Path(root)


def test_the_home_directory_is_written_out() -> None:
    remote = locate("https://host/set//", "~/cache", 5)
    assert isinstance(remote, Remote)
    assert (str(remote), remote.cache.folder, remote.cache.max_bytes) == ("https://host/set", Path.home() / "cache", 5)
    assert locate("~/shards", "cache", 5) == Path.home() / "shards"
    for key, arguments in (("root", ("~nobody-here/a", "cache")), ("cache", ("http://host/set", "~nobody-here/a"))):
        with pytest.raises(UserError, match=rf"data\.{key}: ~nobody-here/a: no user of that name"):
            locate(*arguments, 5)


@pytest.mark.parametrize("missing", ["fsspec", "aiohttp"])
def test_a_missing_library_is_named_with_its_extra(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from alexnet_dist.data.remote import locate\n"
        "from alexnet_dist.errors import run_command\n"
        "sys.exit(run_command(lambda _: locate('http://host/set', 'cache', 1)))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "pip install 'alexnet_dist[remote]'" in process.stderr


def test_what_a_power_failure_has_left_is_fetched_again(
    pack_tiny: Pack, http_server: HttpServer, tmp_path: Path
) -> None:
    root = pack_tiny()
    expected = samples_sha256(Split.open(root, "train"))
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    assert samples_sha256(split) == expected
    for path in (tmp_path / "cache").glob("*.*"):
        path.write_bytes(bytes(path.stat().st_size))
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    assert samples_sha256(split) == expected
    assert http_server.gets()["train-000002.tar"] == 2


def test_a_cache_may_hold_either_index_or_mean(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    root = pack_tiny(counts=[1] * 20, size=64)
    mean_bytes = 3 * 64 * 64 * 4 + HEADER_BYTES  # the room reserved for the mean is the whole cache
    split = Split.open(remote_set(http_server.url(root), tmp_path, mean_bytes), "train")
    assert_same(split, Split.open(root, "train"))
    with pytest.raises(
        UserError, match=rf"data\.cache_bytes: {mean_bytes - 1:,} is less than the {mean_bytes:,} bytes"
    ):
        Split.open(remote_set(http_server.url(root), tmp_path / "smaller", mean_bytes - 1), "train")


def test_a_sample_that_was_packed_wrong_is_a_bad_sample(
    pack_tiny: Pack, http_server: HttpServer, tmp_path: Path
) -> None:
    root = pack_tiny()
    index = np.load(root / "train.index.npy")
    index["crc32"][8] ^= 1
    np.save(root / "train.index.npy", index)
    edit_manifest(root, index={
        "name": "train.index.npy", "sha256": hashlib.sha256((root / "train.index.npy").read_bytes()).hexdigest(),
    })  # fmt: skip
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    with pytest.raises(BadSample, match=r"sample 8 \(train-000002\.tar, byte 512\): .*crc32"):
        samples_sha256(split)
    assert http_server.gets()["train-000002.tar"] == 1
    assert isinstance(split.shards, CachedShards)
    path = split.shards.remote.cache.path(split.shards.files[2])
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BadSample, match=r"sample 8 .*crc32"):
        samples_sha256(split)
    assert http_server.gets()["train-000002.tar"] == 2


def test_a_shard_that_is_removed_while_it_is_read_comes_back(
    pack_tiny: Pack, http_server: HttpServer, tmp_path: Path
) -> None:
    root = pack_tiny()
    split = Split.open(remote_set(http_server.url(root), tmp_path), "train")
    assert isinstance(split.shards, CachedShards)
    path = split.shards.remote.cache.path(split.shards.files[0])

    def read_and_remove() -> bool:
        for _ in range(3):
            first = split.jpeg(0)
            path.unlink()
            assert split.jpeg(0) == first
        return path.exists()

    assert in_child(read_and_remove)
    assert http_server.gets()["train-000000.tar"] == 4


def test_a_cached_file_that_cannot_be_read_is_named(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    split = Split.open(remote_set(http_server.url(pack_tiny()), tmp_path), "train")
    assert isinstance(split.shards, CachedShards)
    path = split.shards.remote.cache.path(split.shards.files[0])
    path.symlink_to(path)  # root may read a file without read permission, so use a loop
    with pytest.raises(RunError, match=rf"{path}: Too many levels of symbolic links; .* another data\.cache"):
        split.jpeg(0)


def test_a_shard_that_is_read_is_in_use(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    split = Split.open(remote_set(http_server.url(pack_tiny()), tmp_path), "train")
    assert isinstance(split.shards, CachedShards)
    path = split.shards.remote.cache.path(split.shards.files[0])
    in_child(lambda: split.jpeg(0))
    os.utime(path, (1, 1))
    in_child(lambda: split.jpeg(1))
    assert path.stat().st_mtime == pytest.approx(time.time(), abs=60)


def test_reading_holds_no_file_open_or_mapped(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    split = Split.open(remote_set(http_server.url(pack_tiny()), tmp_path), "train")

    def cached_files_in_use() -> list[str]:
        for sample in range(split.images):
            split.jpeg(sample)
        opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        mapped = Path("/proc/self/maps").read_text().splitlines()
        return [name for name in opened + mapped if str(tmp_path / "cache") in name]

    assert in_child(cached_files_in_use) == []


def test_a_childs_errors_are_the_parents(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("unchanged")

    def die() -> None:
        os._exit(9)

    assert in_child(lambda: tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"^unchanged$"):
        in_child(refuse)
    with pytest.raises(RunError, match="the process that reads the remote manifest died"):
        in_child(die)
