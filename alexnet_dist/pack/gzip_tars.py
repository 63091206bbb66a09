"""Reads gzip-compressed tars, which can only be read sequentially."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from isal import igzip, igzip_lib

from alexnet_dist.errors import UserError
from alexnet_dist.pack.file_kinds import read_start, wrong_kind

# JPEGs hardly shrink in gzip, and a bomb grows a thousandfold. The ratio is not yet meaningful for the first MiBs.
MAX_RATIO, UNCHECKED_BYTES = 50, 64 << 20


class Readable(Protocol):
    """An open binary file that is read sequentially."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class ForwardReader:
    """Reads a stream that cannot seek, at growing offsets; the bytes between two reads are skipped."""

    CHUNK_BYTES = 1 << 20

    def __init__(self, stream: Readable) -> None:
        self._stream, self._at = stream, 0

    def __call__(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end; raises ValueError for an offset already read past."""
        if offset < self._at:
            raise ValueError(f"byte {offset} has passed: the stream is at {self._at}")
        while self._at < offset:
            skipped = self._stream.read(min(self.CHUNK_BYTES, offset - self._at))
            if not skipped:
                return b""
            self._at += len(skipped)
        parts: list[bytes] = []
        while size > 0 and (part := self._stream.read(min(self.CHUNK_BYTES, size))):
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)


class GzipReader:
    """The decompressed content of a gzip file; reading raises UserError if it grows more than images can."""

    def __init__(self, stream: Readable, file: BinaryIO, path: Path) -> None:
        self._stream, self._file, self._path = stream, file, path
        self._read_bytes = 0

    @property
    def compressed_bytes(self) -> int:
        """How many bytes of the compressed file have been read."""
        return self._file.tell()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` decompressed bytes; raises UserError for a gzip bomb."""
        data = self._stream.read(size)
        self._read_bytes += len(data)
        if self._read_bytes > max(UNCHECKED_BYTES, MAX_RATIO * self.compressed_bytes):
            raise UserError(
                f"{self._path}: unpacks to more than {MAX_RATIO} times its size, which images never do: it is a gzip "
                "bomb, or not a set of images"
            )
        return data


@contextmanager
def open_gzip(path: Path) -> Iterator[GzipReader]:
    """Open a gzip file for sequential reading; raises UserError if it is damaged."""
    try:
        # isal is twice as fast as the standard library.
        with path.open("rb") as file, igzip.IGzipFile(fileobj=file) as stream:  # type: ignore[no-untyped-call]
            yield GzipReader(stream, file, path)
    except (OSError, EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]
        problem = wrong_kind(path, read_start(path), "a gzip file") if path.is_file() else None
        raise UserError(f"{path}: {problem or f'damaged gzip file ({error}): download it again'}") from None
