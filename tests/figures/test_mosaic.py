"""Tiles in rows: enlargement, positions, and what is between them."""

from __future__ import annotations

import numpy as np

from alexnet_dist.figures.mosaic import GAP, LEAST_SIDE, corner, enlarged, mosaic


def test_a_mosaic_holds_each_tile_at_its_corner() -> None:
    tiles = np.arange(5 * 4).reshape(5, 2, 2) / 1.0
    picture = mosaic(tiles, 3, -1.0, foot=4)
    assert picture.shape == (2 * (2 + GAP + 4) - GAP, 3 * (2 + GAP) - GAP)
    for number, tile in enumerate(tiles):
        top, left = corner(number, 3, 2, 4)
        assert np.array_equal(picture[top : top + 2, left : left + 2], tile)
    assert np.count_nonzero(picture != -1) == tiles.size  # nothing between them, below them or in the sixth place


def test_enlarged_tiles_repeat_their_pixels() -> None:
    tiles = np.random.default_rng(0).normal(size=(2, 11, 11, 3))
    large = enlarged(tiles)
    assert large.shape == (2, 33, 33, 3)
    assert np.array_equal(large[:, 1::3, 2::3], tiles)
    assert enlarged(np.zeros((1, LEAST_SIDE + 1, LEAST_SIDE + 1))).shape == (1, LEAST_SIDE + 1, LEAST_SIDE + 1)
