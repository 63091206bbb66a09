"""The mean image and the colour covariance are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from alexnet_dist.pack.accumulator import PixelAccumulator
from alexnet_dist.pack.pixel_sums import PixelSums
from alexnet_dist.pack.records import ShardJob, load_record, records_folder, save_record
from alexnet_dist.pack.shard import write_shard
from alexnet_dist.pack.sources.listing import ImageFile
from support.folders import encoded, request


def sums_of(images: npt.NDArray[np.uint8]) -> PixelSums:
    flat = images.reshape(-1, 3).astype(np.int64)
    return PixelSums(len(images), images.astype(np.int64).sum(0), flat.T @ flat)


def test_mean_and_covariance_agree_with_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    sums = sums_of(images)
    flat = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(sums.mean_image(), images.mean(0).transpose(2, 0, 1), rtol=1e-7)
    assert sums.mean_image().dtype == np.float32
    np.testing.assert_allclose(sums.colour().mean, flat.mean(0), rtol=1e-14)
    np.testing.assert_allclose(sums.colour().covariance, np.cov(flat.T, bias=True), rtol=1e-12)


def test_sums_add_up_in_any_order() -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    whole, first, last = sums_of(images), sums_of(images[:5]), sums_of(images[5:])
    for added in (first + last, last + first):
        assert added.colour() == whole.colour()
        np.testing.assert_array_equal(added.mean_image(), whole.mean_image())


def test_the_covariance_of_imagenets_size_keeps_its_digits() -> None:
    """A variance of one level, beside a mean of 254.5, over 1.28 million images of 256 x 256."""
    half = 1_281_168 // 2
    pixels = np.full((256, 256, 3), half * (254 + 255), np.int64)
    products = np.full((3, 3), half * 65536 * (254**2 + 255**2), np.int64)
    colour = PixelSums(2 * half, pixels, products).colour()
    assert colour.mean == (254.5, 254.5, 254.5)
    assert colour.covariance == ((0.25, 0.25, 0.25),) * 3


def test_a_shards_sums_are_exact_where_float32_would_not_be(tmp_path: Path) -> None:
    """Pixels of 255, more than 2**24 / 255**2 of them, whose products float32 would round."""
    size, pixels = 320, np.full((320, 320, 3), 255, np.uint8)
    pixels[0, 0] = 254
    data = encoded(pixels, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    options = request(tmp_path, tmp_path, size=size).options
    records_folder(tmp_path, "train").mkdir()
    job = ShardJob(tmp_path, "train", 0, tmp_path, 0, (ImageFile("a.png", 0, len(data), "a.png"),) * 3, options)
    write_shard(job)
    record = load_record(job.record_path)
    assert record is not None
    assert record.sums is not None
    expected = sums_of(np.stack([pixels] * 3))
    np.testing.assert_array_equal(record.sums.products, expected.products)
    np.testing.assert_array_equal(record.sums.pixels, expected.pixels)


@pytest.mark.parametrize("size", [16, 32, 40])
def test_every_pixel_is_added_whatever_the_size(size: int) -> None:
    images = np.random.default_rng(size).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    accumulator, expected = PixelAccumulator(size), sums_of(images)
    for image in images:
        accumulator.add(image)
    np.testing.assert_array_equal(accumulator.sums().products, expected.products)
    np.testing.assert_array_equal(accumulator.sums().pixels, expected.pixels)


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    records_folder(tmp_path, "train").mkdir()
    job = ShardJob(
        tmp_path, "train", 0, tmp_path, 0, (ImageFile("a.png", 0, 8, "a.png"),), request(tmp_path, tmp_path).options
    )
    write_shard(job)
    record, content = load_record(job.record_path), job.record_path.read_bytes()
    assert record is not None
    assert record.images == 0
    assert record.rejected[0].reason == "not a JPEG or PNG"
    for damaged in (b"", content[:-9], content[:100], content[:200] + bytes(50) + content[250:], b"x" * 300):
        job.record_path.write_bytes(damaged)
        assert load_record(job.record_path) is None
    save_record(record, job.record_path)
    assert job.record_path.read_bytes() == content
