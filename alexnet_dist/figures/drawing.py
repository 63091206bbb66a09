"""Drawing of a run's pictures with matplotlib: curves, conv1's kernels, predictions, nearest neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alexnet_dist.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

DOTS_PER_INCH = 150
TRAINING, VALIDATION, RIGHT, WRONG, TEXT_COLOUR = "#3b6ea8", "#d1622b", "#e58a9b", "#a9c5e3", "#333333"
GUESSES = 5


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width x height inches, without pyplot: no window and no global state.

    Raises UserError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed; pip install 'alexnet_dist[figures]'") from None
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def smoothed(values: Floats, width: int) -> Floats:
    """Return the moving average over `width` values, over fewer at both ends; (n,) to (n,)."""
    counts = np.convolve(np.ones_like(values), np.ones(width), mode="same")
    mean: Floats = np.convolve(values, np.ones(width), mode="same") / counts
    return mean


def draw_curves(name: str, steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and error over epochs from the lines of metrics.jsonl and evaluations.jsonl."""
    figure = new_figure(10.0, 4.2)
    epochs = _column(steps, "epoch")
    width = min(len(steps), max(1, 2 * (len(steps) // 50) + 1))
    for axes, key, title in zip(figure.subplots(1, 2), ("loss", "top1_error"), ("loss", "top-1 error"), strict=True):
        values = _column(steps, key)
        axes.plot(epochs, values, color=TRAINING, alpha=0.25, linewidth=0.8)
        axes.plot(epochs, smoothed(values, width), color=TRAINING, linewidth=1.8, label="training batches, smoothed")
        if evaluations:
            _plot_evaluations(axes, evaluations, key)
        _mark_drops(axes, steps)
        axes.set_title(title, loc="left", fontsize=10, color=TEXT_COLOUR)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch", color=TEXT_COLOUR)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1.01 * float(epochs[-1]))
        if key == "top1_error":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _set_caption(figure, f"{name}: {int(steps[-1]['step']):,} steps, {int(steps[-1]['images']):,} images")
    return figure


def _column(lines: Sequence[dict[str, Any]], key: str) -> Floats:
    return np.array([line[key] for line in lines], dtype=np.float64)


def _plot_evaluations(axes: Axes, evaluations: Sequence[dict[str, Any]], key: str) -> None:
    """Plot loss or error on the held-out images, with the last value as a label."""
    epochs, values = _column(evaluations, "epoch"), _column(evaluations, key)
    axes.plot(epochs, values, "o-", color=VALIDATION, markersize=4, label="held-out images")
    last = f"{values[-1]:.3f}" if key == "loss" else f"{values[-1]:.1%}"
    point = (float(epochs[-1]), float(values[-1]))
    axes.annotate(last, point, xytext=(8, 0), textcoords="offset points", va="center", color=VALIDATION)


def _mark_drops(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """Mark the epochs at which the learning rate drops."""
    for before, after in itertools.pairwise(steps):
        if after["learning_rate"] < before["learning_rate"]:
            epoch, note = before["epoch"], f"lr {after['learning_rate']:g} "
            axes.axvline(epoch, color=TEXT_COLOUR, linewidth=0.8, linestyle=":")
            axes.text(epoch, 0.98, note, transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=8)


def _set_caption(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=11, color=TEXT_COLOUR)


def mosaic(kernels: Floats, columns: int) -> Floats:
    """Arrange kernels (n, 3, k, k) in one picture (rows * (k + 1) + 1, ..., 3) in 0 to 1, separated by white lines.

    Each kernel is scaled by its own largest absolute value; zero is mid-grey.
    """
    count, _, side, _ = kernels.shape
    rows = -(-count // columns)
    picture = np.ones((rows * (side + 1) + 1, columns * (side + 1) + 1, 3))
    for number, kernel in enumerate(kernels):
        top, left = 1 + number // columns * (side + 1), 1 + number % columns * (side + 1)
        scaled = 0.5 + 0.5 * kernel / max(float(np.abs(kernel).max()), 1e-12)
        picture[top : top + side, left : left + side] = scaled.transpose(1, 2, 0)
    return picture


def draw_conv1(name: str, kernels: Floats) -> Figure:
    """Draw conv1's kernels (n, 3, k, k), tower 0's half above tower 1's, as in figure 3 of the paper."""
    half = len(kernels) // 2
    columns = 16 if half >= 32 else 8
    pictures = [mosaic(part, columns) for part in (kernels[:half], kernels[half:])]
    height, width, _ = pictures[0].shape
    figure = new_figure(8.0, 2 * (8.0 * height / width + 0.3) + 0.4)
    for tower, (axes, picture) in enumerate(zip(figure.subplots(2, 1), pictures, strict=True)):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"tower {tower}", loc="left", fontsize=10, color=TEXT_COLOUR)
    _set_caption(figure, f"{name}: conv1, {len(kernels)} kernels of {kernels.shape[2]} x {kernels.shape[3]}")
    return figure


def draw_predictions(
    pictures: Sequence[Picture], truth: Sequence[int], probabilities: Floats, names: Sequence[str]
) -> Figure:
    """Draw images (H, W, 3) with their five most probable classes as bars, the true class in red (figure 4, left).

    truth: true class index of each image. probabilities: (n, classes). names: of all classes.
    """
    columns = 4
    rows = -(-len(pictures) // columns)
    figure = new_figure(10.0, 4.4 * rows)
    grid = figure.subplots(2 * rows, columns, height_ratios=[1.6, 1.0] * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        row, column = 2 * (number // columns), number % columns
        image_axes, bar_axes = grid[row, column], grid[row + 1, column]
        image_axes.imshow(picture)
        image_axes.set_title(names[truth[number]], fontsize=11, color=TEXT_COLOUR)
        best = np.argsort(-probabilities[number])[:GUESSES]
        colours = [RIGHT if label == truth[number] else WRONG for label in best]
        bar_axes.barh(range(len(best)), probabilities[number][best], color=colours, height=0.85)
        for bar, label in enumerate(best):
            bar_axes.text(0.02, bar, names[label], va="center", fontsize=9, color=TEXT_COLOUR)
        bar_axes.set_xlim(0, 1)
        bar_axes.set_ylim(GUESSES - 0.5, -0.5)
    return figure


def draw_neighbours(pictures: Sequence[Sequence[Picture]]) -> Figure:
    """Draw rows of images (H, W, 3): a query, then its nearest neighbours (figure 4, right)."""
    columns = len(pictures[0])
    figure = new_figure(1.4 * columns + 0.3, 1.4 * len(pictures) + 0.5)
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for axes, picture in zip(grid.flat, itertools.chain.from_iterable(pictures), strict=True):
        axes.imshow(picture)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes in grid[:, 0]:
        axes.spines[:].set(visible=True, color=RIGHT, linewidth=2.5)
    grid[0, 0].set_title("image", loc="left", fontsize=10, color=TEXT_COLOUR)
    title = grid[0, 1].set_title("nearest others by the last hidden layer", loc="left", fontsize=10, color=TEXT_COLOUR)
    title.set_in_layout(False)  # it extends over the next columns
    return figure
