"""The pictures of a run, by file name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_dist.data.reader import Split
from alexnet_dist.figures.drawing import draw_conv1, draw_curves, draw_neighbours, draw_predictions
from alexnet_dist.figures.held_out import held_out_images, nearest, varied
from alexnet_dist.runs.directory import EVALUATIONS, METRICS, read_lines
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.runs.weights import named_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREDICTIONS = 8  # images in predictions.png
QUERIES, NEIGHBOURS = 5, 6  # rows, and columns beside the query, in neighbours.png (figure 4, right)


def draw_all(run: LoadedRun, split: Split | None) -> dict[str, Figure]:
    """Return the pictures of a run by file name; without `split`, only those that need no held-out images."""
    steps = read_lines(run.directory / METRICS)
    name = run.directory.resolve().name
    first_layer = next(iter(run.model.net.layers))
    kernels = named_weights(run.model)[f"{first_layer}.weight"].double().numpy()
    figures = {"conv1.png": draw_conv1(name, kernels)}
    if steps:
        figures["curves.png"] = draw_curves(name, steps, read_lines(run.directory / EVALUATIONS))
    return figures if split is None else figures | _draw_held_out(run, split)


def _draw_held_out(run: LoadedRun, split: Split) -> dict[str, Figure]:
    images = held_out_images(run, split)
    names = [class_.words or class_.name for class_ in run.manifest.classes]
    chosen = varied(images.truth, PREDICTIONS)
    pictures, truth = [images.pictures[index] for index in chosen], [images.truth[index] for index in chosen]
    figures = {"predictions.png": draw_predictions(pictures, truth, images.probabilities[chosen], names)}
    if len(images.pictures) > 1:
        rows = [[query, *nearest(images.features, query, NEIGHBOURS)] for query in varied(images.truth, QUERIES)]
        figures["neighbours.png"] = draw_neighbours([[images.pictures[index] for index in row] for row in rows])
    return figures
