"""A folder of files named by their sha256, bounded in size, that several processes of a node fill and read at once.

A file is downloaded by one process, under a lock, into `<sha256>.<suffix>.part`, and renamed when its hash is right:
what has its final name is whole. Room is made by removing the least recently touched files. A reader opens a file
anew for each read and fetches it again where it has gone, so removing one that is in use costs time and nothing else.
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

# Touched within this time, a file is in use: only a process that waits for room of its own takes it away.
IN_USE_S = 10.0
ROOM_POLL_S = 0.05
OURS = re.compile(r"[0-9a-f]{64}\.(tar|npy)(\.part)?")


@dataclass(frozen=True)
class Blob:
    """A file that a manifest promises. name: at the remote root. most_bytes: that it can have."""

    name: str
    sha256: str
    most_bytes: int


@dataclass(frozen=True)
class Cache:
    """The folder and its limit; the files' sizes, those under way in full, never add up to more than most_bytes."""

    folder: Path
    most_bytes: int

    def path(self, blob: Blob) -> Path:
        """Return where a blob lies, or would."""
        return self.folder / f"{blob.sha256}{Path(blob.name).suffix}"

    def touch(self, blob: Blob) -> bool:
        """Mark a blob as in use; return whether it is here."""
        try:
            os.utime(self.path(blob))
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # another user's file, which may be read all the same
        return True

    def fetch(self, blob: Blob, url: str, patience: RetryPolicy, spare: bool = False) -> bool:
        """Make sure that a blob is here, downloading it if no process has; return whether it is.

        spare: ahead of need. It then takes no room that is in use, waits for no other process, and may return False.
        Raises UserError where the blob is larger than the whole cache, and what download raises.
        """
        if blob.most_bytes > self.most_bytes:
            raise UserError(
                f"data.cache_bytes: {self.most_bytes:,} is less than the {blob.most_bytes:,} bytes of {url} alone;"
                " raise it"
            )
        with self._unfinished(blob, wait=not spare) as part:
            if part is None:
                return False
            if self.touch(blob):
                return True
            while not self._reserve(part, blob.most_bytes, spare):
                if spare:
                    return False
                time.sleep(ROOM_POLL_S)
            sink = _Part(part, blob)
            download(url, blob.most_bytes, sink, patience)
            os.ftruncate(part, sink.received)
            # A rename in the middle of another process's count would be in it under neither name.
            with self._alone():
                self._part_path(blob).rename(self.path(blob))
        return True

    def drop_if_damaged(self, blob: Blob) -> bool:
        """Remove a blob whose bytes are not those of its hash, as a power cut may leave it; return whether it was."""
        try:
            with self.path(blob).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return True
        if found == blob.sha256:
            return False
        self.path(blob).unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _unfinished(self, blob: Blob, wait: bool) -> Iterator[int | None]:
        """Hold a blob's `.part` file, alone among all processes; yield its descriptor, or None where it is held.

        The lock is flock's: it belongs to the open file, and the kernel drops it with a killed process.
        """
        path = self._part_path(blob)
        part = self._lock(path, wait)
        try:
            yield part
        finally:
            if part is not None:
                if _is_at(part, path):
                    path.unlink(missing_ok=True)
                os.close(part)

    def _part_path(self, blob: Blob) -> Path:
        path = self.path(blob)
        return path.with_name(path.name + ".part")

    def _lock(self, path: Path, wait: bool = True) -> int | None:
        while True:
            descriptor = self._open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return None
            # Whoever held it may have renamed or removed the file that we then have locked.
            if _is_at(descriptor, path):
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

    def _reserve(self, part: int, size_bytes: int, spare: bool) -> bool:
        """Give the part file its full size, in holes, having made room for it; return False where there is none."""
        with self._alone():
            files = self._files()
            missing = sum(size for _, size, _ in files) + size_bytes - self.most_bytes
            newest = time.time() - IN_USE_S if spare else float("inf")
            for touched_s, size, path in sorted(files):
                if missing <= 0 or touched_s > newest:
                    break
                if path.suffix != ".part":
                    path.unlink(missing_ok=True)
                    missing -= size
            if missing <= 0:
                os.ftruncate(part, size_bytes)
            return missing <= 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock under which the files of the cache are counted, made room among, and renamed."""
        descriptor = self._lock(self.folder / ".lock")
        assert descriptor is not None
        try:
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return time of last touch, size and path of each file of the cache, having removed those of dead writers."""
        files = []
        for entry in os.scandir(self.folder):
            if not OURS.fullmatch(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                path = Path(entry.path)
                if not (entry.name.endswith(".part") and _remove_if_abandoned(path)):
                    found = path.stat()
                    files.append((found.st_mtime, found.st_size, path))
        return files


class _Part:
    """The sink of a download: a part file of reserved size, hashed as it is written."""

    def __init__(self, descriptor: int, blob: Blob) -> None:
        self._descriptor, self._blob = descriptor, blob
        self.received = 0

    def begin(self) -> None:
        """Start over."""
        self._hash, self.received = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; not one goes beyond what is reserved, for there the download stops."""
        if self.received + len(chunk) <= self._blob.most_bytes:
            try:
                if os.pwrite(self._descriptor, chunk, self.received) < len(chunk):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise RunError(
                    f"data.cache: {self._blob.name} not written: {error.strerror}; make room there"
                ) from None
            self._hash.update(chunk)
        self.received += len(chunk)

    def problem(self) -> str | None:
        """Compare what has come with what the manifest says."""
        found = self._hash.hexdigest()
        if found == self._blob.sha256:
            return None
        return (
            f"{self.received:,} bytes with sha256 {found[:12]}..., expected {self._blob.sha256[:12]}... by its manifest"
            f" (at most {self._blob.most_bytes:,} bytes)"
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _remove_if_abandoned(part: Path) -> bool:
    """Remove a part file that nobody holds, as a killed process leaves it; return whether it was one."""
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
