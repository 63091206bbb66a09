"""A bounded folder of files named by their sha256, which several processes of a node fill and read concurrently.

One process downloads a file, under a lock, into `<sha256>.<suffix>.part` and renames it once its hash matches, so a
file under its final name is complete. The least recently touched files are evicted to make room. Readers open a file
for each read and fetch it again if it is gone, so evicting a file in use costs only time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.data.download import RetryPolicy, download
from alexnet_dist.errors import RunError, UserError

# A file touched within this time is in use: prefetching never evicts it, only a process that needs room at once does.
IN_USE_S = 10.0
ROOM_POLL_S = 0.05
CACHE_FILE = re.compile(r"[0-9a-f]{64}\.(tar|npy)(\.part)?")


@dataclass(frozen=True)
class RemoteFile:
    """A file listed in a manifest. name: relative to the remote root. max_bytes: upper bound on its size."""

    name: str
    sha256: str
    max_bytes: int


@dataclass(frozen=True)
class Cache:
    """The folder and its limit: the files, with running downloads at full size, never exceed max_bytes in total."""

    folder: Path
    max_bytes: int

    def path(self, file: RemoteFile) -> Path:
        """Return the path of a file in the cache, whether or not it is there."""
        return self.folder / f"{file.sha256}{Path(file.name).suffix}"

    def touch(self, file: RemoteFile) -> bool:
        """Mark a file as in use; return whether it is in the cache."""
        try:
            os.utime(self.path(file))
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # another user's file, which is still readable
        return True

    def fetch(self, file: RemoteFile, url: str, retry_policy: RetryPolicy, prefetch: bool = False) -> bool:
        """Download a file unless it is in the cache; return whether it is there afterwards.

        prefetch: do not evict files in use and do not wait for other processes, but return False instead.
        Raises UserError if the file is larger than the whole cache, and the errors of download.
        """
        if file.max_bytes > self.max_bytes:
            raise UserError(
                f"data.cache_bytes: {self.max_bytes:,} is less than the {file.max_bytes:,} bytes of {url} alone;"
                " raise it"
            )
        with self._locked_part(file, wait=not prefetch) as part:
            if part is None:
                return False
            if self.touch(file):
                return True
            while not self._reserve(part, file.max_bytes, prefetch):
                if prefetch:
                    return False
                time.sleep(ROOM_POLL_S)
            sink = _PartFileSink(part, file)
            download(url, file.max_bytes, sink, retry_policy)
            os.ftruncate(part, sink.received)
            # Without the lock, a process that is listing the folder could miss the file under both names.
            with self._folder_locked():
                self._part_path(file).rename(self.path(file))
        return True

    def drop_if_damaged(self, file: RemoteFile) -> bool:
        """Remove a cached file whose hash does not match, as after a power failure; return whether it is gone."""
        try:
            with self.path(file).open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return True
        if sha256 == file.sha256:
            return False
        self.path(file).unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _locked_part(self, file: RemoteFile, wait: bool) -> Iterator[int | None]:
        """Lock a file's `.part` file; yield its descriptor, or None if another process holds it and wait is false.

        flock ties the lock to the open file, so the kernel releases it when the process is killed.
        """
        path = self._part_path(file)
        part = self._lock(path, wait)
        try:
            yield part
        finally:
            if part is not None:
                if _is_same_file(part, path):
                    path.unlink(missing_ok=True)
                os.close(part)

    def _part_path(self, file: RemoteFile) -> Path:
        path = self.path(file)
        return path.with_name(path.name + ".part")

    def _lock(self, path: Path, wait: bool = True) -> int | None:
        while True:
            descriptor = self._open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return None
            # The previous holder may have renamed or removed the file before we got the lock.
            if _is_same_file(descriptor, path):
                return descriptor
            os.close(descriptor)

    def _open(self, path: Path) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(
                f"data.cache: {self.folder} cannot be written: {error.strerror}; name another directory"
            ) from None

    def _reserve(self, part: int, size_bytes: int, prefetch: bool) -> bool:
        """Evict files and extend the part file, sparsely, to its full size; return False if there is no room."""
        with self._folder_locked():
            files = self._files()
            missing_bytes = sum(size for _, size, _ in files) + size_bytes - self.max_bytes
            newest_s = time.time() - IN_USE_S if prefetch else float("inf")
            for touched_s, size, path in sorted(files):
                if missing_bytes <= 0 or touched_s > newest_s:
                    break
                if path.suffix != ".part":
                    path.unlink(missing_ok=True)
                    missing_bytes -= size
            if missing_bytes <= 0:
                os.ftruncate(part, size_bytes)
            return missing_bytes <= 0

    @contextlib.contextmanager
    def _folder_locked(self) -> Iterator[None]:
        """Hold the folder's lock, under which files are counted, evicted and renamed."""
        descriptor = self._lock(self.folder / ".lock")
        assert descriptor is not None
        try:
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (last touch in seconds, size in bytes, path) of each cache file; remove abandoned part files."""
        files = []
        for entry in os.scandir(self.folder):
            if not CACHE_FILE.fullmatch(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                path = Path(entry.path)
                if not (entry.name.endswith(".part") and _remove_if_abandoned(path)):
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
        return files


class _PartFileSink:
    """The sink of a download into a part file of reserved size; hashes the bytes as it writes them."""

    def __init__(self, descriptor: int, file: RemoteFile) -> None:
        self._descriptor, self._file = descriptor, file
        self.received = 0

    def reset(self) -> None:
        """Discard the bytes of an earlier attempt."""
        self._hash, self.received = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Write a chunk unless it exceeds the reserved size; such a download is stopped by its caller."""
        if self.received + len(chunk) <= self._file.max_bytes:
            try:
                if os.pwrite(self._descriptor, chunk, self.received) < len(chunk):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise RunError(
                    f"data.cache: {self._file.name} not written: {error.strerror}; free space on that disk"
                ) from None
            self._hash.update(chunk)
        self.received += len(chunk)

    def problem(self) -> str | None:
        """Compare the hash of the received bytes with the manifest's."""
        sha256 = self._hash.hexdigest()
        if sha256 == self._file.sha256:
            return None
        return (
            f"{self.received:,} bytes with sha256 {sha256[:12]}..., expected {self._file.sha256[:12]}... by its"
            f" manifest (at most {self._file.max_bytes:,} bytes)"
        )


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether the path still names the open file."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _remove_if_abandoned(part: Path) -> bool:
    """Remove a part file that no process has locked, as a killed process leaves it; return whether it did."""
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
