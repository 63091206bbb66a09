"""Durable writes, which leave a file's old content or all of the new after a crash; and file locks."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO, TextIO


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk: a rename in it is durable only after that. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(temporary: Path, path: Path) -> None:
    """Sync a complete file to disk, then rename it to `path`, in the same folder. Raises OSError."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as ``<name>.tmp``, then rename it, so that `path` is never half-written.

    The temporary name is fixed: a killed writer leaves at most one, which the next writer removes. Two writers of
    one path need a lock. Raises OSError.
    """
    temporary = temporary_of(path)
    with open_new(temporary) as file:
        file.write(content)
    replace_durably(temporary, path)


def temporary_of(path: Path) -> Path:
    """Return the path under which a file is written before it is renamed: ``<name>.tmp`` beside it."""
    return path.with_name(path.name + ".tmp")


def open_new(path: Path) -> BinaryIO:
    """Create a file for writing in place of what a killed writer has left there. Raises OSError.

    It is created exclusively: a symbolic link that somebody has put there is removed and not followed, so that nothing
    else is overwritten.
    """
    path.unlink(missing_ok=True)
    return path.open("xb")


def without_links(path: str, flags: int) -> int:
    """Open a file for `open`, but not through a symbolic link that stands there; raises OSError."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def lock_file(path: Path) -> TextIO | None:
    """Lock a file, created if missing, and return it open in mode ``a+``; None if another process holds the lock.

    The lock lasts until the file is closed or the process ends, however it ends. It is a POSIX lock (lockf) and not a
    flock, because forked workers inherit a flock and would keep it after the process that took it has died.

    A POSIX lock belongs to the process: locking twice in one process succeeds, and closing any handle of the file
    releases the lock. Raises OSError if the file cannot be opened or its file system has no locks.
    """
    file = open(path, "a+", opener=without_links)  # noqa: SIM115  # Path.open takes no opener
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX lets a system report a held lock by either
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
