"""Activations at the joins: which maps are shown, units in reading order, one scale a join."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_dist.figures.activations import STRONGEST, Join, draw_activations, strip, strongest


def test_the_strongest_maps_have_the_largest_mean() -> None:
    maps = np.zeros((4, 2, 2))
    maps[1], maps[2, 0, 0], maps[3] = 2.0, 9.0, 2.0
    assert strongest(maps, 3) == [2, 1, 3]
    assert strongest(maps, 9) == [2, 1, 3, 0]


@pytest.mark.parametrize(("units", "shape"), [(2048, (16, 128)), (128, (4, 32)), (5, (1, 7)), (1, (1, 3))])
def test_a_strip_holds_the_units_in_reading_order(units: int, shape: tuple[int, int]) -> None:
    picture = strip(np.arange(units) / 1.0)
    assert picture.shape == shape
    assert picture.ravel()[:units].tolist() == list(range(units))
    assert np.isnan(picture.ravel()[units:]).all()


def test_each_tower_has_its_panel_at_each_join() -> None:
    random = np.random.default_rng(0)
    maps = [random.random((30, 3, 3)), 2 * random.random((30, 3, 3))]
    units = [np.array([0.0, 0.0, 1.0, 3.0]), np.zeros(4)]
    figure = draw_activations(
        "run", np.zeros((8, 8, 3), np.uint8), "a $label$", [Join("conv3", maps), Join("fc7", units)]
    )
    image, *panels = figure.axes
    assert image.get_title() == "a $label$"
    assert [axes.get_title("left") for axes in panels] == [
        f"tower 0 to conv3: {STRONGEST} of 30 maps, 0% zeros",
        f"tower 1 to conv3: {STRONGEST} of 30 maps, 0% zeros",
        "tower 0 to fc7: 4 units, 50% zeros",
        "tower 1 to fc7: 4 units, 100% zeros",
    ]
    scales = [axes.images[0].get_clim() for axes in panels]
    assert scales == [(0, maps[1].max())] * 2 + [(0, 3)] * 2
    figure.draw_without_rendering()
