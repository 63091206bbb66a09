"""The pixels that predict classifies: of every format that Pillow reads, turned as viewers show them."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from alexnet_dist.data.transform import UnusableImageError, training_image, upright_image
from support.folders import OPTIONS, SIZE, encoded, photo


def training_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    return training_image(data, OPTIONS)[1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_upright_image_is_turned_by_its_orientation_tag(kind: str, orientation: int) -> None:
    exif, image = Image.Exif(), Image.fromarray(photo(7, 20, 30))
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    plain = encoded(image, kind, **lossless)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(image, kind, exif=exif, **lossless))))
    assert (shown.size == (20, 30)) == (orientation > 4)
    tagged = encoded(image, kind, exif=exif, **lossless)
    np.testing.assert_array_equal(upright_image(tagged, OPTIONS), training_pixels(encoded(shown.convert("RGB"), "PNG")))
    if kind in ("JPEG", "PNG"):
        np.testing.assert_array_equal(upright_image(plain, OPTIONS), training_pixels(plain))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP", "TIFF", "PPM", "ICO", "TGA", "PCX"])
def test_an_upright_image_may_have_any_format(kind: str) -> None:
    image = Image.fromarray(photo(13, SIZE, SIZE)).quantize(32).convert("RGB")
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with pytest.raises(UnusableImageError, match="not a JPEG or PNG"):
        training_image(data, OPTIONS)
    np.testing.assert_array_equal(upright_image(data, OPTIONS), np.asarray(image))


def test_an_upright_image_with_transparency_is_laid_over_white() -> None:
    assert (upright_image(encoded(Image.new("RGBA", (9, 9)), "WEBP", lossless=True), OPTIONS) == 255).all()
    assert (upright_image(encoded(Image.new("P", (9, 9)), "GIF", transparency=0), OPTIONS) == 255).all()


def test_the_reasons_why_an_upright_image_is_rejected() -> None:
    webp, tiff = (encoded(photo(14, 40, 40), kind) for kind in ("WEBP", "TIFF"))
    bmp = encoded(Image.new("1", (30_000, 3)), "BMP").replace(
        struct.pack("<ii", 30_000, 3), struct.pack("<ii", 30_000, 5_000)
    )
    larger = bmp.replace(struct.pack("<ii", 30_000, 5_000), struct.pack("<ii", 30_000, 30_000))
    for data, expected in [
        (b"", "empty file"),
        (b"some text", "not a whole image in a format that Pillow reads"),
        (webp[:-30], "not a whole image in a format that Pillow reads"),
        (tiff[:-30], "damaged or truncated TIFF"),
        (encoded(photo(9))[:300], "damaged or truncated JPEG"),
        (encoded(photo(9), "PNG")[:300], "damaged or truncated PNG"),
        (bmp, "30000 x 5000 pixels are more than 100 million"),
        (larger, "more than 100 million pixels"),
    ]:
        with pytest.raises(UnusableImageError) as rejected:
            upright_image(data, OPTIONS)
        assert str(rejected.value) == expected


def test_damaged_metadata_turns_nothing() -> None:
    data = encoded(photo(7, 20, 30))
    odd = data[:2] + b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff" + data[2:]
    np.testing.assert_array_equal(upright_image(odd, OPTIONS), training_pixels(data))
