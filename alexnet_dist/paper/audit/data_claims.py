"""Claims about images and augmentation: packing, crops, mirroring, the mean, colour noise (§2, §4.1; A data code)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet_dist.data import augment, transform
from alexnet_dist.data.augment import TrainDraws
from alexnet_dist.data.choices import SPLITS
from alexnet_dist.data.loader import row_bytes
from alexnet_dist.data.manifest import Options, manifest_path
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.training import feed
from alexnet_dist.training.feed import Preparation
from alexnet_dist.training.run_plan import BatchSpec

PACKING = Topic("§2 Images", "paper; fix-big-imgnet.py, make-data.py")
CROPS = Topic("§4.1 Crops and mirror images", "paper; convdata_jpeg.py")
MEAN = Topic("§2 The mean is subtracted", "paper; convdata_jpeg.py")
COLOUR = Topic("§4.1 Colour noise", "paper; convdata_jpeg.py, input_meta")

# Of cuda-convnet2's input_meta: standard deviations of ImageNet's pixels along their principal components.
DEVIATIONS = np.array([121.78, 37.09, 19.72])
VECTORS = np.array([[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]])
COVARIANCE = VECTORS.T @ np.diag(DEVIATIONS**2) @ VECTORS
IMAGES = 200_000
SIZE = 256


def image_claims() -> Iterator[Claim]:
    """Yield the claims about packed images and the mean."""
    yield from _packing_claims()
    yield from _mean_claims()


def augmentation_claims() -> Iterator[Claim]:
    """Yield the claims about crops, mirror images and colour noise."""
    components = augment.colour_components(COVARIANCE)
    draws = _draws(IMAGES, 0)
    yield from _crop_claims(draws)
    yield from _colour_claims(draws, components)
    yield from _divisor_claims(components)


def _draws(images: int, epoch: int) -> TrainDraws:
    """Return the paper's draws for images of 256 pixels with ImageNet's covariance."""
    data = recipes.recipe(recipes.PAPER).data
    components = augment.colour_components(COVARIANCE)
    return augment.train_draws(0, epoch, np.arange(images), SIZE, data.crop, components, data.colour_noise)


def _packing_claims() -> Iterator[Claim]:
    options = Options(0, 256, 85, "420", "bicubic", 1024, None)
    for width, height in ((400, 300), (300, 400)):
        written = io.BytesIO()
        # The column's or row's position in the red channel: what is left of it shows which part was kept.
        ramp = np.linspace(0, 255, max(width, height)).astype(np.uint8)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = ramp if width > height else ramp[:, None]
        Image.fromarray(pixels).save(written, format="PNG")
        _, square = transform.training_image(written.getvalue(), options)
        text = f"{width} x {height} become"
        yield PACKING.equal(text, transform.training_image, "256 x 256", " x ".join(map(str, square.shape[:2])))
        ends = (square[128, [0, -1], 0] if width > height else square[[0, -1], 128, 0]).astype(float)
        lost = abs(ends[0] - (255 - ends[1]))  # a pixel is less than one level of the ramp
        yield PACKING.below(f"{width} x {height}: sides lose equally, levels", transform.training_image, 2, lost)
    yield PACKING.deviates_by_test(
        "JPEG quality (85: inferred)", "85", "90",
        "tests/data/test_transform.py:test_the_jpeg_has_the_quality_and_chroma_of_the_options",
        "S1: 90 is the default of pack --quality.",
    )  # fmt: skip
    yield PACKING.deviates_by_test(
        "images in a file", "1,024 pickled", "1,000 in a tar", "tests/pack/test_packing.py:test_tar_reads_a_shard",
        "Shards are plain tars, which other programs read; pack --samples-per-shard changes the number.",
    )  # fmt: skip
    splits = " ".join(split for split in SPLITS if split in manifest_path(Path(), split).name)
    yield PACKING.deviates(
        "first files of train, val and test", manifest_path, "0 2000 3000", "train val test", splits,
        "A split has a name and a manifest of its own, so that numbers need not be reserved for splits.",
    )  # fmt: skip
    yield PACKING.deviates_by_test(
        "means of red, green and blue", "127.3 119.7 104.9", "of each set",
        "tests/pack/test_pixel_sums.py:test_mean_and_covariance_agree_with_numpy",
        "No statistics of ImageNet are built in: pack computes the mean image and the covariance of each training set.",
    )  # fmt: skip


def _crop_claims(draws: TrainDraws) -> Iterator[Claim]:
    for name, offsets in (("top", draws.top), ("left", draws.left)):
        found = (int(offsets.min()), int(offsets.max()))
        yield CROPS.equal(f"{name}: first and last offset", augment.crop_offsets, (0, 32), found)
    cells = np.bincount(draws.top * 33 + draws.left, minlength=33 * 33)
    yield CROPS.equal("positions that occur, 33 x 33", augment.crop_offsets, 1089, int((cells > 0).sum()))
    expected = IMAGES / 1089
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    sigmas = abs(chi_square - 1088) / (2 * 1088) ** 0.5
    yield CROPS.below("their chi-square: from uniform, sigmas", augment.crop_offsets, 5.0, sigmas)
    yield CROPS.close("share of mirrored images", augment.train_draws, 0.5, float(draws.flip.mean()), 2.5 / IMAGES**0.5)
    variants = len(np.unique((draws.top * 33 + draws.left) * 2 + draws.flip))
    yield CROPS.deviates(
        "variants of an image", augment.train_draws, 2048, 2178, variants,
        "S10: both ends of 0 to 32 are drawn, so 33 x 33 x 2; the source draws the same, 2,048 is 32 x 32 x 2.",
    )  # fmt: skip
    one_batch = {(top, left) for top, left in zip(draws.top[:32].tolist(), draws.left[:32].tolist(), strict=True)}
    yield CROPS.deviates(
        "crops of 32 consecutive images: shared", augment.train_draws, True, False, len(one_batch) == 1,
        "S11: each image has its own crop and mirroring, as in the paper and in cuda-convnet2. Sharing them was an"
        " economy of the source's loader.",
    )  # fmt: skip
    later = _draws(1000, 1)
    same = int(((later.top == draws.top[:1000]) & (later.left == draws.left[:1000])).sum())
    yield CROPS.below("crops of 1,000 that the next one repeats", augment.train_draws, 10, same)


def _preparation(recipe: str, mean: Tensor, components: augment.Floats, noise: float) -> Preparation:
    config = recipes.recipe(recipe)
    return Preparation(
        seed=0, size=12, crop=8, flip=config.data.flip, noise_at=lambda _: noise,
        train_divisor=config.data.train_divisor, components=components, mean=mean, dtype=torch.float64,
    )  # fmt: skip


def _prepared(preparation: Preparation, value: int, train: bool, count: int = 64) -> Tensor:
    """Return the net's input from images whose pixels are all of one value, (count, 3, 8, 8)."""
    rows = torch.full((count, row_bytes(preparation.crop)), value, dtype=torch.uint8)
    return feed.prepare(BatchSpec(train, 0, 0, np.arange(count), 0), rows, preparation).images


