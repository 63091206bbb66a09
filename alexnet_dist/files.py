"""Files that are there whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file by way of ``<name>.tmp`` beside it, so that `path` holds its old content or all of the new.

    The temporary name is fixed, so that a killed writer leaves at most one, which the next writer takes over; two
    writers of one path need a lock. Raises OSError as the disk does.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
