"""The size that a PNG's header gives, and whether its data suffices for it (PNG specification, 2003)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

START = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: grey, RGB, palette, grey with alpha, RGB with alpha
# The first column and row, and the steps between columns and rows, of each pass.
PASSES = {
    0: ((0, 0, 1, 1),),
    1: ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
}
INFLATE_BYTES = 1 << 20


def read_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) from the header, or None if it is damaged."""
    if data[12:16] != b"IHDR" or len(data) < 29:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def has_16_bits(data: bytes) -> bool:
    """Return whether the samples of a PNG have 16 bits."""
    return data[24] == 16


def lacks_pixels(data: bytes, image: Image.Image) -> bool:
    """Return whether a PNG that Pillow has decoded without an error ends before its last pixel.

    Pillow leaves the missing pixels zero, so only pictures with an empty last row, and interlaced ones, are inflated.
    """
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if "interlace" not in image.info and last_row.getbbox() is not None:
        return False
    width, height, depth, colour, interlaced = struct.unpack_from(">IIBBxxB", data, 16)
    expected = 0
    for left, top, across, down in PASSES[interlaced]:
        columns, rows = -((left - width) // across), -((top - height) // down)
        row_bytes = 1 + -(-columns * depth * CHANNELS[colour] // 8)
        expected += rows * row_bytes if columns > 0 else 0
    inflater, inflated = zlib.decompressobj(), 0
    for pending in _image_data(data):
        while pending and inflated < expected and not inflater.eof:
            inflated += len(inflater.decompress(pending, INFLATE_BYTES))
            pending = inflater.unconsumed_tail
    return inflated < expected


def _image_data(data: bytes) -> Iterator[bytes]:
    offset = len(START)
    while offset + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        if kind == b"IDAT":
            yield data[offset + 8 : offset + 8 + size]
        offset += 12 + size
