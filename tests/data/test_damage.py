"""Damaged JPEGs are rejected, and harmless oddities kept, as a person who looks at the picture would judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data.transform import UnusableImageError, training_image
from support.folders import OPTIONS, encoded, photo
from support.jpegs import (
    DHT,
    DQT,
    END,
    HEIGHT,
    KINDS,
    SOS,
    WIDTH,
    frame_at,
    insert,
    jpeg_of,
    overwrite,
    resized,
    scan_at,
    segment,
    without,
)

Change = Callable[[bytes], bytes]
LARGE = replace(OPTIONS, size=64)
HUFFMAN = [kind for kind in KINDS if kind != "progressive"]
JUNK = np.random.default_rng(1).integers(1, 255, 30, np.uint8).tobytes()
ADOBE = b"Adobe\x00\x64" + bytes(5)
# The thumbnail has all the markers of a JPEG, and zeros among them.
EXIF = segment(b"\xff\xe1", b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + bytes(40) + jpeg_of("plain", photo(9)))


def middle(data: bytes) -> int:
    """Return the offset of the middle of the scans."""
    return (scan_at(data) + len(data)) // 2


def is_rejected(data: bytes) -> bool:
    try:
        training_image(data, LARGE)
    except UnusableImageError as error:
        return str(error) == "damaged or truncated JPEG"
    return False


def decoded(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the pixels that a lenient viewer shows, or None if it shows nothing."""
    try:
        colours = "CMYK" if simplejpeg.decode_jpeg_header(data, strict=False)[2] in ("CMYK", "YCCK") else "RGB"
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=False))
    except (ValueError, KeyError):
        return None


def looks_damaged(data: bytes, good: bytes) -> bool:
    """Return whether a person sees that a picture is not the good one: it has another size, or rows that differ."""
    seen, wanted = decoded(data), decoded(good)
    assert wanted is not None
    if seen is None or seen.shape != wanted.shape:
        return True
    return bool(np.abs(seen.astype(int) - wanted).mean((1, 2)).max() > 4)