def _mean_claims() -> Iterator[Claim]:
    coordinates = torch.arange(SIZE).expand(3, SIZE, SIZE)
    centre = augment.centre_crop(coordinates, recipes.recipe(recipes.PAPER).data.crop)
    found = (int(centre[0, 0, 0]), int(centre[0, 0, -1]))
    yield MEAN.equal("first and last column of the mean", augment.centre_crop, (16, 239), found)
    mean = 100 + torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = _preparation(recipes.PAPER, mean, np.zeros((3, 3)), 0.0)
    subtracted = 200 - _prepared(plain, 200, train=True)
    worst = (subtracted - mean.double()).abs().max().item()
    yield MEAN.below("the mean is the same for all crops", feed.prepare, 1e-9, worst)
    zero = replace(plain, mean=torch.zeros(3, 8, 8))
    scale = tuple(_prepared(zero, value, train=True).mean().item() for value in (0, 255))
    yield MEAN.equal("no scaling: pixels 0 and 255, mean 0", feed.prepare, (0.0, 255.0), scale)
    same = _prepared(zero, 255, train=False).mean().item()
    yield MEAN.equal("no scaling of test images: pixel 255", feed.prepare, 255.0, same)


def _colour_claims(draws: TrainDraws, components: augment.Floats) -> Iterator[Claim]:
    lengths = np.linalg.norm(components, axis=0)
    for index, expected in enumerate(DEVIATIONS):
        yield COLOUR.close(
            f"component {index + 1}: length", augment.colour_components, float(expected),
            float(lengths[index]), 0.02,
        )  # fmt: skip
        cosine = abs(float(components[:, index] @ VECTORS[index] / lengths[index] / np.linalg.norm(VECTORS[index])))
        yield COLOUR.close(
            f"component {index + 1}: cosine with input_meta's", augment.colour_components, 1.0, cosine, 1e-3
        )
        eigenvalue = (14_830.0, 1_376.0, 389.0)[index]
        yield COLOUR.close(
            f"component {index + 1}: eigenvalue", augment.colour_components, eigenvalue,
            float(lengths[index] ** 2), 1.0,
        )  # fmt: skip
    directions = components / lengths
    shifts = (draws.shift @ directions).std(axis=0)
    for index, expected in enumerate((12.18, 3.71, 1.97)):
        tolerance = 5 * expected / (2 * IMAGES) ** 0.5 + 0.005
        yield COLOUR.close(
            f"component {index + 1}: shift in grey levels",
            augment.train_draws,
            expected,
            float(shifts[index]),
            tolerance,
        )
    yield COLOUR.close("component 1: shift of pixels of 0 to 1", augment.train_draws, 0.0478, shifts[0] / 255, 3e-4)
    yield COLOUR.deviates(
        "a tenth of the eigenvalue, as printed", augment.train_draws, 1483, 12, round(float(shifts[0])),
        "S12: the factors are square roots of eigenvalues, as in the source. A shift of 1,483 grey levels cannot be"
        " intended.",
    )  # fmt: skip
    factors = draws.shift @ directions / lengths
    agreement = np.abs(np.corrcoef(factors.T) - np.eye(3)).max()
    yield COLOUR.below("correlation of the three factors", augment.train_draws, 5 / IMAGES**0.5, float(agreement))
    kurtosis = float((factors[:, 0] ** 4).mean() / (factors[:, 0] ** 2).mean() ** 2)
    yield COLOUR.close(
        "fourth moment of a factor, Gaussian: 3", augment.train_draws, 3.0, kurtosis, 5 * (96 / IMAGES) ** 0.5
    )
    later = _draws(1000, 1)
    repeated = int((later.shift == draws.shift[:1000]).all(axis=1).sum())
    yield COLOUR.deviates(
        "noise used again if its thread is late", augment.train_draws, True, False, repeated > 0,
        "S11: this is an economy of the source's loader. Here noise is a function of seed, epoch and image.",
    )  # fmt: skip


