"""One image file to one training JPEG: sniff, decode, resize the shorter side, crop the centre square, encode.

The format is determined by a file's first bytes, never by its name. The rules for other files than RGB JPEGs:

- grey becomes colour with three equal channels; CMYK and YCCK are converted by Pillow, which takes them as inverted, as
  Adobe writes them;
- PNG: palettes are resolved, the upper 8 of 16 bits are kept, transparent pixels are composited over white;
- the EXIF orientation and colour profiles are not applied (no published ImageNet figure applies them);
- a file whose picture is damaged is rejected; an oddity that leaves the picture whole, such as a missing end marker or
  stray bytes between segments, is kept (see `jpeg`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps

from alexnet_dist.data import png
from alexnet_dist.data.augment import centre_offset
from alexnet_dist.data.choices import Filter
from alexnet_dist.data.jpeg import Frame, is_damaged, read_frame, repaired
from alexnet_dist.data.manifest import Options

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 100_000_000
JPEG_START = b"\xff\xd8\xff"


class UnusableImageError(Exception):
    """A file that is not a usable image; the text is the reason, and the same on every machine."""


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
    frame = _check_header(data)
    pixels, strict = _decode(data, frame)
    if strict and frame is not None and frame.baseline and frame.components == 3 and pixels.shape[:2] == (size, size):
        return data, pixels
    pixels = _centre_square(pixels, size, options.filter)
    return simplejpeg.encode_jpeg(pixels, options.quality, "RGB", options.chroma), pixels


def upright_image(data: bytes, options: Options) -> Pixels:
    """Return the (size, size, 3) RGB pixels of a file in any format that Pillow reads, turned by its EXIF orientation.

    Except for the turn, a JPEG or PNG has the pixels of `training_image`. Raises UnusableImageError.
    """
    if data.startswith((JPEG_START, png.START)) or not data:
        pixels, _ = _decode(data, _check_header(data))
    else:
        pixels = _decode_with_pillow(data, None)
    upright = Image.fromarray(pixels)
    upright.getexif()[ExifTags.Base.Orientation] = _orientation(data)
    return _centre_square(np.array(ImageOps.exif_transpose(upright)), options.size, options.filter)


def _check_header(data: bytes) -> Frame | None:
    """Check the size in the header, so that a decompression bomb is rejected before it is decoded.

    Returns the frame of a JPEG, or None for a PNG.
    """
    if not data:
        raise UnusableImageError("empty file")
    frame, size = None, None
    if data.startswith(JPEG_START):
        frame = read_frame(data)
        size = frame and (frame.height, frame.width)
    elif data.startswith(png.START):
        size = png.read_size(data)
    else:
        raise UnusableImageError("not a JPEG or PNG")
    if size is None:
        raise _damaged("PNG" if data.startswith(png.START) else "JPEG")
    height, width = size
    if height < 1 or width < 1:
        raise UnusableImageError(f"its header gives {width} x {height} pixels")
    _reject_bomb(height, width)
    return frame


def _reject_bomb(height: int, width: int, prefix: str = "") -> None:
    if height * width > MAX_PIXELS:
        raise UnusableImageError(f"{prefix}{width} x {height} pixels are more than {MAX_PIXELS // 10**6} million")


def _damaged(image_format: str) -> UnusableImageError:
    return UnusableImageError(f"damaged or truncated {image_format}")


def _decode(data: bytes, frame: Frame | None) -> tuple[Pixels, bool]:
    """Return (H, W, 3) RGB pixels, and whether the strict JPEG decoder decoded them."""
    if frame is None:
        return _decode_with_pillow(data, "PNG"), False
    # simplejpeg reads CMYK too, but differs from Pillow if Adobe's marker is missing.
    if frame.components in (1, 3):
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
        except ValueError:
            pass
        else:
            if is_damaged(data, frame):
                raise _damaged("JPEG")
            return pixels, True
    whole = repaired(data, frame)
    if whole is None:
        raise _damaged("JPEG")
    return _decode_with_pillow(whole, "JPEG"), False


def _decode_with_pillow(data: bytes, image_format: str | None) -> Pixels:
    """Return (H, W, 3) RGB pixels of a file in the given format, or in any."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=[image_format] if image_format else None) as image,
        ):
            image_format = image.format
            _reject_bomb(image.height, image.width)
            image.load()
            if image_format == "PNG" and png.lacks_pixels(data, image):
                raise _damaged("PNG")
            return np.array(_as_rgb(image, image_format == "PNG" and png.has_16_bits(data)))
    except (MemoryError, UnusableImageError):
        raise
    except Image.DecompressionBombError:
        raise UnusableImageError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception:  # Pillow's decoders raise many types of errors for damaged files
        if image_format is None:
            raise UnusableImageError("not a whole image in a format that Pillow reads") from None
        raise _damaged(image_format) from None


def _as_rgb(image: Image.Image, has_16_bits: bool) -> Image.Image:
    """Return an image of any mode as RGB, with its transparent pixels over white."""
    if image.mode == "F":
        raise UnusableImageError("floating-point pixels, whose range is unknown")
    transparent = image.info.get("transparency")
    if image.mode in ("I", "I;16", "I;16B"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if transparent is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if has_16_bits and image.mode == "RGB" and transparent is not None:
        # Pillow keeps the upper 8 bits of the pixels, but all 16 of the transparent colour.
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation in which a decoded file still has to be turned; 1, upright, if it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            # Pillow turns a TIFF when it decodes it.
            return 1 if image.format == "TIFF" else int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many types of errors for damaged metadata
        return 1


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
