"""Smoothing of curves and the mosaic of kernels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.figures.drawing import mosaic, smoothed


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 5))
def test_smoothing_is_the_mean_of_the_values_around(values: list[float], reach: int) -> None:
    width = min(len(values), 2 * reach + 1)
    width -= 1 - width % 2
    result = smoothed(np.array(values), width)
    windows = [values[max(0, index - width // 2) : index + width // 2 + 1] for index in range(len(values))]
    assert np.allclose(result, [np.mean(window) for window in windows], atol=1e-9)


def test_a_mosaic_holds_each_kernel_at_its_position() -> None:
    kernels = np.zeros((5, 3, 2, 2))
    kernels[4] = [[[2.0, -2.0], [0.0, 1.0]]] * 3
    picture = mosaic(kernels, 3)
    assert picture.shape == (2 * 3 + 1, 3 * 3 + 1, 3)
    assert np.all(picture[1:3, 1:3] == 0.5)  # zero is mid-grey
    assert picture[4:6, 4:6, 0].tolist() == [[1.0, 0.0], [0.5, 0.75]]
    assert np.all(picture[0] == 1)
    assert np.all(picture[4:6, 7:] == 1)  # no sixth kernel
