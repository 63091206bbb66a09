"""The augmentation of §4.1 compared with a literal version of it: loops over samples, pixels and colours."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data.augment import (
    TrainDraws,
    centre_crop,
    centre_offset,
    colour_components,
    crop_offsets,
    network_input,
    ten_views,
    train_draws,
)
from alexnet_dist.system import rng

# Of ImageNet's training pixels, on the 0-255 scale: eigenvalues of about 14830, 1376 and 389.
IMAGENET = np.array(
    [
        [5474.4, 4705.5, 4322.0],
        [4705.5, 5183.8, 4909.2],
        [4322.0, 4909.2, 5936.4],
    ]
)
SIZE, CROP = 9, 6

Images = npt.NDArray[np.uint8]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


def drawn(ids: npt.NDArray[np.int64], epoch: int = 4, noise: float = 0.1) -> TrainDraws:
    return train_draws(3, epoch, ids, SIZE, CROP, colour_components(IMAGENET), noise)


def literal_shift(seed: int, epoch: int, sample: int, noise: float) -> list[float]:
    """Return [p1, p2, p3][a1 l1, a2 l2, a3 l3]^T of §4.1, where l are standard deviations as in the 2012 source."""
    u = rng.uniform(rng.key(seed, "augment", epoch), np.array([sample]), 7)[0]
    alphas = [
        noise * math.sqrt(-2 * math.log(u[3])) * math.cos(2 * math.pi * u[4]),
        noise * math.sqrt(-2 * math.log(u[3])) * math.sin(2 * math.pi * u[4]),
        noise * math.sqrt(-2 * math.log(u[5])) * math.cos(2 * math.pi * u[6]),
    ]
    values, vectors = np.linalg.eigh(IMAGENET)
    shift = [0.0, 0.0, 0.0]
    for alpha, i in zip(alphas, (2, 1, 0), strict=True):  # eigh's are ascending
        vector = [float(x) for x in vectors[:, i]]
        if max(vector, key=abs) < 0:
            vector = [-x for x in vector]
        for colour in range(3):
            shift[colour] += vector[colour] * alpha * math.sqrt(values[i])
    return shift


def test_training_images_equal_the_literal_version(images: Images) -> None:
    ids = np.array([5, 900, 3, 0, 77, 1281166, 12])
    draw = drawn(ids)
    mean = np.random.default_rng(1).random((3, CROP, CROP), dtype=np.float32) * 255
    crops = np.stack(
        [image[t : t + CROP, x : x + CROP] for image, t, x in zip(images, draw.top, draw.left, strict=True)]
    )
    ours = network_input(
        torch.from_numpy(crops),
        torch.from_numpy(mean),
        torch.float64,
        torch.from_numpy(draw.flip),
        torch.from_numpy(draw.shift),
    )
    assert ours.shape == (7, 3, CROP, CROP)
    assert draw.flip.any()
    assert not draw.flip.all()
    for n, sample in enumerate(ids):
        u = rng.uniform(rng.key(3, "augment", 4), np.array([sample]), 7)[0]
        top, left = int(u[0] * (SIZE - CROP + 1)), int(u[1] * (SIZE - CROP + 1))
        shift = literal_shift(3, 4, int(sample), 0.1)
        for y in range(CROP):
            for x in range(CROP):
                column = left + (CROP - 1 - x if u[2] < 0.5 else x)
                for colour in range(3):
                    # The mean is subtracted after the flip: it is not mirrored with the image.
                    expected = float(images[n, top + y, column, colour]) - float(mean[colour, y, x]) + shift[colour]
                    assert float(ours[n, colour, y, x]) == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), st.data())
def test_draws_belong_to_the_sample_and_not_to_the_batch(ids: list[int], data: st.DataObject) -> None:
    first_size = data.draw(st.integers(0, len(ids)))
    whole = drawn(np.array(ids, dtype=np.int64))
    parts = [drawn(np.array(part, dtype=np.int64)) for part in (ids[:first_size], ids[first_size:])]
    for name in ("top", "left", "flip", "shift"):
        concatenated = np.concatenate([getattr(part, name) for part in parts])
        assert concatenated.tobytes() == getattr(whole, name).tobytes(), name


def test_epochs_and_samples_draw_differently() -> None:
    ids = np.arange(50)
    assert not np.array_equal(drawn(ids).shift, drawn(ids, epoch=5).shift)
    assert len(np.unique(drawn(ids).shift, axis=0)) == 50


def test_draws_are_as_the_paper_describes() -> None:
    """Crops are uniform with both ends, half are flipped, and shifts have noise² times the pixels' covariance."""
    count = 40_000
    draw = drawn(np.arange(count))
    dtypes = [str(values.dtype) for values in (draw.top, draw.left, draw.flip, draw.shift)]
    assert dtypes == ["int64", "int64", "bool", "float32"]
    positions = np.bincount(draw.top * 4 + draw.left, minlength=16)
    assert len(positions) == 16
    chi_square = ((positions - count / 16) ** 2 / (count / 16)).sum()
    assert chi_square < 40  # 15 degrees of freedom: larger by chance 5 times in 10,000
    assert draw.flip.mean() == pytest.approx(0.5, abs=0.01)
    for name in ("top", "left"):
        assert abs(np.corrcoef(draw.flip, getattr(draw, name))[0, 1]) < 0.02
    np.testing.assert_allclose(np.cov(draw.shift.T), 0.01 * IMAGENET, rtol=0.03)
    np.testing.assert_allclose(draw.shift.mean(axis=0), 0, atol=0.2)
    principal = draw.shift @ (colour_components(IMAGENET)[:, 0] / math.sqrt(14830))
    assert principal.std() == pytest.approx(12.18, rel=0.02)  # the 2012 source's figure


