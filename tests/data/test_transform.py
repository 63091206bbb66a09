"""The result for each kind of image file: its pixels, or the reason for its rejection."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_dist.data.choices import Chroma, Filter
from alexnet_dist.data.transform import UnusableImageError, training_image, upright_image
from support.folders import OPTIONS, encoded, photo
from support.pngs import png_file

SIZE = 16
FILTERS: tuple[Filter, ...] = ("bicubic", "bilinear")


def pixels_of(data: bytes, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Return the pixels of a file, after checking the JPEG that goes with them."""
    jpeg, pixels = training_image(data, replace(OPTIONS, size=size))
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert simplejpeg.decode_jpeg_header(jpeg) == (size, size, "YCbCr", "420")
    decoded = simplejpeg.decode_jpeg(jpeg, "RGB", strict=True)
    assert np.abs(decoded.astype(int) - pixels).mean() < 20
    return pixels


def reason(data: bytes) -> str:
    with pytest.raises(UnusableImageError) as rejected:
        training_image(data, OPTIONS)
    return str(rejected.value)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header gives a size and whose data is almost empty."""
    return png_file(width, height, b"0")


def jpeg_of(width: int, height: int) -> bytes:
    """Return a small JPEG with another size written into its header."""
    data = bytearray(encoded(photo(1)))
    offset = data.index(b"\xff\xc0") + 5
    data[offset : offset + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (60, 41), (33, 33), (16, 90), (9, 7), (1, 5), (17, 16), (16, 17)]
)
def test_resize_and_crop_agree_with_pillow(height: int, width: int) -> None:
    image = Image.fromarray(photo(height, height, width))
    short = min(height, width)
    new_width, new_height = (int(side * SIZE / short + 0.5) for side in (width, height))
    left, top = (new_width - SIZE) // 2, (new_height - SIZE) // 2
    expected = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    expected = expected.crop((left, top, left + SIZE, top + SIZE))
    pixels = pixels_of(encoded(image, "PNG"))
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 2


def test_the_centre_is_kept() -> None:
    wide = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    wide[:, SIZE : 2 * SIZE] = 200
    assert (pixels_of(encoded(wide, "PNG")) == 200).all()
    assert (pixels_of(encoded(wide.transpose(1, 0, 2), "PNG")) == 200).all()


def test_the_filter_is_the_one_in_the_options() -> None:
    image = Image.fromarray(photo(12, 40, 40))
    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
    bicubic, bilinear = (training_image(encoded(image, "PNG"), replace(OPTIONS, filter=mode))[1] for mode in FILTERS)
    assert np.abs(bilinear - expected).max() <= 1
    assert np.abs(bicubic - expected).max() > 1


@pytest.mark.parametrize(("quality", "chroma"), [(35, "420"), (90, "422"), (90, "444")])
def test_the_jpeg_has_the_quality_and_chroma_of_the_options(quality: int, chroma: Chroma) -> None:
    jpeg, pixels = training_image(encoded(photo(13)), replace(OPTIONS, quality=quality, chroma=chroma))
    assert jpeg == simplejpeg.encode_jpeg(pixels, quality, "RGB", chroma)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_baseline_jpeg_of_the_right_size_is_copied(subsampling: int) -> None:
    data = encoded(photo(3, SIZE, SIZE), quality=70, subsampling=subsampling)
    jpeg, pixels = training_image(data, OPTIONS)
    assert jpeg == data
    np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(data, "RGB"))


def test_the_size_is_found_behind_tables_and_fill_bytes() -> None:
    data = encoded(photo(14, SIZE, SIZE))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    end = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4])
    tables_first = data[:frame] + data[end:scan] + data[frame:end] + data[scan:]
    filled = data[:frame] + b"\xff\xff" + data[frame:]
    for other in (tables_first, filled):
        assert training_image(other, OPTIONS)[0] == other


def test_other_jpegs_of_the_right_size_are_encoded_again() -> None:
    square = Image.fromarray(photo(3, SIZE, SIZE))
    assert b"\xff\xc2" in encoded(square, progressive=True)
    for data in (encoded(square, progressive=True), encoded(square.convert("L")), encoded(square.convert("CMYK"))):
        assert training_image(data, OPTIONS)[0] != data
        pixels_of(data)


def test_grey_becomes_colour() -> None:
    grey = Image.fromarray(photo(4)).convert("L")
    for kind in ("JPEG", "PNG"):
        pixels = pixels_of(encoded(grey, kind))
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_cmyk_is_converted_as_pillow_does() -> None:
    data = encoded(Image.fromarray(photo(5, SIZE, SIZE)).convert("CMYK"), quality=95)
    pixels = pixels_of(data).astype(int)
    assert np.abs(pixels - photo(5, SIZE, SIZE)).mean() < 8


@pytest.mark.parametrize("black", [0, 90])
@pytest.mark.parametrize("kind", ["CMYK", "YCCK"])
def test_inverted_cmyk_and_ycck_have_the_right_colours(kind: str, black: int) -> None:
    """Adobe stores ink inverted, and YCCK as the YCbCr of the ink: what is stored is built here by hand."""
    light = photo(5, SIZE, SIZE).astype(int)  # 255 minus the ink
    stored = np.full((SIZE, SIZE, 4), 255 - black, np.uint8)
    stored[..., :3] = light
    if kind == "YCCK":
        stored[..., :3] = np.asarray(Image.fromarray((255 - light).astype(np.uint8)).convert("YCbCr"))
    data = encoded(Image.fromarray(255 - stored, "CMYK"), quality=95, subsampling=0)
    adobe = data.index(b"Adobe") + 11
    assert data[adobe] == 0
    data = data[:adobe] + bytes([2 if kind == "YCCK" else 0]) + data[adobe + 1 :]
    assert simplejpeg.decode_jpeg_header(data)[2] == kind
    expected = light * (255 - black) / 255
    assert np.abs(pixels_of(data) - expected).mean() < 4


def test_of_16_bits_the_upper_8_are_kept() -> None:
    values = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    np.testing.assert_array_equal(pixels_of(encoded(values, "PNG"))[..., 1], values >> 8)


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(photo(6, SIZE, SIZE)).quantize(32)
    assert image.mode == "P"
    np.testing.assert_array_equal(pixels_of(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_black_and_white() -> None:
    checks = Image.fromarray(np.indices((SIZE, SIZE)).sum(0) % 4 < 2)
    assert checks.mode == "1"
    assert set(pixels_of(encoded(checks, "PNG")).reshape(-1)) == {0, 255}


def test_transparency_is_laid_over_white() -> None:
    colour = np.full((SIZE, SIZE, 4), (200, 100, 0, 255), np.uint8)
    colour[: SIZE // 2, :, 3] = 0
    pixels = pixels_of(encoded(Image.fromarray(colour), "PNG"))
    assert (pixels[: SIZE // 2] == 255).all()
    assert (pixels[SIZE // 2 :] == (200, 100, 0)).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_white_too(mode: str) -> None:
    image = Image.new(mode, (SIZE, SIZE), 0)
    data = encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (pixels_of(data) == 255).all()


def test_half_transparent_grey() -> None:
    pixels = pixels_of(encoded(Image.new("LA", (SIZE, SIZE), (0, 128)), "PNG"))
    assert (np.abs(pixels.astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_the_orientation_tag_is_not_applied(mode: str) -> None:
    exif, image = Image.Exif(), Image.fromarray(photo(7, 20, 30)).convert(mode)
    exif[0x0112] = 6
    turned, plain = (encoded(image, exif=tag) for tag in (exif, Image.Exif()))
    assert turned != plain
    np.testing.assert_array_equal(pixels_of(turned), pixels_of(plain))


def test_stray_bytes_that_only_the_strict_decoder_rejects_are_kept_and_encoded_again() -> None:
    data = encoded(photo(8, SIZE, SIZE))
    stray = data[:-2] + bytes(20) + data[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(stray, strict=True)
    assert training_image(stray, OPTIONS)[0] != stray
    np.testing.assert_array_equal(pixels_of(stray), simplejpeg.decode_jpeg(data, "RGB"))


def test_content_decides_and_not_names() -> None:
    for data in (b"some text", b"GIF89a" + bytes(50), b"BM" + bytes(80), b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8"):
        assert reason(data) == "not a JPEG or PNG"
    assert reason(b"") == "empty file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_truncated_files_are_rejected(kind: str, share: float) -> None:
    data = encoded(photo(9, 40, 40), kind)
    assert reason(data[: int(share * len(data))]) == f"damaged or truncated {kind}"


@pytest.mark.parametrize("make", [png_of, jpeg_of])
def test_a_bomb_is_rejected_by_its_header(make: object) -> None:
    assert callable(make)
    assert reason(make(65_500, 65_500)) == "65500 x 65500 pixels are more than 100 million"
    assert "0 x 16" in reason(make(0, 16))


def test_a_strip_that_resizing_makes_a_bomb_is_rejected() -> None:
    with pytest.raises(UnusableImageError, match="more than 100 million"):
        training_image(encoded(np.zeros((1, 40_000, 3), np.uint8), "PNG"), replace(OPTIONS, size=256))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xc0"]))
def test_bytes_of_any_kind_are_rejected_and_nothing_else(data: bytes, start: bytes) -> None:
    assert reason(start + data)


@given(st.integers(0, 700), st.integers(0, 255), st.sampled_from(["JPEG", "PNG"]))
def test_a_changed_byte_gives_an_image_or_a_reason_that_is_always_the_same(
    position: int, value: int, kind: str
) -> None:
    data = bytearray(encoded(photo(10), kind))
    data[position % len(data)] = value

    def outcome() -> bytes | str:
        try:
            return training_image(bytes(data), OPTIONS)[0]
        except UnusableImageError as error:
            return str(error)

    assert outcome() == outcome()


def fuzz_seeds_of_images() -> list[bytes]:
    """Return small files of every kind for which transform has a rule."""
    image = Image.fromarray(photo(11, 18, 19))
    kinds = [(image, "JPEG"), (image, "PNG"), (image.convert("CMYK"), "JPEG"), (image.convert("L"), "JPEG")]
    kinds += [(image.convert("P"), "PNG"), (image.convert("LA"), "PNG"), (image.convert("RGBA"), "PNG")]
    grey = Image.fromarray(np.asarray(image)[:, :, 0].astype(np.uint16) << 8)
    return [
        *(encoded(picture, kind) for picture, kind in kinds),
        encoded(grey, "PNG"),
        encoded(image, progressive=True),
        encoded(image, optimize=True, restart_marker_blocks=1),
    ]


def test_fuzz_damaged_images_are_images_or_rejected(fuzz_seeds: Iterator[int]) -> None:
    files, rejected = fuzz_seeds_of_images(), 0
    for seed in fuzz_seeds:
        rng = random.Random(seed)
        data = bytearray(rng.choice(files))
        for _ in range(rng.randrange(1, 5)):
            start = rng.randrange(len(data))
            mutation = rng.randrange(4)
            if mutation == 0:
                data[start] = rng.randrange(256)
            elif mutation == 1:
                data[start : start + 2] = rng.choice((b"\xff\xff", b"\0\0", b"\xff\xc0", b"\xff\xd8", b"\x7f\xff"))
            elif mutation == 2:
                del data[start : start + rng.choice((1, 20, len(data)))]
            else:
                data[start:start] = data[start : start + rng.randrange(40)]
            data = data or bytearray(b"\0")
        try:
            jpeg, pixels = training_image(bytes(data), OPTIONS)
        except UnusableImageError:
            rejected += 1
            with pytest.raises(UnusableImageError):
                upright_image(bytes(data), OPTIONS)
        else:
            assert upright_image(bytes(data), OPTIONS).shape == (SIZE, SIZE, 3)
            assert pixels.shape == (SIZE, SIZE, 3)
            assert jpeg.startswith(b"\xff\xd8")
    assert 0 < rejected < seed


def test_a_file_too_narrow_to_be_resized_is_reported_with_its_original_size() -> None:
    with pytest.raises(UnusableImageError, match=r"^1 x 60000 pixels, resized to 256 x 15360000 pixels are more than"):
        training_image(encoded(np.zeros((60_000, 1, 3), np.uint8), "PNG"), replace(OPTIONS, size=256))
