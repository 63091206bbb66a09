"""What the towers send each other at the joins for one image: the strongest maps, and the units of hidden layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alexnet_dist.figures.mosaic import enlarged, mosaic
from alexnet_dist.figures.page import LABEL_POINTS, SUBTITLE_POINTS, TEXT_COLOUR, WIDTH, clipped, new_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

STRONGEST, COLUMNS = 24, 8  # maps of a tower at a join, and in a row
STRIP_ASPECT = 8  # width of a strip of units by its height
IMAGE_HEIGHT, SUBTITLE_HEIGHT = 1.9, 0.35  # inches
COLOUR_MAP = "magma"


@dataclass(frozen=True, eq=False)
class Join:
    """What each tower sends at one join for one image.

    into: the layer that reads it. sent: float64 (maps, side, side) or (units,), one array a tower.
    """

    into: str
    sent: Sequence[Floats]


def strongest(maps: Floats, count: int) -> list[int]:
    """Return the indices of the `count` maps of (n, side, side) with the largest mean, largest first."""
    return [int(index) for index in np.argsort(-maps.mean((1, 2)), kind="stable")[:count]]


def strip(units: Floats) -> Floats:
    """Return units (n,) in reading order as a picture about STRIP_ASPECT times as wide as high, ending in NaN."""
    columns = math.ceil(math.sqrt(STRIP_ASPECT * len(units)))
    rows = -(-len(units) // columns)
    picture = np.full(rows * columns, np.nan)
    picture[: len(units)] = units
    return picture.reshape(rows, columns)


def draw_activations(run: str, picture: Picture, label: str, joins: Sequence[Join]) -> Figure:
    """Draw an image (H, W, 3) and, for each of its joins, what each tower sends; towers are columns.

    label: what the net makes of the image. The activations of a join share one scale.
    """
    towers = len(joins[0].sent)
    panels = [[_panel(sent) for sent in join.sent] for join in joins]
    width = (WIDTH - 0.5) / towers  # inches
    heights = [max(width * len(panel) / panel.shape[1] for panel in row) + SUBTITLE_HEIGHT for row in panels]
    caption = (
        "What to look for: how few activations are large, and whether the towers send different things. Bright is"
        f" large, black is zero or less, on one scale a join. Shown are a tower's {STRONGEST} maps of largest mean, or"
        " all units of a fully connected layer, one a cell."
    )
    title = f"{clipped(run, 30)}: activations at the joins for one held-out image"
    figure = new_page(IMAGE_HEIGHT + sum(heights), title, caption)
    grid = figure.add_gridspec(1 + len(joins), towers, height_ratios=[IMAGE_HEIGHT, *heights])
    image_axes = figure.add_subplot(grid[0, :])
    image_axes.imshow(picture)
    image_axes.set_axis_off()
    image_axes.set_title(label, fontsize=SUBTITLE_POINTS, color=TEXT_COLOUR, parse_math=False)
    for row, join in enumerate(joins):
        largest = max(float(sent.max()) for sent in join.sent)
        for tower, sent in enumerate(join.sent):
            axes = figure.add_subplot(grid[1 + row, tower])
            _draw_panel(axes, panels[row][tower], largest)
            axes.set_title(_subtitle(join.into, tower, sent), loc="left", fontsize=LABEL_POINTS, color=TEXT_COLOUR)
    return figure


def _panel(sent: Floats) -> Floats:
    """Return what one tower sends as a picture; NaN is blank."""
    return strip(sent) if sent.ndim == 1 else mosaic(enlarged(sent[strongest(sent, STRONGEST)]), COLUMNS, np.nan)


def _draw_panel(axes: Axes, panel: Floats, largest: float) -> None:
    axes.imshow(panel, cmap=COLOUR_MAP, vmin=0.0, vmax=max(largest, 1e-12), interpolation="nearest")
    axes.set_axis_off()


def _subtitle(into: str, tower: int, sent: Floats) -> str:
    what = f"{len(sent):,} units" if sent.ndim == 1 else f"{min(STRONGEST, len(sent))} of {len(sent)} maps"
    return f"tower {tower} to {into}: {what}, {np.mean(sent == 0):.0%} zeros"
