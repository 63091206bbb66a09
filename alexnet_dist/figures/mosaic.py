"""Tiles in rows on one picture: kernels of the first layer, maps of a join."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_SIDE, GAP = 32, 3  # pixels: of an enlarged tile, between two tiles


def enlarged(tiles: Floats) -> Floats:
    """Return tiles (n, side, side, ...) with each pixel repeated until a side has at least LEAST_SIDE pixels."""
    times = -(-LEAST_SIDE // tiles.shape[1])
    return tiles.repeat(times, 1).repeat(times, 2)


def corner(number: int, columns: int, side: int, foot: int = 0) -> tuple[int, int]:
    """Return the (top, left) pixel of a tile in `mosaic`."""
    return number // columns * (side + GAP + foot), number % columns * (side + GAP)


def mosaic(tiles: Floats, columns: int, blank: float, foot: int = 0) -> Floats:
    """Arrange square tiles in rows, GAP pixels apart; (n, side, side, ...) to (height, width, ...).

    columns: tiles in a row. blank: value between tiles and where there is none. foot: blank pixels below each row.
    """
    count, side = tiles.shape[:2]
    rows = -(-count // columns)
    picture = np.full((rows * (side + GAP + foot) - GAP, columns * (side + GAP) - GAP, *tiles.shape[3:]), blank)
    for number, tile in enumerate(tiles):
        top, left = corner(number, columns, side, foot)
        picture[top : top + side, left : left + side] = tile
    return picture
