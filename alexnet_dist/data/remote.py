"""A packed set under a URL: the manifest is downloaded each time the set is opened, all other files are cached."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from alexnet_dist.data.cache import Cache, RemoteFile
from alexnet_dist.data.download import RetryPolicy, download, load_library
from alexnet_dist.data.manifest import INDEX_DTYPE, Manifest, Sidecar, parse
from alexnet_dist.data.urls import parse_url, redact
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system import process
from alexnet_dist.system.signals import ignore_signals

# ImageNet's manifest has 0.4 MB, one of 15 million images 6 MB; a list of rejected images can make it larger.
MAX_MANIFEST_BYTES = 256 << 20
# Index and mean are held in memory; this is enough for 50 million images.
MAX_SIDECAR_BYTES = 1 << 30
HEADER_BYTES = 4096  # more than the header of a .npy file needs
# Between two touches of a shard by its reader, well within cache.IN_USE_S.
TOUCH_S = 1.0
# Consecutive fetches of a file that is evicted each time before it can be opened.
MAX_FETCHES = 10

Result = TypeVar("Result")


def locate(root: str, cache: str, cache_bytes: int, retry_policy: RetryPolicy | None = None) -> Path | Remote:
    """Return the folder or the remote set that data.root names; cache and cache_bytes are data.cache and its limit.

    Raises UserError for an unsupported scheme, such as `pipe:`, and if the library for the scheme is not installed.
    """
    parts = parse_url("data.root", root, "folder")
    if parts is None:
        return folder("data.root", root)
    if parts.query or parts.fragment:
        raise UserError(f"data.root: {redact(root)}: expected SCHEME://HOST/FOLDER, without query or fragment")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    load_library(url)
    return Remote(url, Cache(folder("data.cache", cache), cache_bytes), retry_policy or RetryPolicy())


def folder(key: str, name: str) -> Path:
    """Return a folder with ~ and ~USER expanded; UserError naming the key if there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: {name}: no user of that name with a home directory; expected ~ or ~USER, or, for a folder of"
            f" that name, ./{name}"
        ) from None


class Remote:
    """A packed set under a URL; see shards.Files."""

    def __init__(self, url: str, cache: Cache, retry_policy: RetryPolicy) -> None:
        self.url, self.cache, self.retry_policy = url, cache, retry_policy
        self._sidecars: dict[str, RemoteFile] = {}  # by sha256, of all manifests read

    def __str__(self) -> str:
        return self.url

    def manifest(self, split: str) -> Manifest:
        """Download the manifest, and fetch its index and mean into the cache.

        Runs in a forked child, because this process forks later; see download.
        """
        name = f"{split}.manifest.json"
        manifest = parse(in_child(lambda: self._download_manifest(name)), f"{self.url}/{name}")
        self._sidecars |= {file.sha256: file for file in sidecars(manifest, f"{self.url}/{name}")}
        return manifest

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Return the bytes of an index or mean of a manifest read before; fetches it again if it was evicted."""
        file = self._sidecars[sidecar.sha256]
        try:
            return self.cache.path(file).read_bytes()
        except FileNotFoundError:
            return in_child(lambda: self._fetch_and_read(file))

    def shards(self, manifest: Manifest) -> CachedShards:
        """Check that each shard fits into the cache; shards are fetched when they are read."""
        name = f"{self.url}/{manifest.split}.manifest.json"
        for shard in manifest.shards:
            if shard.size_bytes > self.cache.max_bytes:
                raise UserError(
                    f"{name}: shard {shard.name} has {shard.size_bytes:,} bytes, more than data.cache_bytes ="
                    f" {self.cache.max_bytes:,}; raise it, or pack with fewer --samples-per-shard"
                )
        return CachedShards(self, [RemoteFile(shard.name, shard.sha256, shard.size_bytes) for shard in manifest.shards])

    def fetch(self, file: RemoteFile, prefetch: bool = False) -> bool:
        """Fetch a file into the cache unless it is there; see Cache.fetch."""
        return self.cache.fetch(file, f"{self.url}/{file.name}", self.retry_policy, prefetch)

    def _fetch_and_read(self, file: RemoteFile) -> bytes:
        for _ in range(MAX_FETCHES):
            self.fetch(file)
            with contextlib.suppress(FileNotFoundError):
                return self.cache.path(file).read_bytes()
        raise eviction_error(self.cache.path(file))

    def _download_manifest(self, name: str) -> bytes:
        sink = _ManifestSink(f"{self.url}/{name}")
        download(f"{self.url}/{name}", MAX_MANIFEST_BYTES, sink, self.retry_policy)
        manifest = parse(bytes(sink.content), f"{self.url}/{name}", manifest_fix(sink.content))
        for file in sidecars(manifest, f"{self.url}/{name}"):
            self.fetch(file)
            if self.cache.drop_if_damaged(file):
                self.fetch(file)
        return bytes(sink.content)


class CachedShards:
    """Shards read from the cache; the first process that misses one fetches it.

    Each read opens the file, which costs 5 us for an ImageNet sample. Nothing stays mapped, so an evicted file frees
    its disk space at once.
    """

    def __init__(self, remote: Remote, files: list[RemoteFile]) -> None:
        self.remote, self.files = remote, files
        self._paths = [str(remote.cache.path(file)) for file in files]
        self._touched_s = [0.0] * len(files)
        self._checked: set[int] = set()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return a shard's bytes [offset, offset + size) from the cache, fetching the file first if it is missing.

        Raises the errors of Cache.fetch, and RunError if the file cannot be read.
        """
        try:
            return self._read(shard, offset, size)
        except OSError as error:
            raise RunError(
                f"{self._paths[shard]}: {error.strerror or error}; check the disk and the file's permissions, or"
                " name another data.cache"
            ) from None

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        descriptor = self._open(shard)
        try:
            now_s = time.monotonic()
            if now_s > self._touched_s[shard] + TOUCH_S:
                self._touched_s[shard] = now_s
                self.remote.cache.touch(self.files[shard])
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def refetch(self, shard: int) -> bool:
        """Drop a shard whose cached file has a wrong hash, so that the next read fetches it; return whether it did.

        Each process checks a shard only once.
        """
        if shard in self._checked:
            return False
        self._checked.add(shard)
        return self.remote.cache.drop_if_damaged(self.files[shard])

    def _open(self, shard: int) -> int:
        for _ in range(MAX_FETCHES):
            try:
                return os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self.remote.fetch(self.files[shard])
        raise eviction_error(self._paths[shard])


