"""One image file to one training JPEG: sniff, decode, resize the shorter side, crop the centre square, encode.

The format is determined by a file's first bytes, never by its name. The rules for other files than RGB JPEGs:

- grey becomes colour with three equal channels; CMYK is converted by Pillow, which handles Adobe's inverted form;
- PNG: palettes are resolved, the upper 8 of 16 bits are kept, transparent pixels are composited over white;
- the EXIF orientation and colour profiles are not applied (no published ImageNet figure applies them);
- a damaged file is rejected; a file that simplejpeg's strict decoder rejects but Pillow decodes without an error, such
  as one with stray bytes between segments, is kept.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image

from alexnet_dist.data.augment import centre_offset
from alexnet_dist.data.choices import Filter
from alexnet_dist.data.manifest import Options

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 100_000_000
JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class UnusableImageError(Exception):
    """A file that is not a usable image; the text is the reason, and the same on every machine."""


class Header(NamedTuple):
    """The properties in a file's header, read before it is decoded; `baseline` is used for JPEGs only."""

    height: int
    width: int
    components: int
    baseline: bool


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: each core packs its own shard, so a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def training_image(data: bytes, options: Options) -> tuple[bytes, Pixels]:
    """Return a file's square JPEG and the (size, size, 3) RGB pixels it was encoded from.

    A baseline colour JPEG that already has this size is returned unchanged if the strict decoder accepts it.
    The resize is antialiased and works on uint8. Raises UnusableImageError.
    """
    size = options.size
    header = _header(data)
    pixels, strict = _decode(data, header)
    if strict and header == Header(size, size, 3, baseline=True):
        return data, pixels
    pixels = _centre_square(pixels, size, options.filter)
    return simplejpeg.encode_jpeg(pixels, options.quality, "RGB", options.chroma), pixels


def _header(data: bytes) -> Header:
    """Read the size from the header alone, so that a decompression bomb is rejected before it is decoded."""
    if not data:
        raise UnusableImageError("empty file")
    if data.startswith(JPEG_START):
        header = _jpeg_header(data)
    elif data.startswith(PNG_START):
        header = _png_header(data)
    else:
        raise UnusableImageError("not a JPEG or PNG")
    if header.height < 1 or header.width < 1:
        raise UnusableImageError(f"its header gives {header.width} x {header.height} pixels")
    _reject_bomb(header.height, header.width)
    return header


def _reject_bomb(height: int, width: int, prefix: str = "") -> None:
    if height * width > MAX_PIXELS:
        raise UnusableImageError(f"{prefix}{width} x {height} pixels are more than {MAX_PIXELS // 10**6} million")


def _png_header(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 26:
        raise UnusableImageError("damaged or truncated PNG")
    width, height = struct.unpack_from(">II", data, 16)
    return Header(height, width, 0, baseline=False)


def _jpeg_header(data: bytes) -> Header:
    """Walk the segments up to the frame header (ITU T.81, B.2.2)."""
    offset = 2
    while offset + 10 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            offset += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _precision, height, width, components = struct.unpack_from(">BHHB", data, offset + 4)
            return Header(height, width, components, baseline=marker == 0xC0)
        offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
    raise UnusableImageError("damaged or truncated JPEG")


def _decode(data: bytes, header: Header) -> tuple[Pixels, bool]:
    """Return (H, W, 3) RGB pixels, and whether the strict JPEG decoder decoded them."""
    # simplejpeg reads CMYK too, but differs from Pillow if Adobe's marker is missing.
    if header.components in (1, 3):
        try:
            return simplejpeg.decode_jpeg(data, "RGB", strict=True), True
        except ValueError:
            pass
    return _decode_with_pillow(data), False


def _decode_with_pillow(data: bytes) -> Pixels:
    image_format = "JPEG" if data.startswith(JPEG_START) else "PNG"
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=[image_format]) as image:
            _reject_bomb(image.height, image.width)
            return np.array(_as_rgb(image))
    except (MemoryError, UnusableImageError):
        raise
    except Exception:  # Pillow's decoders raise many types of errors for damaged files
        raise UnusableImageError(f"damaged or truncated {image_format}") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB."""
    if image.mode in ("I", "I;16", "I;16B"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _centre_square(pixels: Pixels, size: int, mode: Filter) -> Pixels:
    """Resize the shorter side to `size` and return a copy of the centre square."""
    height, width, _ = pixels.shape
    short = min(height, width)
    new_height, new_width = ((2 * side * size + short) // (2 * short) for side in (height, width))
    if (new_height, new_width) != (height, width):
        _reject_bomb(new_height, new_width, f"{width} x {height} pixels, resized to ")
        # A (1, 3, H, W) view of the (H, W, 3) bytes is channels_last, for which torch has a fast uint8 kernel. The
        # batch dim is added before the permutation: added after it, torch returns planes, in twice the time.
        planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
        planes = F.interpolate(planes, (new_height, new_width), mode=mode, antialias=True)
        pixels = planes[0].permute(1, 2, 0).numpy()
    top, left = centre_offset(new_height, size), centre_offset(new_width, size)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])