def _divisor_claims(components: augment.Floats) -> Iterator[Claim]:
    mean = torch.full((3, 8, 8), 100.0)
    noisy = _prepared(_preparation(recipes.PAPER, mean, components, 0.1), 200, train=True)
    constant = float((noisy - noisy[..., :1, :1]).abs().max())
    yield COLOUR.equal("differences of the shift in one image", feed.prepare, 0.0, constant)
    distinct = len(np.unique(noisy[:, :, 0, 0].numpy(), axis=0))
    yield COLOUR.equal("shifts of 64 images", feed.prepare, 64, distinct)
    untouched = _prepared(_preparation(recipes.PAPER, mean, components, 0.1), 200, train=False)
    yield COLOUR.equal("test images: pixel 200, mean 100", feed.prepare, 100.0, untouched.mean().item())
    for recipe, expected in ((recipes.PAPER, 1.0), (recipes.SOURCE, 1.1)):
        divided = _prepared(_preparation(recipe, mean, components, 0.1), 200, train=True)
        text = f"{recipe}: divisor in training"
        yield COLOUR.close(text, feed.prepare, expected, float((noisy / divided).median()), 1e-6)
        test = _prepared(_preparation(recipe, mean, components, 0.1), 200, train=False)
        yield COLOUR.equal(f"{recipe}: divisor in tests", feed.prepare, 1.0, float(100 / test.median()))
