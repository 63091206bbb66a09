"""python -m alexnet_dist.figures RUN OUT/: a run in pictures; its curves, kernels, predictions, nearest neighbours.

curves.png and conv1.png need the run directory alone; predictions.png and neighbours.png also the held-out shards.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch import Tensor

from alexnet_dist import rng
from alexnet_dist.data import augment
from alexnet_dist.data.manifest import SPLITS, manifest_path
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.data.remote import locate
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.runs.load import Run
from alexnet_dist.runs.weights import named_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

DOTS_PER_INCH = 150
TRAINING, VALIDATION, RIGHT, WRONG, INK = "#3b6ea8", "#d1622b", "#e58a9b", "#a9c5e3", "#333333"
SHOWN = 8  # images in predictions.png
GUESSES = 5
QUERIES, NEIGHBOURS = 5, 6  # rows, and columns beside the query, in neighbours.png (figure 4, right)
LARGEST_POOL = 2000  # held-out images that neighbours are sought among
ROWS = 50  # images through the net at once


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, drawn by Agg, with no window and no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed; pip install 'alexnet_dist[figures]'") from None
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def smoothed(values: Floats, width: int) -> Floats:
    """Return the mean over `width` values around each one, fewer at both ends; (n,) to (n,)."""
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
            held_out = _column(evaluations, key)
            axes.plot(
                _column(evaluations, "epoch"), held_out, "o-", color=VALIDATION, markersize=4, label="held-out images"
            )
            last = f"{held_out[-1]:.3f}" if key == "loss" else f"{held_out[-1]:.1%}"
            at = (float(evaluations[-1]["epoch"]), float(held_out[-1]))
            axes.annotate(last, at, xytext=(8, 0), textcoords="offset points", va="center", color=VALIDATION)
        _mark_drops(axes, steps)
        _plain(axes, title)
        axes.set_xlabel("epoch", color=INK)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1.01 * float(epochs[-1]))
        if key == "top1_error":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _caption(figure, f"{name}: {int(steps[-1]['step']):,} steps, {int(steps[-1]['images']):,} images")
    return figure


def _column(lines: Sequence[dict[str, Any]], key: str) -> Floats:
    return np.array([line[key] for line in lines], dtype=np.float64)


def _mark_drops(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """Mark where the learning rate fell."""
    for before, after in itertools.pairwise(steps):
        if after["learning_rate"] < before["learning_rate"]:
            axes.axvline(before["epoch"], color=INK, linewidth=0.8, linestyle=":")
            note = f"rate {after['learning_rate']:g} "
            axes.text(
                before["epoch"], 0.98, note, transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=8
            )


def _caption(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=11, color=INK)


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)


def mosaic(kernels: Floats, columns: int) -> Floats:
    """Lay kernels (n, 3, k, k) out as one picture (rows * (k + 1) + 1, ..., 3) in 0 to 1, white between them.

    Each kernel has its own scale; zero is the middle grey.
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
    """Draw conv1's kernels (n, 3, k, k), tower 0's half above tower 1's, as figure 3 of the paper."""
    half = len(kernels) // 2
    columns = 16 if half >= 32 else 8
    pictures = [mosaic(part, columns) for part in (kernels[:half], kernels[half:])]
    height, width, _ = pictures[0].shape
    figure = new_figure(8.0, 2 * (8.0 * height / width + 0.3) + 0.4)
    for tower, (axes, picture) in enumerate(zip(figure.subplots(2, 1), pictures, strict=True)):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"tower {tower}", loc="left", fontsize=10, color=INK)
    _caption(figure, f"{name}: conv1, {len(kernels)} kernels of {kernels.shape[2]} x {kernels.shape[3]}")
    return figure


