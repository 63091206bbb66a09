"""The first layer's kernels: their colour score, their colours and their order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.figures.kernels import colour_scores, draw_conv1, scaled

Floats = npt.NDArray[np.float64]


def _kernels(seed: int, count: int = 4, side: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, 3, side, side))


def test_grey_scores_0_and_opponent_colours_score_1() -> None:
    plane = _kernels(0)[:, 0]
    grey = np.stack([plane, plane, plane], 1)
    opponent = np.stack([plane, -plane, 0 * plane], 1)  # red against green
    assert colour_scores(grey).tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert colour_scores(opponent).tolist() == pytest.approx([1] * 4)
    assert colour_scores(grey + opponent).tolist() == pytest.approx([2 / 5] * 4)  # energies 3 and 2, at right angles
    assert colour_scores(np.zeros((1, 3, 2, 2))).tolist() == [0]


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from([1, -1]))
def test_a_score_is_a_share_and_ignores_scale_and_sign(seed: int, scale: float, sign: int) -> None:
    kernels = _kernels(seed)
    scores = colour_scores(kernels)
    assert np.all((scores >= 0) & (scores <= 1))
    assert np.allclose(colour_scores(sign * scale * kernels), scores)
    assert np.allclose(colour_scores(kernels[:, [2, 0, 1]]), scores)  # which channel is red does not matter


def test_the_score_is_the_distance_to_the_nearest_grey_kernel() -> None:
    kernels = _kernels(3)
    colour = kernels - kernels.mean(1, keepdims=True)
    assert np.allclose(colour_scores(kernels), np.square(colour).sum((1, 2, 3)) / np.square(kernels).sum((1, 2, 3)))


def test_random_weights_score_two_thirds() -> None:
    assert colour_scores(_kernels(1, 200, 11)).mean() == pytest.approx(2 / 3, abs=0.01)


def test_zero_is_mid_grey_and_each_kernel_has_its_own_scale() -> None:
    kernels = np.zeros((2, 3, 2, 2))
    kernels[1] = [[[2.0, -2.0], [0.0, 1.0]]] * 3
    colours = scaled(kernels)
    assert np.all(colours[0] == 0.5)
    assert colours[1, :, :, 0].tolist() == [[1.0, 0.0], [0.5, 0.75]]


@pytest.mark.parametrize("counts", [(48,), (5, 5), (3, 3, 3)])
def test_each_tower_is_drawn_with_its_scores_in_order(counts: tuple[int, ...]) -> None:
    towers = [_kernels(number, count) for number, count in enumerate(counts)]
    figure = draw_conv1("run", towers)
    assert len(figure.axes) == len(counts)
    for tower, (axes, kernels) in enumerate(zip(figure.axes, towers, strict=True)):
        scores = colour_scores(kernels)
        title = f"tower {tower}: colour score {scores.mean():.2f} on average, median {np.median(scores):.2f}"
        assert axes.get_title("left") == title
        assert [text.get_text() for text in axes.texts] == [f"{score:.2f}" for score in sorted(scores)]
    caption = figure.texts[1].get_text()
    assert "What to look for" in caption
    assert ("one tower's kernels" in caption) == (len(counts) > 1)
