"""The demo's images: reproducible, of mixed formats, and not separable by a linear classifier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist.demo import images

SIDE = 16
TRAIN, VAL = 1600, 300


def test_an_image_is_a_function_of_seed_split_and_number() -> None:
    first, again = images.draw(3, "train", 7), images.draw(3, "train", 7)
    assert (first.name, first.suffix) == (again.name, again.suffix)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    for other in (images.draw(4, "train", 7), images.draw(3, "val", 7), images.draw(3, "train", 17)):
        assert other.name == first.name
        assert np.asarray(other.image).tobytes() != np.asarray(first.image).tobytes()


def test_any_number_of_processes_writes_the_same_files(tmp_path: Path) -> None:
    for processes in (1, 2):
        images.write(tmp_path / str(processes), 0, "val", 23, processes)
    serial, parallel = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}
        for root in (tmp_path / "1", tmp_path / "2")
    )
    assert serial == parallel
    assert len(serial) == 23
    assert {path.parts[1] for path in serial} == set(images.CLASSES)


def test_files_are_as_mixed_as_found_ones(tmp_path: Path) -> None:
    images.write(tmp_path, 0, "train", 200, 1)
    kinds: Counter[tuple[str | None, str]] = Counter()
    sizes = set()
    for path in (tmp_path / "train").rglob("*.*"):
        with Image.open(path) as image:
            kinds[image.format, image.mode] += 1
            sizes.add(image.size)
            assert (path.suffix == ".png") == (image.format == "PNG")
    assert set(kinds) == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")}
    assert min(kinds.values()) >= 5
    assert {min(size) for size in sizes} <= set(range(60, 121))
    assert len(sizes) > 150
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 0.75
    assert max(ratios) > 1.33


def test_classes_take_turns() -> None:
    assert len(images.CLASSES) >= 8
    assert [images.draw(0, "train", number).name for number in range(20)] == [*images.CLASSES] * 2


def _pixels_and_labels(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return centre squares as float32 (count, 3 * SIDE * SIDE) pixels, and labels (count,)."""
    rows = []
    for number in range(count):
        image = images.draw(0, split, number).image.convert("RGB")
        side, (width, height) = min(image.size), image.size
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BOX)
        rows.append(np.asarray(square, dtype=np.float32).ravel())
    return torch.from_numpy(np.stack(rows)), torch.arange(count) % len(images.CLASSES)


def _linear_error(train: Tensor, labels: Tensor, val: Tensor, truth: Tensor, decay: float) -> float:
    """Train a multinomial logistic regression on standardised pixels to convergence; return the held-out error."""
    mean, spread = train.mean(0), train.std(0)
    train, val = (train - mean) / spread, (val - mean) / spread
    weights = torch.zeros(train.shape[1], len(images.CLASSES), requires_grad=True)
    bias = torch.zeros(len(images.CLASSES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(train @ weights + bias, labels) + decay / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert float(weights.grad.norm()) < 0.02
    return float(((val @ weights + bias).argmax(1) != truth).float().mean())


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training pixels and labels, held-out pixels and labels."""
    return *_pixels_and_labels("train", TRAIN), *_pixels_and_labels("val", VAL)


def test_a_linear_classifier_on_the_pixels_stays_above_half(sets: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    errors = {decay: _linear_error(*sets, decay) for decay in (0.1, 1.0)}
    assert min(errors.values()) > 0.5, errors


def test_a_linear_classifier_would_notice_a_colour_that_gives_the_class_away(
    sets: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hints = torch.randn(len(images.CLASSES), sets[0].shape[1], generator=torch.Generator().manual_seed(0))
    train, labels, val, truth = sets
    assert _linear_error(train + 12 * hints[labels], labels, val + 12 * hints[truth], truth, 0.3) < 0.2
