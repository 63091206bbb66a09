"""Images that a user names: files, folders, URLs, and the standard input as `-`; each is read when it is its turn."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from alexnet_dist.data.download import RetryPolicy, download, load_library
from alexnet_dist.data.urls import parse_url
from alexnet_dist.errors import RunError, UserError

LARGEST_FILE_BYTES = 1 << 29  # as for a file that is packed
STANDARD_INPUT = "-"
# A person waits: not as often and as long as for a shard.
RETRIES = RetryPolicy(waits_s=(0.5, 1.0), stall_s=15.0)
EXPECTED = "an image file such as a JPEG, PNG or WebP"


@dataclass(frozen=True)
class Picture:
    """An image by its name: a path, a URL, or - for the standard input."""

    name: str

    def read(self) -> bytes:
        """Return the contents of the file. Raises UserError, which begins with its name, if it cannot be read."""
        if self.name == STANDARD_INPUT:
            return _limited(self.name, sys.stdin.buffer.read(LARGEST_FILE_BYTES + 1))
        if parse_url("IMAGE", self.name, "file") is not None:
            return _download(self.name)
        return _read_file(Path(self.name))


def find_pictures(names: Sequence[str]) -> tuple[list[Picture], int]:
    """Return the images that names stand for, and how many files of folders are left out as their names are no image's.

    A folder stands for the images in it and in its folders, in the order of their paths; hidden ones are left out.
    Raises UserError for a folder without images, and if the standard input is named more than once.
    """
    if list(names).count(STANDARD_INPUT) > 1:
        raise UserError("-: the standard input is named twice; it holds one image")
    pictures, others = [], 0
    for name in names:
        if name == STANDARD_INPUT or parse_url("IMAGE", name, "file") is not None or not Path(name).is_dir():
            pictures.append(Picture(name))
            continue
        found = list(_files(Path(name)))
        images = [path for path in found if path.suffix.lower() in _suffixes()]
        if not images:
            raise UserError(f"{name}: a folder without images; expected files such as a.jpg, b.png in it")
        pictures += [Picture(str(path)) for path in images]
        others += len(found) - len(images)
    return pictures, others


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file():
            yield path


@cache
def _suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow reads."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


class _Memory:
    """The sink of an image's download."""

    def __init__(self) -> None:
        self.content = bytearray()

    def reset(self) -> None:
        self.content.clear()

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def problem(self) -> str | None:
        return None if self.content else "empty file"


def _download(url: str) -> bytes:
    load_library(url)
    sink = _Memory()
    try:
        download(url, LARGEST_FILE_BYTES, sink, RETRIES, EXPECTED, "expected " + EXPECTED)
    except RunError as error:
        raise UserError(str(error)) from None
    return bytes(sink.content)


def _read_file(path: Path) -> bytes:
    """Return the contents of a regular file; a FIFO, which would block, and any other kind are refused."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; save the image to a file first")
        with path.open("rb") as file:
            return _limited(str(path), file.read(LARGEST_FILE_BYTES + 1))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected {EXPECTED}") from None


def _limited(name: str, content: bytes) -> bytes:
    if len(content) > LARGEST_FILE_BYTES:
        raise UserError(f"{name}: more than {LARGEST_FILE_BYTES:,} bytes; expected one image")
    return content
