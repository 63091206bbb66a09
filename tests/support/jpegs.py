"""JPEGs of every kind, and changes to their markers, scans and headers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from support.folders import encoded, photo

HEIGHT, WIDTH = 96, 128
# Pillow's options by kind of file.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "optimised": {"optimize": True},
    "full chroma": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
}
END = b"\xff\xd9"
DQT, DHT, SOS = b"\xff\xdb", b"\xff\xc4", b"\xff\xda"


def jpeg_of(kind: str, image: npt.NDArray[np.uint8] | None = None, **options: Any) -> bytes:
    """Return an image, or a photograph of (HEIGHT, WIDTH), as a JPEG of a kind."""
    options = {"quality": 90, **KINDS[kind], **options}
    picture = Image.fromarray(photo(1, HEIGHT, WIDTH) if image is None else image)
    return encoded(picture.convert(options.pop("mode", "RGB")), **options)


def frame_at(data: bytes) -> int:
    """Return the offset of the frame header."""
    return min(at for marker in (b"\xff\xc0\x00", b"\xff\xc2\x00") if (at := data.find(marker)) > 0)


def scan_at(data: bytes) -> int:
    """Return the offset of the first scan's data."""
    start = data.index(SOS)
    return start + 2 + int.from_bytes(data[start + 2 : start + 4])


def insert(data: bytes, at: int, stray: bytes) -> bytes:
    """Return a file with more bytes at an offset."""
    return data[:at] + stray + data[at:]


def overwrite(data: bytes, at: int, changed: bytes) -> bytes:
    """Return a file with other bytes at an offset."""
    return data[:at] + changed + data[at + len(changed) :]


def without(data: bytes, marker: bytes) -> bytes:
    """Return a file without the segments of a marker."""
    while (start := data.find(marker)) > 0:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    return data


def resized(data: bytes, down: int = 0, across: int = 0) -> bytes:
    """Return a file whose frame header gives a size that many pixels larger."""
    at = frame_at(data) + 5
    height, width = struct.unpack_from(">HH", data, at)
    return overwrite(data, at, struct.pack(">HH", height + down, width + across))


def segment(marker: bytes, payload: bytes) -> bytes:
    """Return a segment with its length."""
    return marker + struct.pack(">H", len(payload) + 2) + payload
