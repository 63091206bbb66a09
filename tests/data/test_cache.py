"""The cache of remote shards: one download per file for all processes, a size limit, no partial files after a kill."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from alexnet_dist.data import cache as cache_module
from alexnet_dist.data.cache import Cache, RemoteFile
from alexnet_dist.data.download import RetryPolicy
from alexnet_dist.data.remote import in_child
from alexnet_dist.errors import RunError, UserError
from support.remote_server import HttpServer
from support.remote_sets import cache_bytes

SIZE = 40_000
FAST_RETRIES = RetryPolicy(waits_s=(0.01, 0.01), stall_s=2.0)


@dataclass(frozen=True)
class Store:
    """Files of SIZE bytes on a server, and a cache that holds some of them."""

    server: HttpServer
    folder: Path
    cache: Cache
    files: list[RemoteFile]

    def fetch(self, *numbers: int, prefetch: bool = False) -> list[bool]:
        """Fetch files in a separate process, like a loader's worker."""
        return in_child(lambda: [self.fetch_here(number, prefetch) for number in numbers])

    def fetch_here(self, number: int, prefetch: bool = False) -> bool:
        url = self.server.url(self.folder / self.files[number].name)
        return self.cache.fetch(self.files[number], url, FAST_RETRIES, prefetch)

    def fetching(self, *numbers: int) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=lambda: [self.fetch_here(number) for number in numbers], daemon=True
        )
        process.start()
        return process

    def held(self) -> list[int]:
        return [number for number, file in enumerate(self.files) if self.cache.path(file).exists()]

    def age(self, number: int, seconds: float) -> None:
        """Set the last touch of a cached file to so many seconds ago."""
        touched_s = time.time() - seconds
        os.utime(self.cache.path(self.files[number]), (touched_s, touched_s))