def draw_predictions(pictures: Sequence[npt.NDArray[np.uint8]], truth: Sequence[int], probabilities: Floats,
                     names: Sequence[str]) -> Figure:  # fmt: skip
    """Draw images (H, W, 3) with their top five guesses as bars, the right one in red (figure 4, left).

    truth: class of each; probabilities: (n, classes).
    """
    columns = 4
    rows = -(-len(pictures) // columns)
    figure = new_figure(10.0, 4.4 * rows)
    grid = figure.subplots(2 * rows, columns, height_ratios=[1.6, 1.0] * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, picture in enumerate(pictures):
        row, column = 2 * (number // columns), number % columns
        above, below = grid[row, column], grid[row + 1, column]
        above.imshow(picture)
        above.set_title(names[truth[number]], fontsize=11, color=INK)
        best = np.argsort(-probabilities[number])[:GUESSES]
        colours = [RIGHT if label == truth[number] else WRONG for label in best]
        below.barh(range(len(best)), probabilities[number][best], color=colours, height=0.85)
        for place, label in enumerate(best):
            below.text(0.02, place, names[label], va="center", fontsize=9, color=INK)
        below.set_xlim(0, 1)
        below.set_ylim(GUESSES - 0.5, -0.5)
    return figure


def draw_neighbours(pictures: Sequence[Sequence[npt.NDArray[np.uint8]]]) -> Figure:
    """Draw rows of images (H, W, 3): a query, then those nearest to it (figure 4, right)."""
    columns = len(pictures[0])
    figure = new_figure(1.4 * columns + 0.3, 1.4 * len(pictures) + 0.5)
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for axes, picture in zip(grid.flat, (one for line in pictures for one in line), strict=True):
        axes.imshow(picture)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes in grid[:, 0]:
        axes.spines[:].set(visible=True, color=RIGHT, linewidth=2.5)
    grid[0, 0].set_title("image", loc="left", fontsize=10, color=INK)
    title = grid[0, 1].set_title("nearest others by the last hidden layer", loc="left", fontsize=10, color=INK)
    title.set_in_layout(False)  # it runs on over the next columns
    return figure


def nearest(features: Floats, query: int, count: int) -> list[int]:
    """Return the rows of (n, units) nearest to one of them by Euclidean distance, itself left out, nearest first."""
    distances = np.square(features - features[query]).sum(1)
    distances[query] = np.inf
    return [int(row) for row in np.argsort(distances, kind="stable")[: min(count, len(features) - 1)]]


def _held_out(found: Run, split: Split) -> tuple[list[npt.NDArray[np.uint8]], list[int], Tensor, Tensor]:
    """Return held-out images in a fixed random order, their classes, probabilities and last hidden activations."""
    classes = [[one.name for one in manifest.classes] for manifest in (found.manifest, split.manifest)]
    if classes[0] != classes[1] or found.manifest.size != split.manifest.size:
        raise UserError(
            f"{split.root}: {len(classes[1])} classes, {split.manifest.size} pixels a side; {found.directory} was"
            f" trained on {len(classes[0])}, {found.manifest.size} pixels; give --data the shards packed with them"
        )
    ids = rng.permutation(split.images, 0, "figures")[:LARGEST_POOL].tolist()
    size, crop = found.manifest.size, found.config.data.crop
    offset = augment.centre_offset(size, crop)
    end = offset + crop
    try:
        pictures = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids]
    except (BadSample, ValueError) as problem:
        raise UserError(f"{split.root}: {problem}; pack it again") from None
    logits, features = [], []
    with torch.no_grad():
        for first in range(0, len(ids), ROWS):
            pixels = torch.from_numpy(np.stack(pictures[first : first + ROWS]))[:, offset:end, offset:end]
            inputs = augment.network_input(pixels, found.mean[:, offset:end, offset:end], torch.float32)
            logits.append(found.model(inputs))
            features.append(found.model.features(inputs))
    return (
        pictures,
        [split.label(sample) for sample in ids],
        torch.cat(logits).double().softmax(1),
        torch.cat(features).double(),
    )


def varied(truth: Sequence[int], count: int) -> list[int]:
    """Return places of `count` images: the first of each class in turn, then, where classes are few, the next ones."""
    seen: Counter[int] = Counter()
    turns = []
    for place, label in enumerate(truth):
        turns.append((seen[label], place))
        seen[label] += 1
    return [place for _, place in sorted(turns)[:count]]


def draw_all(found: Run, split: Split | None) -> dict[str, Figure]:
    """Return every picture that can be drawn of a run, by file name; without shards those that need none."""
    steps = run_directory.read_lines(found.directory / run_directory.METRICS)
    evaluations = run_directory.read_lines(found.directory / run_directory.EVALUATIONS)
    name = found.directory.resolve().name
    first_layer = next(iter(found.model.net.layers))
    kernels = named_weights(found.model)[f"{first_layer}.weight"].double().numpy()
    figures = {"conv1.png": draw_conv1(name, kernels)}
    if steps:
        figures["curves.png"] = draw_curves(name, steps, evaluations)
    if split is not None:
        pictures, truth, probabilities, features = _held_out(found, split)
        names = [described.words or described.name for described in found.manifest.classes]
        shown = varied(truth, SHOWN)
        figures["predictions.png"] = draw_predictions(
            [pictures[one] for one in shown], [truth[one] for one in shown], probabilities[shown].numpy(), names
        )
        if len(pictures) > 1:
            numbers = [[query, *nearest(features.numpy(), query, NEIGHBOURS)] for query in varied(truth, QUERIES)]
            figures["neighbours.png"] = draw_neighbours([[pictures[one] for one in line] for line in numbers])
    return figures


def main(arguments: list[str]) -> None:
    """Parse, load, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.figures", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures")
    parser.add_argument("--data", help="directory or URL of the shards; default: the run's data.root")
    parser.add_argument("--split", choices=SPLITS, default="val", help="split of the shown images (default: val)")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest whole one")
    parsed = parser.parse_args(arguments)
    new_figure(1.0, 1.0)  # fails here, before a long load, where matplotlib is missing
    found = run_directory.load_run(parsed.run, parsed.step)
    data = found.config.data
    root = locate(parsed.data or data.root, data.cache, data.cache_bytes)
    there = parsed.data is not None or not isinstance(root, Path) or manifest_path(root, parsed.split).exists()
    try:
        parsed.out.mkdir(parents=True, exist_ok=True)
        for name, figure in draw_all(found, Split.open(root, parsed.split) if there else None).items():
            figure.savefig(parsed.out / name, facecolor="white")
            print(parsed.out / name)
    except OSError as problem:
        raise UserError(f"{parsed.out}: cannot be written: {problem.strerror}; choose another folder") from None
    if not there:
        print(f"no predictions and neighbours: no shards of {parsed.split} in {root}; give them by --data")


if __name__ == "__main__":
    sys.exit(run_command(main))
