"""Weights of an ensemble: the weighted mean literally, and a search that never makes more images wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet_dist.runs import ensemble
from alexnet_dist.runs.ensemble import search_weights, weighted_mean, wrong


def drawn(runs: int, images: int, classes: int, seed: int, levels: int = 0) -> tuple[Tensor, Tensor]:
    """Return probabilities, with ties if they have few levels, and labels that the runs know more or less well."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = 2 * torch.randn(runs, images, classes, generator=generator)
    logits[:, torch.arange(images), labels] += 3 * torch.rand(runs, images, generator=generator)
    return (logits.round() if levels else logits).softmax(2), labels


def literally_wrong(probabilities: Tensor, labels: Tensor, weights: list[float]) -> int:
    """Count the images whose label is not among the first: sorted by probability, then by index."""
    top, count = 5 if probabilities.shape[2] > 5 else 1, 0
    for image, label in enumerate(labels.tolist()):
        mean = [
            sum(weight * float(row[image, column]) for weight, row in zip(weights, probabilities, strict=True))
            for column in range(probabilities.shape[2])
        ]
        count += label not in sorted(range(len(mean)), key=lambda column: (-mean[column], column))[:top]
    return count


SETS = st.tuples(
    st.integers(1, 4), st.integers(1, 30), st.integers(2, 9), st.integers(0, 10_000), st.integers(0, 1)
)  # fmt: skip


@given(SETS)
@settings(max_examples=40)
def test_found_weights_are_weights_and_never_worse_than_equal_ones(numbers: tuple[int, int, int, int, int]) -> None:
    probabilities, labels = drawn(*numbers)
    weights, equal = search_weights(probabilities, labels), [1 / numbers[0]] * numbers[0]
    assert len(weights) == numbers[0]
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    found = wrong(probabilities, labels, weights)
    assert found < wrong(probabilities, labels, equal) or weights == equal
    assert weights == search_weights(probabilities.clone(), labels.clone())


@given(SETS, st.lists(st.integers(0, 8), min_size=4, max_size=4))
@settings(max_examples=40)
def test_wrong_images_are_counted_as_by_hand(numbers: tuple[int, int, int, int, int], parts: list[int]) -> None:
    """In eighths and sixteenths sums are exact, so that ties are ties."""
    runs, images, classes, seed, _ = numbers
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randint(0, 4, (runs, images, classes), generator=generator) / 16
    labels = torch.randint(0, classes, (images,), generator=generator)
    weights = [part / 8 for part in [1 + parts[0], *parts[1:]][:runs]]
    assert wrong(probabilities, labels, weights) == literally_wrong(probabilities, labels, weights)
    # What the search counts instead of this.
    assert ensemble._contest(probabilities, labels).wrong(weights) == wrong(probabilities, labels, weights)


def test_the_mean_is_weighted_and_leaves_out_a_run_of_weight_0() -> None:
    probabilities, _ = drawn(3, 4, 6, 1)
    expected = 0.25 * probabilities[0].double() + 0.75 * probabilities[2].double()
    probabilities[1] = torch.nan
    assert torch.allclose(weighted_mean(probabilities, [0.25, 0, 0.75]), expected, rtol=1e-12)


def test_a_search_finds_the_run_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that agree on wrong classes outvote a right one; the images are in several chunks."""
    monkeypatch.setattr(ensemble, "CHUNK", 70)
    labels = torch.arange(30) % 10
    wrong_run = torch.zeros(30, 10)
    for shift in range(1, 6):
        wrong_run[torch.arange(30), (labels + shift) % 10] = 0.2
    right = torch.full((30, 10), 0.01)
    right[torch.arange(30), labels] = 0.15
    probabilities = torch.stack([wrong_run, right, wrong_run])
    assert wrong(probabilities, labels, [1 / 3] * 3) == 30
    weights = search_weights(probabilities, labels)
    assert wrong(probabilities, labels, weights) == 0
    assert weights[1] > 0.5


def test_an_image_with_a_probability_that_is_not_a_number_is_wrong() -> None:
    probabilities, labels = drawn(2, 5, 7, 3)
    probabilities[0, 2, 1] = torch.nan
    weights = search_weights(probabilities, labels)
    assert sum(weights) == pytest.approx(1)
    assert wrong(probabilities[:, 2:3], labels[2:3], [0.5, 0.5]) == 1


def test_equal_runs_keep_equal_weights() -> None:
    probabilities, labels = drawn(1, 40, 9, 2)
    assert search_weights(probabilities.expand(3, -1, -1), labels) == [1 / 3] * 3
