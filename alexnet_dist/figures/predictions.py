"""Held-out images with their most probable classes, and with their nearest neighbours (figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alexnet_dist.figures.page import (
    FRAME_COLOUR,
    LABEL_POINTS,
    SUBTITLE_POINTS,
    TEXT_COLOUR,
    WIDTH,
    Key,
    clipped,
    new_page,
    percentage,
    short_name,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

RIGHT, OTHER, QUERY = "#e58a9b", "#a9c5e3", "#555555"
GUESSES, COLUMNS = 5, 4
IMAGE_WIDTH = 1.82  # inches, of an image with predictions and its bars
PERCENTAGE_WIDTH = 0.55  # inches
LEAST_COLUMNS = 5  # of neighbours.png; fewer images are not drawn larger
WRONG_SUFFIX = " (wrong)"


def draw_predictions(
    run: str, pictures: Sequence[Picture], truth: Sequence[int], probabilities: Floats, names: Sequence[str]
) -> Figure:
    """Draw images (H, W, 3) with their five most probable classes as bars, the right class in red (figure 4, left).

    truth: right class index of each image. probabilities: (n, classes). names: of all classes.
    """
    rows = -(-len(pictures) // COLUMNS)
    wrong = int(sum(probabilities.argmax(1) != truth))
    keys = [
        Key("the right class", RIGHT, "area"),
        Key("another class", OTHER, "area"),
        Key("the most probable class is wrong", FRAME_COLOUR, "frame"),
    ]
    caption = (
        "What to look for: whether the right class (the red bar, as in figure 4 of the paper) is first, how sure the"
        " net is, and whether the classes that it confuses look similar. Above each image is its right class."
    )
    title = f"{clipped(run, 30)}: {len(pictures)} held-out images, {wrong} of them wrong"
    figure = new_page(3.5 * rows, title, caption, keys)
    grid = figure.subplots(2 * rows, COLUMNS, height_ratios=[1.6, 1.0] * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        row, column = 2 * (number // COLUMNS), number % COLUMNS
        _draw_image(grid[row, column], picture, names[truth[number]], truth[number] == probabilities[number].argmax())
        _draw_bars(grid[row + 1, column], probabilities[number], truth[number], names)
    return figure


def _draw_image(axes: Axes, picture: Picture, name: str, is_right: bool) -> None:
    """Draw an image under its right class, in a frame if the net is wrong about it."""
    axes.imshow(picture)
    suffix = "" if is_right else WRONG_SUFFIX
    title = short_name(name, IMAGE_WIDTH - text_width(suffix, SUBTITLE_POINTS), SUBTITLE_POINTS) + suffix
    if not is_right:
        _set_frame(axes, FRAME_COLOUR)
    axes.set_title(title, fontsize=SUBTITLE_POINTS, color=TEXT_COLOUR, pad=9, parse_math=False)


def _set_frame(axes: Axes, colour: str) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=3.5)


def _draw_bars(axes: Axes, probabilities: Floats, truth: int, names: Sequence[str]) -> None:
    """Draw the most probable classes of one image as bars, with names and percentages."""
    best = np.argsort(-probabilities, kind="stable")[:GUESSES]
    colours = [RIGHT if label == truth else OTHER for label in best]
    axes.barh(range(len(best)), probabilities[best], color=colours, height=0.85)
    style: dict[str, Any] = {"va": "center", "fontsize": LABEL_POINTS, "color": TEXT_COLOUR, "parse_math": False}
    for bar, label in enumerate(best):
        name = short_name(names[label], IMAGE_WIDTH - PERCENTAGE_WIDTH, LABEL_POINTS)
        axes.text(0.02, bar, name, **style)
        axes.text(0.98, bar, percentage(float(probabilities[label])), ha="right", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(GUESSES - 0.1, -0.5)


def draw_neighbours(
    run: str, rows: Sequence[Sequence[int]], pictures: Sequence[Picture], truth: Sequence[int], names: Sequence[str]
) -> Figure:
    """Draw rows of images: a query, then its nearest neighbours (figure 4, right).

    rows: indices into `pictures` and `truth`, the query first. pictures: (H, W, 3) each. truth: right class index of
    each. names: of all classes.
    """
    columns = max(len(rows[0]), LEAST_COLUMNS)
    others = sum(truth[neighbour] != truth[query] for query, *neighbours in rows for neighbour in neighbours)
    keys = [Key("held-out image", QUERY, "frame"), Key("neighbour of another class", FRAME_COLOUR, "frame")]
    caption = (
        "What to look for: whether the nearest images, by Euclidean distance between the activations of the last hidden"
        " layer, show the same kind of thing although their pixels differ."
    )
    count = sum(len(row) - 1 for row in rows)
    title = f"{clipped(run, 30)}: nearest neighbours, {others} of {count} of another class"
    tile = (WIDTH - 0.3) / (columns + 0.4)  # inches
    figure = new_page((tile + 0.2) * len(rows), title, caption, keys)
    # The second column is empty and separates the query from its neighbours.
    widths = [1.0, 0.15] + [1.0] * (columns - 1)
    grid = figure.subplots(len(rows), columns + 1, width_ratios=widths, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes in line[[1, *range(len(row) + 1, columns + 1)]]:
            axes.set_axis_off()
        for axes, index in zip(line[[0, *range(2, len(row) + 1)]], row, strict=True):
            axes.imshow(pictures[index])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            name = short_name(names[truth[index]], tile - 0.05, LABEL_POINTS)
            axes.set_xlabel(name, fontsize=LABEL_POINTS, color=TEXT_COLOUR, labelpad=3, parse_math=False)
            if truth[index] != truth[row[0]]:
                _set_frame(axes, FRAME_COLOUR)
        _set_frame(line[0], QUERY)
    return figure