DAMAGE: dict[str, Change] = {
    "cut in the middle": lambda data: data[: middle(data)],
    "cut in the middle, with an end marker": lambda data: data[: middle(data)] + END,
    "cut after a third, with an end marker and garbage": lambda data: data[: len(data) // 3] + END + JUNK,
    "cut in its headers": lambda data: data[: scan_at(data) - 20],
    "cut before its scan, with an end marker": lambda data: data[: data.index(SOS)] + END,
    "zeros in its scan": lambda data: overwrite(data, middle(data), bytes(300)),
    "zeros to its end": lambda data: overwrite(data, middle(data), bytes(len(data) - 2 - middle(data))),
    "too tall": lambda data: resized(data, down=16),
    "much too tall": lambda data: resized(data, down=500),
    "too wide": lambda data: resized(data, across=16),
    "much too wide": lambda data: resized(data, across=500),
    "too short": lambda data: resized(data, down=-16),
    "too narrow": lambda data: resized(data, across=-16),
    "no quantization tables": lambda data: without(data, DQT),
    "one component of its scan is unknown": lambda data: overwrite(data, data.index(SOS) + 5, b"\x77"),
    "one component too many": lambda data: overwrite(data, frame_at(data) + 9, bytes([data[frame_at(data) + 9] + 1])),
    "a length that swallows the next segment": lambda data: overwrite(data, data.index(DQT) + 2, b"\x00\x60"),
}  # fmt: skip
HARMLESS: dict[str, Change] = {
    "no end marker": lambda data: data[:-2],
    "half an end marker": lambda data: data[:-1],
    "no end marker, zeros instead": lambda data: data[:-2] + bytes(100),
    "zeros before the end marker": lambda data: insert(data, len(data) - 2, bytes(2000)),
    "junk before the end marker": lambda data: insert(data, len(data) - 2, JUNK),
    "text before the end marker": lambda data: insert(data, len(data) - 2, b"firmware of a camera"),
    "fill bytes before the end marker": lambda data: insert(data, len(data) - 2, b"\xff" * 9),
    "garbage after the end marker": lambda data: data + JUNK * 30 + bytes(500),
    "another picture after the end marker": lambda data: data + jpeg_of("plain", photo(8)),
    "stray bytes before the frame": lambda data: insert(data, frame_at(data), JUNK),
    "stray bytes before the scan": lambda data: insert(data, data.index(SOS), bytes(30)),
    "stray bytes before the scan and after the end": lambda data: insert(data, data.index(SOS), JUNK) + bytes(30),
    "fill bytes before the scan": lambda data: insert(data, data.index(SOS), b"\xff\xff"),
    "a thumbnail": lambda data: insert(data, 2, EXIF),
    "a comment": lambda data: insert(data, 2, segment(b"\xff\xfe", bytes(300))),
    "an empty comment": lambda data: insert(data, 2, b"\xff\xfe\0\0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_rejected(kind: str, damage: str) -> None:
    good = jpeg_of(kind)
    bad = DAMAGE[damage](good)
    assert looks_damaged(bad, good)
    assert is_rejected(bad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("oddity", HARMLESS)
def test_harmless_oddities_are_kept(kind: str, oddity: str) -> None:
    good = jpeg_of(kind)
    odd = HARMLESS[oddity](good)
    assert not is_rejected(good)
    np.testing.assert_array_equal(training_image(odd, LARGE)[1], training_image(good, LARGE)[1])


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0, 1), has_end=st.booleans())
def test_a_scan_that_lacks_its_last_bytes_is_damaged(kind: str, share: float, has_end: bool) -> None:
    good = jpeg_of(kind, photo(3, 40, 40))
    first, last = scan_at(good), len(good) - 12
    assert is_rejected(good[: first + round(share * (last - first))] + END * has_end)


@pytest.mark.parametrize("kind", HUFFMAN)
@given(share=st.floats(0, 1), zeros=st.integers(16, 600))
def test_zeros_anywhere_in_a_scan_are_damage(kind: str, share: float, zeros: int) -> None:
    good = jpeg_of(kind)
    first, last = scan_at(good), len(good) - 20 - zeros
    assert is_rejected(overwrite(good, first + round(share * (last - first)), bytes(zeros)))


@pytest.mark.parametrize("kind", ["plain", "full chroma", "grey", "cmyk", "restarts"])
@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0), (0, -1), (-1, 0), (2, 0), (0, -2)])
def test_a_size_that_is_one_block_off_is_damage(kind: str, rows: int, columns: int) -> None:
    side = 16 if kind in ("plain", "restarts") else 8
    assert is_rejected(resized(jpeg_of(kind), side * rows, side * columns))


def test_a_size_within_the_last_block_is_kept() -> None:
    good = jpeg_of("plain", photo(2, HEIGHT - 3, WIDTH - 3))
    assert not is_rejected(resized(good, 2, 2))
    assert not is_rejected(resized(good, -4, -4))


@pytest.mark.parametrize("kind", ["plain", "progressive", "restarts"])
def test_the_loss_of_every_scan_but_the_first_is_damage(kind: str) -> None:
    good = jpeg_of(kind)
    scans = [at for at in range(len(good)) if good[at : at + 2] == SOS]
    assert len(scans) == (10 if kind == "progressive" else 1)
    for number, start in enumerate(scans[1:], 1):
        tables = good.rfind(DHT, 0, start)
        end = tables if tables > scans[number - 1] else start
        for shortened in (good[:end], good[:end] + END):
            assert is_rejected(shortened)
            # The finest bits of the colours alone are not visible.
            assert looks_damaged(shortened, good) or number > 6


def sequential_scans() -> bytes:
    """Return a baseline JPEG of three components, each with a scan of its own, from three grey ones."""
    planes = [jpeg_of("grey", photo(seed, 32, 32)[..., 0]) for seed in range(3)]
    first = planes[0]
    frame = segment(b"\xff\xc0", b"\x08\0\x20\0\x20\x03" + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]))
    tables = first[first.index(DHT) : first.index(SOS)]
    scans = b"".join(
        segment(SOS, bytes([1, number, 0, 0, 63, 0])) + plane[scan_at(plane) : -2]
        for number, plane in enumerate(planes, 1)
    )
    return first[: frame_at(first)] + frame + tables + scans + END


