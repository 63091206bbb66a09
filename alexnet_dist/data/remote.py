"""A packed set under a URL: its manifest read anew at each opening, everything else by way of the node's cache."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from alexnet_dist import process
from alexnet_dist.data.cache import Blob, Cache
from alexnet_dist.data.download import RetryPolicy, download, load_library
from alexnet_dist.data.manifest import INDEX_DTYPE, Manifest, Sidecar, parse
from alexnet_dist.errors import RunError, UserError

SCHEMES = ("http", "https", "s3")
# ImageNet's manifest has 0.4 MB, and 15 million images would have 6; one that lists what was rejected may have more.
MOST_MANIFEST_BYTES = 256 << 20
# Index and mean are held in memory: enough for 50 million images.
MOST_SIDECAR_BYTES = 1 << 30
HEADER_BYTES = 4096  # more than the header of a .npy file has
# Between a reader's touches of a shard, well within cache.IN_USE_S.
TOUCH_S = 1.0
# Fetches of one file in a row, each removed again before it could be opened.
TRIES = 10

Answer = TypeVar("Answer")


def locate(root: str, cache: str, cache_bytes: int, patience: RetryPolicy | None = None) -> Path | Remote:
    """Return the folder or the remote place that data.root names; cache and cache_bytes are data.cache's.

    Raises UserError for a scheme that is not read, `pipe:` for one, and where the library for it is not installed.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", root)
    if scheme is None:
        return _folder("data.root", root)
    # A password would stand in config.yaml, in messages and in logs.
    told = re.sub("//.*@", "//...@", root)
    if scheme[1].lower() not in SCHEMES:
        raise UserError(
            f"data.root: {told}: scheme {scheme[1]!r} is not read; expected a folder, or a URL that begins with"
            f" {', '.join(f'{known}://' for known in SCHEMES)} (a folder with a colon in its name: ./{told})"
        )
    try:
        parts = urlsplit(root)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # whose text may hold a part of the password
        raise UserError(
            f"data.root: {told}: no URL; expected SCHEME://HOST:PORT/FOLDER, the port a number from 1 to 65535 or left"
            " out with its colon, and an IPv6 address in [brackets]"
        ) from None
    if not named or parts.query or parts.fragment:
        raise UserError(f"data.root: {told}: expected SCHEME://HOST/FOLDER, without query or fragment")
    if "@" in parts.netloc:
        raise UserError(
            f"data.root: {parts.scheme}://...@{parts.hostname}: holds a user's name or password; leave it out, and give"
            " it in fsspec's configuration or the AWS libraries' own files"
        )
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    load_library(url)
    return Remote(url, Cache(_folder("data.cache", cache), cache_bytes), patience or RetryPolicy())


def _folder(key: str, name: str) -> Path:
    """Return a folder, ~ and ~USER written out; UserError, naming the key, where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: {name}: no user of that name with a home directory; expected ~, ~USER, or (a folder of that name)"
            f" ./{name}"
        ) from None


class Remote:
    """A packed set under a URL; see shards.Files."""

    def __init__(self, url: str, cache: Cache, patience: RetryPolicy) -> None:
        self.url, self.cache, self.patience = url, cache, patience
        self._sidecars: dict[str, Blob] = {}  # of the manifests read, by sha256

    def __str__(self) -> str:
        return self.url

    def manifest(self, split: str) -> Manifest:
        """Read the manifest, and bring what it names beside the shards into the cache.

        A forked child does it, for the sake of this process's own forks; see download.
        """
        name = f"{split}.manifest.json"
        manifest = parse(in_child(lambda: self._bring(name)), f"{self.url}/{name}")
        self._sidecars |= {blob.sha256: blob for blob in sidecars(manifest, f"{self.url}/{name}")}
        return manifest

    def sidecar(self, sidecar: Sidecar) -> bytes:
        """Read an index or a mean of a manifest read before; in a small cache it may have made room for the other."""
        blob = self._sidecars[sidecar.sha256]
        try:
            return self.cache.path(blob).read_bytes()
        except FileNotFoundError:
            return in_child(lambda: self._fetched(blob))

    def shards(self, manifest: Manifest) -> CachedShards:
        """Check that each shard fits the cache; it is fetched when it is read."""
        name = f"{self.url}/{manifest.split}.manifest.json"
        for shard in manifest.shards:
            if shard.size_bytes > self.cache.most_bytes:
                raise UserError(
                    f"{name}: shard {shard.name} has {shard.size_bytes:,} bytes, more than data.cache_bytes ="
                    f" {self.cache.most_bytes:,}; raise that, or pack with fewer --samples-per-shard"
                )
        return CachedShards(self, [Blob(shard.name, shard.sha256, shard.size_bytes) for shard in manifest.shards])

    def fetch(self, blob: Blob, spare: bool = False) -> bool:
        """Make sure that a blob is in the cache; see Cache.fetch."""
        return self.cache.fetch(blob, f"{self.url}/{blob.name}", self.patience, spare)

    def _fetched(self, blob: Blob) -> bytes:
        for _ in range(TRIES):
            self.fetch(blob)
            with contextlib.suppress(FileNotFoundError):
                return self.cache.path(blob).read_bytes()
        raise removed(self.cache.path(blob))

    def _bring(self, name: str) -> bytes:
        text = _Text(f"{self.url}/{name}")
        download(f"{self.url}/{name}", MOST_MANIFEST_BYTES, text, self.patience)
        manifest = parse(bytes(text.content), f"{self.url}/{name}", fix_of(text.content))
        for blob in sidecars(manifest, f"{self.url}/{name}"):
            self.fetch(blob)
            if self.cache.drop_if_damaged(blob):
                self.fetch(blob)
        return bytes(text.content)


class CachedShards:
    """Shards read from the cache, each fetched by whoever misses it first.

    A file is opened for each read, 5 us for an ImageNet sample: nothing of it is mapped, and what the cache removes
    is gone from the disk at once.
    """

    def __init__(self, remote: Remote, blobs: list[Blob]) -> None:
        self.remote, self.blobs = remote, blobs
        self._paths = [str(remote.cache.path(blob)) for blob in blobs]
        self._touched_s = [0.0] * len(blobs)
        self._checked: set[int] = set()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Read from the cached file, fetching it first where it is missing.

        Raises as Cache.fetch does, and RunError where the file cannot be read.
        """
        try:
            return self._read(shard, offset, size)
        except OSError as error:
            raise RunError(
                f"{self._paths[shard]}: {error.strerror or error}; look at the disk and who may read it, or name"
                " another data.cache"
            ) from None

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        descriptor = self._open(shard)
        try:
            now_s = time.monotonic()
            if now_s > self._touched_s[shard] + TOUCH_S:
                self._touched_s[shard] = now_s
                self.remote.cache.touch(self.blobs[shard])
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def mend(self, shard: int) -> bool:
        """Fetch a shard anew where the cached file does not have its hash; checked once in a process."""
        if shard in self._checked:
            return False
        self._checked.add(shard)
        return self.remote.cache.drop_if_damaged(self.blobs[shard])

    def _open(self, shard: int) -> int:
        for _ in range(TRIES):
            try:
                return os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self.remote.fetch(self.blobs[shard])
        raise removed(self._paths[shard])


