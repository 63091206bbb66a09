"""PNGs written by hand: of any header, of 16 bits, interlaced."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

START = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"
# The rows and columns of the seven passes of an interlaced PNG.
PASSES = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, chunks: bytes = b"", interlaced: bool = False
) -> bytes:
    """Return a PNG with a header and these unfiltered rows, whether they belong together or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return START + png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(rows)) + END


def rows_of(samples: npt.NDArray[Any]) -> bytes:
    """Return the rows of (height, width, channels) samples, each after the byte of its filter."""
    return b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in samples)


def interlaced_rows_of(samples: npt.NDArray[Any]) -> bytes:
    """Return the rows of the seven passes."""
    passes = [samples[top::down, left::across] for top, down, left, across in PASSES]
    return b"".join(rows_of(part) for part in passes if part.size)