def test_no_noise_no_shift() -> None:
    assert not drawn(np.arange(10), noise=0.0).shift.any()


def test_workers_draw_the_same_crop() -> None:
    ids = np.arange(30)
    top, left = crop_offsets(3, 4, ids, SIZE, CROP)
    np.testing.assert_array_equal(top, drawn(ids).top)
    np.testing.assert_array_equal(left, drawn(ids).left)
    assert set(np.concatenate(crop_offsets(3, 4, ids, CROP, CROP))) == {0}


def test_components_rebuild_the_covariance() -> None:
    components = colour_components(IMAGENET)
    np.testing.assert_allclose(components @ components.T, IMAGENET, rtol=1e-10)
    lengths = np.linalg.norm(components, axis=0)
    assert list(lengths) == sorted(lengths, reverse=True)
    for column in components.T:
        assert max(column, key=abs) > 0


def test_components_of_a_grey_set_are_finite() -> None:
    components = colour_components(np.full((3, 3), 100.0))
    np.testing.assert_allclose(components @ components.T, np.full((3, 3), 100.0), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_evaluation_only_subtracts_the_mean(images: Images, dtype: torch.dtype) -> None:
    mean = torch.full((3, SIZE, SIZE), 100.25)
    ours = network_input(torch.from_numpy(images), mean, dtype)
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    exact = np.moveaxis(images, 3, 1).astype(np.float64) - 100.25
    assert torch.equal(ours, torch.from_numpy(exact).to(dtype))


def test_training_images_are_divided_after_the_shift(images: Images) -> None:
    pixels, mean = torch.from_numpy(images), torch.full((3, SIZE, SIZE), 100.25)
    shift = torch.arange(21, dtype=torch.float32).view(7, 3)
    ours = network_input(pixels, mean, torch.float64, None, shift, divisor=1.1)
    exact = (np.moveaxis(images, 3, 1) - 100.25 + shift.numpy()[:, :, None, None]) / 1.1
    np.testing.assert_allclose(ours.numpy(), exact, rtol=1e-14, atol=1e-14)


def test_network_input_reads_strided_rows_and_leaves_them_alone(images: Images) -> None:
    rows = torch.zeros(7, SIZE * SIZE * 3 + 8, dtype=torch.uint8)
    pixels = rows[:, :-8].view(7, SIZE, SIZE, 3)
    pixels.copy_(torch.from_numpy(images))
    mean, flip, shift = torch.rand(3, SIZE, SIZE), torch.ones(7, dtype=torch.bool), torch.rand(7, 3)
    ours = network_input(pixels, mean, torch.float32, flip, shift)
    assert torch.equal(ours, network_input(torch.from_numpy(images), mean, torch.float32, flip, shift))
    assert np.array_equal(pixels.numpy(), images)


@pytest.mark.parametrize(("size", "crop", "offset"), [(256, 224, 16), (32, 28, 2), (9, 6, 1), (5, 5, 0)])
def test_centre_offset(size: int, crop: int, offset: int) -> None:
    assert centre_offset(size, crop) == offset


def test_centre_crop_of_planes_and_of_images_with_channels_last(images: Images) -> None:
    """It is a view of the pixels 1 to 6 of 9, of arrays and of tensors."""
    mean = np.moveaxis(images[0], 2, 0)
    for cropped in (centre_crop(mean, CROP), centre_crop(torch.from_numpy(mean), CROP).numpy()):
        assert np.array_equal(cropped, mean[:, 1:7, 1:7])
        assert np.shares_memory(cropped, images)
    for cropped in (centre_crop(images, CROP, channels_last=True), centre_crop(images[0], CROP, channels_last=True)):
        assert cropped.shape[-3:] == (CROP, CROP, 3)
        assert np.array_equal(cropped, images[:, 1:7, 1:7] if cropped.ndim == 4 else images[0, 1:7, 1:7])
    assert np.array_equal(centre_crop(mean, SIZE), mean)


def test_ten_views_equal_the_literal_version(images: Images) -> None:
    """Four corners, the centre, and their horizontal reflections (§4.1)."""
    ours = ten_views(torch.from_numpy(images), CROP)
    assert ours.shape == (10, 7, CROP, CROP, 3)
    assert ours.dtype == torch.uint8
    corners = [(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)]
    for view in range(10):
        top, left = corners[view % 5]
        for n in range(7):
            for y in range(CROP):
                for x in range(CROP):
                    column = CROP - 1 - x if view >= 5 else x
                    assert list(ours[view, n, y, x]) == list(images[n, top + y, left + column])


def test_ten_views_of_a_whole_image_are_itself_and_its_mirror(images: Images) -> None:
    ours = ten_views(torch.from_numpy(images), SIZE)
    for view in range(5):
        assert np.array_equal(ours[view].numpy(), images)
        assert np.array_equal(ours[view + 5].numpy(), images[:, :, ::-1])