@pytest.fixture
def store(tmp_path: Path, http_server: HttpServer) -> Store:
    folder = tmp_path / "files"
    folder.mkdir()
    files = []
    for number in range(6):
        content = bytes([number]) * SIZE
        (folder / f"{number}.tar").write_bytes(content)
        files.append(RemoteFile(f"{number}.tar", hashlib.sha256(content).hexdigest(), SIZE))
    return Store(http_server, folder, Cache(tmp_path / "deep" / "cache", 3 * SIZE + SIZE // 2), files)


@contextmanager
def watched(folder: Path) -> Iterator[Callable[[], int]]:
    """Watch the size of a folder; the yielded function returns the largest size seen."""
    largest, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            largest[0] = max(largest[0], cache_bytes(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: largest[0]
    finally:
        stop.set()
        watcher.join()


def test_a_file_has_its_hash_for_a_name_and_comes_once(store: Store) -> None:
    assert store.fetch(2, 2) == [True, True]
    assert store.fetch(2) == [True]
    assert store.server.gets() == {"2.tar": 1}
    path = store.cache.path(store.files[2])
    assert path == store.cache.folder / f"{store.files[2].sha256}.tar"
    assert path.read_bytes() == bytes([2]) * SIZE
    assert sorted(entry.name for entry in store.cache.folder.iterdir()) == [".lock", path.name]


def test_several_processes_download_each_file_once(store: Store) -> None:
    store.server.fail({store.folder / f"{number}.tar": ["trickle"] for number in range(3)})
    processes = [store.fetching(*numbers) for numbers in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert store.server.gets() == {"0.tar": 1, "1.tar": 1, "2.tar": 1}
    assert store.held() == [0, 1, 2]


def test_the_least_recently_touched_makes_room(store: Store) -> None:
    store.fetch(0, 1, 2)
    for number, seconds in ((0, 5.0), (1, 50.0), (2, 20.0)):
        store.age(number, seconds)
    store.fetch(3)
    assert store.held() == [0, 2, 3]
    assert store.cache.touch(store.files[2])
    store.fetch(4)
    assert store.held() == [2, 3, 4]
    assert not store.cache.touch(store.files[0])


def test_what_is_fetched_ahead_takes_no_room_that_is_in_use(store: Store) -> None:
    store.fetch(0, 1, 2)
    for number, seconds in ((0, 5.0), (1, 9.0), (2, 7.0)):
        store.age(number, seconds)
    assert store.fetch(3, prefetch=True) == [False]
    assert store.held() == [0, 1, 2]
    store.age(0, cache_module.IN_USE_S + 1)
    assert store.fetch(3, prefetch=True) == [True]
    assert store.held() == [1, 2, 3]
    assert store.fetch(4) == [True]  # a fetch that is needed now evicts the oldest
    assert store.held() == [2, 3, 4]


def test_the_cache_never_grows_beyond_its_limit(store: Store) -> None:
    processes = [store.fetching(*[(first + step) % 6 for step in range(18)]) for first in (0, 2, 3)]
    with watched(store.cache.folder) as largest:  # after the forks, which would inherit the lock held by the watcher
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
    assert 2 * SIZE < largest() <= store.cache.max_bytes


def test_a_killed_download_is_cleaned_up_and_done_again(store: Store) -> None:
    store.server.fail({store.folder / "0.tar": ["slow"], store.folder / "1.tar": ["slow"]})
    killed = [store.fetching(0), store.fetching(1)]
    deadline_s = time.monotonic() + 10
    while cache_bytes(store.cache.folder) < 2 * SIZE and time.monotonic() < deadline_s:
        time.sleep(0.01)
    for process in killed:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    parts = [path for path in store.cache.folder.iterdir() if path.suffix == ".part"]
    assert len(parts) == 2  # at full size, so that running downloads count towards the limit
    assert cache_bytes(store.cache.folder) == 2 * SIZE
    store.fetch(0)
    assert store.cache.path(store.files[0]).read_bytes() == bytes([0]) * SIZE
    assert not [path for path in store.cache.folder.iterdir() if path.suffix == ".part"]
    store.fetch(2, 3)
    assert store.held() == [0, 2, 3]


def test_files_of_others_are_neither_counted_nor_removed(store: Store) -> None:
    store.cache.folder.mkdir(parents=True)
    foreign = [store.cache.folder / name for name in ("thesis.tar", "a.part", "0" * 64, f"{'0' * 64}.tar.gz")]
    for path in foreign:
        path.write_bytes(b"x" * 10 * SIZE)
        os.utime(path, (0, 0))
    store.fetch(0, 1, 2, 3)
    assert all(path.exists() for path in foreign)
    assert len(store.held()) == 3


def test_wrong_bytes_never_get_a_name(store: Store) -> None:
    store.server.fail({store.folder / "0.tar": ["wrong*"]})
    with pytest.raises(UserError) as caught:
        store.fetch(0)
    expected = store.files[0].sha256[:12]
    url = store.server.url(store.folder / "0.tar")
    assert str(caught.value).startswith(f"{url}: {SIZE:,} bytes with sha256 ")
    assert f"expected {expected}... by its manifest" in str(caught.value)
    assert [path.name for path in store.cache.folder.iterdir()] == [".lock"]


def test_a_try_that_failed_leaves_nothing_in_the_next(store: Store) -> None:
    store.server.fail({store.folder / "0.tar": ["truncated", "wrong"]})
    assert store.fetch(0) == [True]
    assert store.cache.path(store.files[0]).read_bytes() == bytes([0]) * SIZE


def test_no_byte_is_written_beyond_what_is_reserved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.server.fail({store.folder / "0.tar": ["longer*"]})

    def highest_byte_written() -> int:
        ends, pwrite = [0], os.pwrite

        def write(descriptor: int, chunk: bytes, offset: int) -> int:
            ends.append(offset + len(chunk))
            return pwrite(descriptor, chunk, offset)

        monkeypatch.setattr(os, "pwrite", write)
        with pytest.raises(UserError, match="more than the expected"):
            store.fetch_here(0)
        return max(ends)

    assert in_child(highest_byte_written) <= SIZE


def test_a_damaged_file_is_dropped(store: Store) -> None:
    store.fetch(0)
    path = store.cache.path(store.files[0])
    assert not store.cache.drop_if_damaged(store.files[0])
    path.write_bytes(bytes(SIZE - 1) + b"x")
    assert store.cache.drop_if_damaged(store.files[0])
    assert not path.exists()


def test_what_can_never_fit_is_refused(store: Store) -> None:
    file = RemoteFile("0.tar", "0" * 64, store.cache.max_bytes + 1)
    with pytest.raises(
        UserError, match=r"data\.cache_bytes: 140,000 is less than the 140,001 bytes of http://h/0\.tar"
    ):
        store.cache.fetch(file, "http://h/0.tar", FAST_RETRIES)


def test_a_cache_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"data\.cache: {tmp_path}/file/cache cannot be written: Not a directory"):
        Cache(tmp_path / "file" / "cache", 10 * SIZE).fetch(store.files[0], "http://h/0.tar", FAST_RETRIES)


def test_a_full_disk_is_reported_and_not_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _descriptor, chunk, _offset: len(chunk) - 1)
    with pytest.raises(
        RunError, match=r"data\.cache: 0\.tar not written: No space left on device; free space on that disk"
    ):
        store.fetch(0)
    assert store.server.gets() == {"0.tar": 1}
    assert store.held() == []