def eviction_error(path: Path | str) -> RunError:
    """Return the error for a cached file that other processes evict again and again before it is read."""
    return RunError(f"{path}: evicted {MAX_FETCHES} times before it was read; give the run its own data.cache")


class _ManifestSink:
    """The sink of a manifest's download, in memory; the content is checked when it is parsed."""

    def __init__(self, url: str) -> None:
        self.content, self._url = bytearray(), url

    def reset(self) -> None:
        self.content.clear()

    def write(self, chunk: bytes) -> None:
        self.content += chunk
        if len(self.content) > MAX_MANIFEST_BYTES:  # no use retrying
            raise UserError(
                f"{self._url}: more than {MAX_MANIFEST_BYTES:,} bytes, the limit for a remote manifest; check that"
                " data.root names a packed set, or copy it into a folder on this machine"
            )

    def problem(self) -> str | None:
        return None


def manifest_fix(content: bytes | bytearray) -> str:
    """Return the fix to name in the error if a server's bytes do not parse as a manifest."""
    if not content.lstrip().startswith(b"{"):
        return f"check data.root: the response begins with {bytes(content[:40])!r}"
    return "check that the server sends the whole file, and copy the packed set there again, or pack it again"


def sidecars(manifest: Manifest, name: str) -> list[RemoteFile]:
    """Return a manifest's index and mean; UserError beginning with `name` if one is too large for memory."""
    index_bytes = manifest.images * INDEX_DTYPE.itemsize + HEADER_BYTES
    files = [RemoteFile(manifest.index.name, manifest.index.sha256, index_bytes)]
    if manifest.mean:
        mean_bytes = 3 * manifest.size**2 * 4 + HEADER_BYTES
        files.append(RemoteFile(manifest.mean.name, manifest.mean.sha256, mean_bytes))
    for file in files:
        if file.max_bytes > MAX_SIDECAR_BYTES:
            raise UserError(
                f"{name}: {manifest.images} images of {manifest.size} pixels a side make {file.name} larger than"
                f" {MAX_SIDECAR_BYTES:,} bytes; expected the manifest of a packed set"
            )
    return files


def in_child(function: Callable[[], Result]) -> Result:
    """Call a function in a forked process and return its result or raise its error; both must be picklable."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call_and_send, args=(os.getpid(), function, sender), daemon=True)
    child.start()
    sender.close()
    try:
        is_result, value = receiver.recv()
    except EOFError:
        raise RunError("the process that reads the remote manifest died; check that there is enough memory") from None
    finally:
        receiver.close()
        child.kill()
        child.join()
        child.close()
    if is_result:
        result: Result = value
        return result
    raise value


def _call_and_send(parent_pid: int, function: Callable[[], Result], sender: Connection) -> None:
    process.die_with_parent(parent_pid)
    ignore_signals([signal.SIGINT])  # the parent handles Ctrl-C, and this process ends with it
    try:
        sender.send((True, function()))
    except Exception as error:
        sender.send((False, error))
