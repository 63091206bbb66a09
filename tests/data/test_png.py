"""Damaged PNGs are rejected, and harmless oddities kept; transparency of 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from alexnet_dist.data.transform import UnusableImageError, training_image
from support.folders import OPTIONS, SIZE, encoded, photo
from support.pngs import END, START, interlaced_rows_of, png_chunk, png_file, rows_of

HEIGHT, WIDTH = 40, 30
PHOTO = photo(1, HEIGHT, WIDTH)
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"]


def is_rejected(data: bytes) -> bool:
    try:
        training_image(data, OPTIONS)
    except UnusableImageError as error:
        return str(error) == "damaged or truncated PNG"
    return False


def png_in(mode: str) -> Image.Image:
    """Return the photograph in one of Pillow's modes."""
    if mode == "I;16":
        return Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(PHOTO).convert(mode)


def with_height(data: bytes, height: int) -> bytes:
    """Return a PNG whose header gives another height, with the right checksum."""
    header = data[16:20] + height.to_bytes(4) + data[24:29]
    return data[:8] + png_chunk(b"IHDR", header) + data[33:]


@pytest.mark.parametrize("mode", MODES)
def test_a_png_without_its_last_rows_is_damaged(mode: str) -> None:
    good = encoded(png_in(mode), "PNG")
    assert not is_rejected(good)
    for rows in (1, 9, 500):
        taller = with_height(good, HEIGHT + rows)
        with Image.open(io.BytesIO(taller)) as image:
            assert image.convert("RGB").height == HEIGHT + rows  # Pillow gives no error
        assert is_rejected(taller)


@pytest.mark.parametrize("rows", [0, 1, HEIGHT // 2, HEIGHT - 1])
def test_a_whole_stream_of_too_few_rows_is_damage(rows: int) -> None:
    assert is_rejected(png_file(WIDTH, HEIGHT, rows_of(PHOTO[:rows])))
    assert is_rejected(png_file(WIDTH, HEIGHT, rows_of(PHOTO)[:-1]) if rows else START + END)


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (1, 1), (3, 2), (8, 9), (17, 5)])
def test_an_interlaced_png_is_kept_whole_and_rejected_without_its_last_pass(height: int, width: int) -> None:
    image = photo(2, height, width)
    rows = interlaced_rows_of(image)
    good, plain = png_file(width, height, rows, interlaced=True), png_file(width, height, rows_of(image))
    np.testing.assert_array_equal(training_image(good, OPTIONS)[1], training_image(plain, OPTIONS)[1])
    for missing in (1, len(rows) // 3, len(rows) - 1):
        assert is_rejected(png_file(width, height, rows[: len(rows) - missing], interlaced=True))


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_is_black_at_the_bottom_is_kept(interlaced: bool) -> None:
    image = PHOTO.copy()
    image[HEIGHT // 2 :] = 0
    rows = interlaced_rows_of(image) if interlaced else rows_of(image)
    assert not is_rejected(png_file(WIDTH, HEIGHT, rows, interlaced=interlaced))
    for mode in MODES:
        black = Image.new("L", (9, 9)).convert(mode) if mode != "I;16" else Image.fromarray(np.zeros((9, 9), np.uint16))
        assert not is_rejected(encoded(black, "PNG"))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda stream: stream[: len(stream) // 2],
    "zeros": lambda stream: stream[:900] + bytes(64) + stream[964:],
    "a wrong checksum": lambda stream: stream[:-1] + bytes([stream[-1] ^ 1]),
    "no data": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_stream_is_rejected(damage: str) -> None:
    good = png_file(WIDTH, HEIGHT, rows_of(PHOTO))
    head = good[: good.index(b"IDAT") - 4]
    assert is_rejected(head + png_chunk(b"IDAT", DAMAGE[damage](zlib.compress(rows_of(PHOTO)))) + END)


@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_a_wrong_width_is_damage(width: int) -> None:
    good = encoded(PHOTO, "PNG")
    assert is_rejected(good[:8] + png_chunk(b"IHDR", width.to_bytes(4) + good[20:29]) + good[33:])


def test_harmless_oddities_are_kept() -> None:
    good = png_file(WIDTH, HEIGHT, rows_of(PHOTO))
    head, stream = good[: good.index(b"IDAT") - 4], zlib.compress(rows_of(PHOTO))
    pieces = b"".join(png_chunk(b"IDAT", stream[start : start + 100]) for start in range(0, len(stream), 100))
    oddities = [
        good[: -len(END)],
        good[:-4],
        good + b"garbage" * 9,
        head + pieces + END,
        head + png_chunk(b"IDAT", stream + b"zz") + END,
        head + png_chunk(b"tEXt", b"Title\0x") + good[len(head) :],
    ]
    for odd in oddities:
        np.testing.assert_array_equal(training_image(odd, OPTIONS)[1], training_image(good, OPTIONS)[1])


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_a_16_bit_png_with_transparency_is_laid_over_white(colour_type: int) -> None:
    """By a transparent colour, or by an alpha channel."""
    samples = np.full((SIZE, SIZE, 1 if colour_type in (0, 4) else 3), 0x1234)
    samples[: SIZE // 2] = 0x9020
    key = b""
    if colour_type in (0, 2):
        key = png_chunk(b"tRNS", struct.pack(">H", 0x9020) * samples.shape[2])
    else:
        alpha = np.full((SIZE, SIZE, 1), 0xFFFF)
        alpha[: SIZE // 2] = 0
        samples = np.concatenate((samples, alpha), 2)
    pixels = training_image(png_file(SIZE, SIZE, rows_of(samples.astype(">u2")), 16, colour_type, key), OPTIONS)[1]
    assert (pixels[: SIZE // 2] == 255).all()
    assert (pixels[SIZE // 2 :] == 0x12).all()
