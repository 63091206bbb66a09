"""Images that a user names: files, folders, URLs, and the standard input as `-`; each is read when it is its turn."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image

from alexnet_dist.data.download import RetryPolicy, download, load_library
from alexnet_dist.data.urls import is_url, parse_url
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.wording import counted

LARGEST_FILE_BYTES = 1 << 29  # as for a file that is packed
LARGEST_DOWNLOAD_BYTES = 1 << 26
STANDARD_INPUT = "-"
# A person waits: not as often and as long as for a shard.
RETRIES = RetryPolicy(waits_s=(0.5, 1.0), stall_s=15.0)
EXPECTED = "an image file such as a JPEG, PNG or WebP"


@dataclass(frozen=True)
class Picture:
    """An image by its name, which is that of a file, a URL, or - for the standard input."""

    name: str
    kind: Literal["file", "url", "standard input"] = "file"

    def read(self) -> bytes:
        """Return the contents of the file. Raises UserError, which contains its name, if it cannot be read."""
        if self.kind == "standard input":
            return _limited(self.name, sys.stdin.buffer.read(LARGEST_FILE_BYTES + 1))
        return _download(self.name) if self.kind == "url" else _read_file(Path(self.name))


def picture_of(name: str) -> Picture:
    """Return the image that a name stands for."""
    return Picture(name, "standard input" if name == STANDARD_INPUT else "url" if is_url(name) else "file")


def find_pictures(names: Sequence[str]) -> tuple[list[Picture], str]:
    """Return the images that names stand for, and a note on how many files of folders are left out, or nothing.

    A folder stands for the images in it and in its folders, in the order of their paths. Left out are hidden files and
    those whose names are no image's. Raises UserError for a folder without images or that cannot be read, and if the
    standard input is named more than once.
    """
    if list(names).count(STANDARD_INPUT) > 1:
        raise UserError("-: the standard input is named twice; it holds one image")
    pictures, left_out = [], 0
    for name in names:
        if not name:
            raise UserError("an image's name is empty; expected a file, a folder, a URL or -")
        picture = picture_of(name)
        if picture.kind != "file" or not _is_folder(name):
            pictures.append(picture)
            continue
        found = sorted(_files(Path(name)))
        images = [path for path in found if _is_image(path.relative_to(name))]
        if not images:
            raise UserError(f"{name}: a folder without images; expected files such as a.jpg, b.png in it")
        pictures += [Picture(str(path)) for path in images]
        left_out += len(found) - len(images)
    files = counted(left_out, "file")
    why = "links to folders, hidden, or with names that do not end as images' do"
    note = f"left out of folders: {files} ({why})" if left_out else ""
    return pictures, note


def _files(folder: Path) -> Iterator[Path]:
    """Yield all that is in a folder and in its folders, but folders; links to folders are yielded and not followed."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}; expected a folder that can be read") from None

    for home, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(home, name) for name in names)
        yield from (link for name in folders if (link := Path(home, name)).is_symlink())


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # such as a name that is too long: reading it will say so
        return False


def _is_image(path: Path) -> bool:
    """Return whether the path in a folder is that of an image, by its suffix, and not hidden."""
    return path.suffix.lower() in _suffixes() and not any(part.startswith(".") for part in path.parts)


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
    parse_url("IMAGE", url, "file")
    load_library(url)
    sink = _Memory()
    try:
        download(url, LARGEST_DOWNLOAD_BYTES, sink, RETRIES, EXPECTED, "expected " + EXPECTED)
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