def test_scans_of_one_component_each() -> None:
    good = sequential_scans()
    assert not is_rejected(good)
    assert not is_rejected(good[:-2])
    last = good.rindex(SOS)
    assert is_rejected(good[:last] + END)
    assert is_rejected(good[:last])


@pytest.mark.parametrize("number", [1, 2, 6, 7])
def test_a_restart_marker_out_of_turn_is_damage(number: int) -> None:
    good = jpeg_of("restarts")
    at = good.index(b"\xff\xd2", scan_at(good))
    bad = overwrite(good, at + 1, bytes([0xD0 + (2 + number) % 8]))
    assert looks_damaged(bad, good)
    assert is_rejected(bad)


def test_a_lost_restart_interval_is_damage() -> None:
    good = jpeg_of("restarts")
    first, second = (good.index(marker, scan_at(good)) for marker in (b"\xff\xd1", b"\xff\xd2"))
    assert is_rejected(good[:first] + good[second:])
    assert is_rejected(good[:first] + good[second:first:-1] + good[second:])


def test_the_standard_tables_may_be_missing_and_others_may_not() -> None:
    good, optimised = jpeg_of("plain"), jpeg_of("optimised")
    np.testing.assert_array_equal(training_image(without(good, DHT), LARGE)[1], training_image(good, LARGE)[1])
    assert looks_damaged(without(optimised, DHT), optimised)
    assert is_rejected(without(optimised, DHT))
    assert is_rejected(without(jpeg_of("progressive"), DHT))


def test_zeros_that_are_plain_blocks_are_kept() -> None:
    product = np.full((400, 400, 3), 255, np.uint8)
    product[150:250, 150:250] = photo(4, 100, 100)
    for image in (
        product,
        np.zeros_like(product),
        np.tile(np.arange(255, 55, -1).astype(np.uint8)[:, None, None], (1, 400, 3)),
    ):
        for kind in ("plain", "optimised", "progressive", "grey"):
            data = jpeg_of(kind, image)
            assert bytes(16) in data[scan_at(data) :] or kind != "optimised" or image is not product
            assert not is_rejected(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: overwrite(data, data.index(b"JFIF\0") + 5, b"\x09"),
        lambda data: overwrite(data, scan_at(data) - 2, b"\0"),
    ],
    ids=["a JFIF version", "parameters of its scan"],
)
def test_a_harmless_warning_does_not_hide_damage(change: Change) -> None:
    good = jpeg_of("plain")
    odd = change(good)
    with pytest.raises(ValueError, match=r"(JFIF revision|Invalid SOS)"):
        simplejpeg.decode_jpeg(odd, strict=True)
    np.testing.assert_array_equal(training_image(odd, LARGE)[1], training_image(good, LARGE)[1])
    for damage in ("cut in the middle, with an end marker", "zeros in its scan", "too tall", "too narrow"):
        assert is_rejected(DAMAGE[damage](odd))
    assert is_rejected(insert(DAMAGE["too tall"](good), frame_at(good), JUNK))


@pytest.mark.parametrize("transform", [0, 1, 9])
def test_the_markers_of_jfif_and_adobe_together(transform: int) -> None:
    good = jpeg_of("plain")
    both = insert(good, 20, segment(b"\xff\xee", ADOBE[:-1] + bytes([transform])))
    np.testing.assert_array_equal(training_image(both, LARGE)[1], training_image(good, LARGE)[1])
    assert is_rejected(DAMAGE["cut in the middle, with an end marker"](both))


def test_a_whole_file_of_the_right_size_is_copied_and_an_odd_one_encoded_again() -> None:
    good = jpeg_of("plain", photo(5, 64, 64))
    with_thumbnail = insert(good, 2, EXIF)
    for data in (good, with_thumbnail, good + JUNK):
        assert training_image(data, LARGE)[0] == data
    without_end = training_image(good[:-2], LARGE)[0]
    assert without_end not in (good, good[:-2])
    assert without_end.endswith(END)


def test_other_files_of_headers_alone() -> None:
    for headers in (b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xc0\0\x02\xff\xc0\0\x02" + END):
        assert is_rejected(headers)
    data = jpeg_of("plain", photo(6))
    assert is_rejected(insert(data[:-1], frame_at(data), b"\xff\xc0\0\x02"))
    assert encoded(photo(6)) != data