def removed(path: Path | str) -> RunError:
    """Return what to raise for a file of the cache that others have taken the room of, again and again."""
    return RunError(f"{path}: removed {TRIES} times before it was read; give the run a data.cache of its own")


class _Text:
    """The sink of a manifest's download: memory. What is wrong with it, its parser says."""

    def __init__(self, url: str) -> None:
        self.content, self._url = bytearray(), url

    def begin(self) -> None:
        self.content.clear()

    def write(self, chunk: bytes) -> None:
        self.content += chunk
        if len(self.content) > MOST_MANIFEST_BYTES:  # and will be at the next try
            raise UserError(
                f"{self._url}: more than {MOST_MANIFEST_BYTES:,} bytes, the most that is read of a remote manifest;"
                " check that data.root names a packed set, or copy it into a folder of this machine"
            )

    def problem(self) -> str | None:
        return None


def fix_of(content: bytes | bytearray) -> str:
    """Return what to do about bytes that a server gave for a manifest and that are none."""
    if not content.lstrip().startswith(b"{"):
        return f"check data.root: what the server sends there begins with {bytes(content[:40])!r}"
    return "check that the server sends the whole file, and copy the packed set there again, or pack it again"


def sidecars(manifest: Manifest, name: str) -> list[Blob]:
    """Return the files beside a manifest's shards; UserError, naming it as `name`, where they could not be held."""
    index_bytes = manifest.images * INDEX_DTYPE.itemsize + HEADER_BYTES
    blobs = [Blob(manifest.index.name, manifest.index.sha256, index_bytes)]
    if manifest.mean:
        mean_bytes = 3 * manifest.size**2 * 4 + HEADER_BYTES
        blobs.append(Blob(manifest.mean.name, manifest.mean.sha256, mean_bytes))
    for blob in blobs:
        if blob.most_bytes > MOST_SIDECAR_BYTES:
            raise UserError(
                f"{name}: {manifest.images} images of {manifest.size} pixels a side make {blob.name} larger than"
                f" {MOST_SIDECAR_BYTES:,} bytes; expected the manifest of a packed set"
            )
    return blobs


def in_child(work: Callable[[], Answer]) -> Answer:
    """Do work in a forked process and return its answer, or raise its error; both must be picklable."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(os.getpid(), work, sender), daemon=True)
    child.start()
    sender.close()
    try:
        is_answer, value = receiver.recv()
    except EOFError:
        raise RunError("a process that was to read the remote manifest has died; is there memory enough?") from None
    finally:
        receiver.close()
        child.kill()
        child.join()
        child.close()
    if is_answer:
        answer: Answer = value
        return answer
    raise value


def _work(parent: int, work: Callable[[], Answer], sender: Connection) -> None:
    process.die_with_parent(parent)
    process.ignore([signal.SIGINT])  # Ctrl-C is for the parent to act on, and ends this process with it
    try:
        sender.send((True, work()))
    except Exception as error:
        sender.send((False, error))
