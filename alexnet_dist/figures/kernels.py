"""The first layer's kernels by tower, sorted by how much colour they respond to (figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alexnet_dist.figures.mosaic import GAP, corner, enlarged, mosaic
from alexnet_dist.figures.page import MARGIN, SUBTITLE_POINTS, TEXT_COLOUR, WIDTH, clipped, new_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

SCORE_POINTS = 7
SCORE_HEIGHT = 0.14  # inches, below each kernel
SUBTITLE_HEIGHT = 0.3  # inches


def colour_scores(kernels: Floats) -> Floats:
    """Return how much of each kernel's energy is colour, 0 to 1; (n, 3, k, k) to (n,).

    The energy is the sum of the squared weights. At each position the weights of red, green and blue are a vector; its
    part along the grey axis, red = green = blue, is no colour, and the rest is. The score is the rest's share: 0 if the
    three channels are equal, 1 if they add up to zero everywhere, 2/3 on average for independent Gaussian weights. A
    kernel of zeros scores 0.
    """
    energy = np.square(kernels).sum((1, 2, 3))
    grey = np.square(kernels.sum(1)).sum((1, 2)) / kernels.shape[1]
    scores = 1 - np.divide(grey, energy, out=np.ones_like(energy), where=energy > 0)
    clipped_scores: Floats = np.clip(scores, 0.0, 1.0)  # rounding may leave -1e-16
    return clipped_scores


def scaled(kernels: Floats) -> Floats:
    """Return kernels (n, 3, k, k) as colours (n, k, k, 3) in 0 to 1.

    Each is scaled by its own largest absolute weight; zero is mid-grey.
    """
    largest = np.abs(kernels).max((1, 2, 3), keepdims=True)
    return np.moveaxis(0.5 + 0.5 * kernels / np.maximum(largest, 1e-12), 1, 3)


def draw_conv1(name: str, towers: Sequence[Floats]) -> Figure:
    """Draw the first layer's kernels, an array (n, 3, k, k) for each tower, those without colour first."""
    tiles = [enlarged(scaled(kernels)) for kernels in towers]
    side = tiles[0].shape[1]
    columns = 16 if len(tiles[0]) >= 32 else 8
    pixel = (WIDTH - 2 * MARGIN) / (columns * (side + GAP) - GAP)  # inches
    foot = round(SCORE_HEIGHT / pixel)
    scores = [colour_scores(kernels) for kernels in towers]
    orders = [np.argsort(found, kind="stable") for found in scores]
    pictures = [mosaic(tile[order], columns, 1.0, foot) for tile, order in zip(tiles, orders, strict=True)]
    heights = [pixel * len(picture) + SUBTITLE_HEIGHT for picture in pictures]
    kernel = towers[0].shape[-1]
    title = (
        f"{clipped(name, 30)}: {sum(map(len, towers))} kernels of {kernel} × {kernel} in the first layer, grey first"
    )
    figure = new_page(sum(heights), title, _caption(len(towers)))
    panels = figure.subplots(len(towers), 1, height_ratios=heights, squeeze=False)[:, 0]
    for tower, axes in enumerate(panels):
        picture, found = pictures[tower], scores[tower][orders[tower]]
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        subtitle = f"tower {tower}: colour score {found.mean():.2f} on average, median {np.median(found):.2f}"
        axes.set_title(subtitle, loc="left", fontsize=SUBTITLE_POINTS, color=TEXT_COLOUR)
        for number, score in enumerate(found):
            top, left = corner(number, columns, side, foot)
            position = (left + side / 2 - 0.5, top + side + 0.45 * foot)
            axes.text(*position, f"{score:.2f}", ha="center", va="center", fontsize=SCORE_POINTS, color=TEXT_COLOUR)
    return figure


def _caption(towers: int) -> str:
    look = "whether the kernels without colour find edges and those with colour find blobs"
    if towers > 1:
        look = (
            "whether one tower's kernels are mostly grey and the other's mostly coloured, as in every run of the paper"
        )
    return (
        f"What to look for: {look} (§6.1). Below each kernel is its colour score, the share of its energy off the grey"
        " axis: 0 is grey, 1 is pure colour, and random weights score 0.67 on average."
    )
